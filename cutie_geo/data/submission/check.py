"""Is everything there that a server wants, and nothing else? As far as that shows without ground truth."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from PIL import Image

from cutie_geo.data.index import VideoRecord, frame_files, frame_stems, with_first_appearances
from cutie_geo.data.masks import object_ids, read_labels
from cutie_geo.data.submission.servers import VISOR, Server

VOID = 255
"""Where a given mask says nothing: no object, and no server takes it for one."""
MODES = ("P", "L")
TABLES = frozenset({".csv", ".json"})
"""Beside the folders of results: scores and descriptions of a run."""


def wanted_frames(record: VideoRecord) -> list[str]:
    """Stems of the frames that results are wanted for, in order. Raises ValueError where two files share one."""
    return frame_stems(record.source) if record.saved is None else sorted(record.saved)


def result_files(server: Server, record: VideoRecord, results: Path) -> dict[str, Path]:
    """The masks to send by stem, in order: those wanted, less a reference that was left out and may be."""
    files = {stem: results / record.name / f"{stem}.png" for stem in wanted_frames(record)}
    return {stem: path for stem, path in files.items() if stem not in _optional(server, record) or path.is_file()}


def _optional(server: Server, record: VideoRecord) -> set[str]:
    return set(list(record.masks)[:1]) if server.reference_optional else set()


# ---------------------------------------------------------------------------------------------------------- a video
def video_problems(server: Server, record: VideoRecord, results: Path) -> list[str]:
    """What is wrong with the masks of a video, each thing on one line with the file's name."""
    folder = results / record.name
    if record.problem is not None:
        return [f"{record.name}: {record.problem}"]
    if not folder.is_dir():
        return [f"{folder}: no such folder, wanted the masks of this video"]
    try:
        files = result_files(server, record, results)
        size = server.size or _frame_size(record, next(iter(files)))
        ids = None if server.name == VISOR else given_ids(record)  # there a mapping of names decides
    except ValueError as error:
        return [str(error)]
    wanted = {folder / f"{stem}.png" for stem in wanted_frames(record)}
    strays = [path for path in _visible(folder) if path not in wanted]
    problems = [f"{path}: not wanted, the benchmark has no such frame" for path in strays]
    return problems + [text for path in files.values() for text in _mask_problems(path, size, ids)]


def _mask_problems(path: Path, size: tuple[int, int], ids: Collection[int] | None) -> Iterator[str]:
    """What is wrong with one mask, if anything is."""
    if not path.is_file():
        yield f"{path}: missing"
        return
    try:
        labels = read_labels(path, long_ids=True).labels
    except ValueError as error:
        yield str(error)
        return
    with Image.open(path) as image:
        mode, stored = image.mode, str(image.tile[0][3])
    if mode not in MODES or (mode == "L" and stored != "L"):  # Pillow alone knows greys of 2 and 4 bits as ids
        yield f"{path}: mask is {stored or mode}, wanted an indexed PNG (P), or a grey one of 8 bits (L)"
    if labels.shape != size:
        yield f"{path}: mask has {labels.shape[1]}x{labels.shape[0]} pixels, wanted {size[1]}x{size[0]}"
    if ids is not None and (strange := [str(i) for i in object_ids(labels) if i not in ids]):
        yield f"{path}: ids {', '.join(strange[:5])}, wanted those given: {', '.join(map(str, sorted(ids)))}"


def given_ids(record: VideoRecord) -> frozenset[int]:
    """The ids of the objects that a video's masks give. Raises ValueError naming the file that can't be read."""
    record = with_first_appearances(record)
    ids: set[int] = set()
    for stem, path in record.masks.items():
        found = set(object_ids(read_labels(path, record.long_ids).labels))
        ids |= found if record.keep_ids is None else found & record.keep_ids.get(stem, frozenset())
    return frozenset(ids - {VOID})


def _frame_size(record: VideoRecord, stem: str) -> tuple[int, int]:
    """Height and width of a video's frames, which are all of one size. Raises ValueError if that can't be read."""
    path = frame_files(record.source).get(stem)
    if path is None:
        raise ValueError(f"{record.source}: no frame {stem}, which the benchmark lists")
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise ValueError(f"{path}: can't be read as an image: {error}") from None


# ------------------------------------------------------------------------------------------------------- the folder
def folder_problems(
    server: Server, found: Iterable[VideoRecord], results: Path, known: Collection[str] = ()
) -> list[str]:
    """What lies in the folder of results that the server doesn't want; `known` are names that may be there.

    Hidden files may, and tables. Raises ValueError if there is no such folder.
    """
    if not results.is_dir():
        raise ValueError(f"{results}: no such folder, wanted results of cutie-geo infer")
    names = {record.name for record in found}
    allowed = names | set(known)
    strays = [path for path in _visible(results) if path.name not in allowed and not _is_table(path)]
    problems = [f"{path}: not wanted, the benchmark has no such video" for path in strays]
    if server.alone_refused and len(names) == 1:
        problems.append(f"{results}: one video only, but the server refuses a zip that holds a single folder")
    return problems


def _is_table(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in TABLES


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
