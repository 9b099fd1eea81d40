"""Validation of results against a server's rules, without ground truth."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from cutie_geo.data.images import open_image
from cutie_geo.data.index import VideoRecord, frame_files, frame_stems, with_first_appearances
from cutie_geo.data.listing import natural_order
from cutie_geo.data.masks import object_ids, read_labels
from cutie_geo.data.submission.servers import VISOR, Server
from cutie_geo.data.video import upright_size
from cutie_geo.structures import VOID

MODES = ("P", "L")
TABLES = frozenset({".csv", ".json"})
"""Suffixes of files that may be beside the results: scores and descriptions of a run."""


def wanted_frames(record: VideoRecord) -> list[str]:
    """Return the stems of the frames with expected results, in order. Raises ValueError if two files share one."""
    return frame_stems(record.source) if record.saved is None else natural_order(record.saved)


def result_files(server: Server, record: VideoRecord, results: Path) -> dict[str, Path]:
    """Return the masks to send by stem, in order: the expected ones, without an optional reference that is missing."""
    files = {stem: results / record.name / f"{stem}.png" for stem in wanted_frames(record)}
    return {stem: path for stem, path in files.items() if stem not in _optional(server, record) or path.is_file()}


def _optional(server: Server, record: VideoRecord) -> set[str]:
    return set(list(record.masks)[:1]) if server.reference_optional else set()


# ---------------------------------------------------------------------------------------------------------- a video
def video_problems(server: Server, record: VideoRecord, results: Path) -> list[str]:
    """Return the faults of a video's masks, one line each with the file's name."""
    folder = results / record.name
    if record.problem is not None:
        return [f"{record.name}: {record.problem}"]
    if not folder.is_dir():
        return [f"{folder}: no such folder, expected the masks of this video"]
    try:
        files = result_files(server, record, results)
        size = server.size or _frame_size(record, next(iter(files)))
        ids = None if server.name == VISOR else given_ids(record)  # VISOR uses a mapping of names instead
    except ValueError as error:
        return [str(error)]
    expected = {folder / f"{stem}.png" for stem in wanted_frames(record)}
    strays = [path for path in _visible(folder) if path not in expected]
    problems = [f"{path}: not expected, the benchmark has no such frame" for path in strays]
    return problems + [text for path in files.values() for text in _mask_problems(path, size, ids)]


def _mask_problems(path: Path, size: tuple[int, int], ids: Collection[int] | None) -> Iterator[str]:
    """Return the faults of one mask."""
    if not path.is_file():
        yield f"{path}: missing"
        return
    try:
        labels = read_labels(path, long_ids=True).labels
    except ValueError as error:
        yield str(error)
        return
    with open_image(path) as image:
        mode, stored = image.mode, str(image.tile[0][3])
    if mode not in MODES or (mode == "L" and stored != "L"):  # only Pillow reads 2-bit and 4-bit greys as ids
        yield f"{path}: mask is {stored or mode}, expected an indexed PNG (P), or a grey one of 8 bits (L)"
    if labels.shape != size:
        yield f"{path}: mask is {labels.shape[1]}x{labels.shape[0]} pixels, expected {size[1]}x{size[0]}"
    if ids is not None and (strange := [str(i) for i in object_ids(labels) if i not in ids]):
        yield f"{path}: ids {', '.join(strange[:5])}, expected prompted ids: {', '.join(map(str, sorted(ids)))}"


def given_ids(record: VideoRecord) -> frozenset[int]:
    """Return the object ids in a video's input masks. Raises ValueError with the name of an unreadable file."""
    record = with_first_appearances(record)
    ids: set[int] = set()
    for stem, path in record.masks.items():
        found = set(object_ids(read_labels(path, record.long_ids).labels))
        ids |= found if record.keep_ids is None else found & record.keep_ids.get(stem, frozenset())
    return frozenset(ids - {VOID})


def _frame_size(record: VideoRecord, stem: str) -> tuple[int, int]:
    """Return height and width of a video's frames, which are constant. Raises ValueError if unreadable."""
    path = frame_files(record.source).get(stem)
    if path is None:
        raise ValueError(f"{record.source}: no frame {stem}, which the benchmark lists")
    try:
        with open_image(path) as image:
            return upright_size(image)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as an image: {error}") from None


# ------------------------------------------------------------------------------------------------------- the folder
def folder_problems(
    server: Server, found: Iterable[VideoRecord], results: Path, known: Collection[str] = ()
) -> list[str]:
    """Return the entries of the folder of results that the server does not expect, except `known` names.

    Hidden files and tables are allowed.

    Raises:
        ValueError: if the folder is missing.
    """
    if not results.is_dir():
        raise ValueError(f"{results}: no such folder, expected results of cutie-geo infer")
    names = {record.name for record in found}
    allowed = names | set(known)
    strays = [path for path in _visible(results) if path.name not in allowed and not _is_table(path)]
    problems = [f"{path}: not expected, the benchmark has no such video" for path in strays]
    if server.alone_refused and len(names) == 1:
        problems.append(f"{results}: got one video, expected several: the server refuses a zip with a single folder")
    return problems


def _is_table(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in TABLES


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
