"""Conversion of EPIC-KITCHENS VISOR's sparse annotations to the layout of DAVIS, equal to the authors' converter.

Objects are entity names, numbered by name within a subsequence. Masks are polygons, painted in list order. Frames and
subsequences that the authors' converter drops are dropped and reported.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from cutie_geo.config import WHOLE, Shard
from cutie_geo.data.convert.frames import FrameStore, find_frames, find_videos
from cutie_geo.data.convert.ledger import Ledger, clear, file_digest, fingerprint, with_other_shards
from cutie_geo.data.convert.polygons import Polygon, fill_polygons, parse_polygons, shrink_labels
from cutie_geo.data.convert.records import Node, is_plain_name, matches, read_json, require_new
from cutie_geo.data.io_threads import map_ahead, write_bytes, write_json
from cutie_geo.data.masks import MAX_PALETTE_ID, voc_palette, write_labels

CANVAS = (1080, 1920)
"""Height and width of the image in which polygons are defined."""
SIZE = (480, 854)
"""Height and width of the benchmark's frames."""
TREE = "VISOR_2022"
LEAST = {"train": 3, "val": 2, "test": 1}
"""Minimum number of frames of a subsequence, by split."""
UNSEEN = frozenset(
    ["P07_101", "P07_103", "P07_110", "P09_02", "P09_07", "P09_103", "P09_104", "P09_106", "P21_01", "P29_04"]
)
"""Validation videos of kitchens that are not in the training set."""
MAX_PIXELS = 2**26
"""Maximum number of pixels of a frame."""
ASPECT_TOLERANCE = 0.01

NO_FIRST_OBJECT = "no object in the first frame"
TOO_SHORT = "fewer than {} frames with masks"
NOTHING_VISIBLE = "no object of the subsequence is visible"

_VERSION = 1
"""Incremented when the same input gives other files, so that older results are converted again."""


class Entity(NamedTuple):
    """One annotation of a frame."""

    name: str
    """Name of the object; its identity within the subsequence."""
    polygons: list[Polygon]
    """Empty if the entity has no mask."""


class SparseFrame(NamedTuple):
    """One annotated frame."""

    sort_key: str
    name: str
    """Name of the image file, such as `P01_107_frame_0000000800.jpg`."""
    subsequence: str
    entities: list[Entity]
    where: str
    """Place of the record in its file, for messages."""

    @property
    def stem(self) -> str:
        """Name of the frame without the suffix."""
        return Path(self.name).stem


@dataclass(frozen=True)
class VisorOptions:
    """Settings of a VISOR conversion."""

    frames: Path
    """Folder of the images (see `find_frames`)."""
    output: Path
    """Folder in which VISOR_2022 is created."""
    split: str
    annotations: Path | None = None
    """Folder of `<video>.json`, or of a folder `<split>` with these; optional for test."""
    size: tuple[int, int] = SIZE
    """Height and width."""
    official_quirks: bool = False
    """Keep subsequences whose first frame shows no object, with meaningless ids, as the authors' tool does."""
    workers: int = 2
    """Number of videos converted in parallel."""
    shard: Shard = WHOLE
    """Part of the videos to convert."""

    def __post_init__(self) -> None:
        if self.split not in LEAST:
            raise ValueError(f"split: got {self.split!r}, expected one of {', '.join(LEAST)}")
        if not all(16 <= side <= 4096 for side in self.size):
            raise ValueError(f"size: got (H, W) = {self.size}, expected sides from 16 to 4096")
        if self.workers < 1:
            raise ValueError(f"workers: got {self.workers}, expected 1 or more")
        if self.annotations is None and self.split != "test":
            raise ValueError(f"annotations: got none, expected those of {self.split}")

    @property
    def tree(self) -> Path:
        """Root of the converted tree."""
        return self.output / TREE

    @property
    def level(self) -> str:
        """Folder between `JPEGImages` or `Annotations` and the subsequences: the height, such as 480p."""
        return f"{self.size[0]}p"


class VideoFiles(NamedTuple):
    """A video to convert."""

    name: str
    annotations: Path | None


# ---------------------------------------------------------------------------------------------------------- reading
def read_annotations(path: Path) -> list[SparseFrame]:
    """Read the frames of one `<video>.json` in the order of their image paths.

    Raises:
        ValueError: with file and record, for anything but VISOR's sparse annotations.
    """
    if "interpolation" in path.name:
        raise ValueError(f"{path}: dense interpolations, drawn for another size, expected sparse annotations")
    video = path.stem
    seen: set[str] = set()
    frames = []
    for record in read_json(path).key("video_annotations").elements():
        frame = _frame(record, video)
        require_new(frame.stem, seen, f"{record.where}.image.name")
        frames.append(frame)
    return sorted(frames, key=lambda frame: frame.sort_key)


def _frame(record: Node, video: str) -> SparseFrame:
    image = record.key("image")
    matches(image.key("video"), re.escape(video), f"{video!r}, as the file is named")
    subsequence = matches(image.key("subsequence"), re.escape(video) + r"_seq_\d{1,10}", f"'{video}_seq_<number>'")
    name = image.key("name").plain_name()
    if Path(name).suffix.lower() not in (".jpg", ".jpeg"):
        image.key("name").fail("the name of a JPEG")
    seen: set[str] = set()
    entities = []
    for annotation in record.key("annotations").elements():
        if (own_id := annotation.optional("id")) is not None:
            if own_id.text() in seen:
                own_id.fail("a different id for each annotation of a frame")
            seen.add(own_id.text())
        entities.append(Entity(annotation.key("name").text(), parse_polygons(annotation.key("segments"))))
    return SparseFrame(image.key("image_path").text(), name, subsequence, entities, record.where)


# ----------------------------------------------------------------------------------------------------------- objects
def number_objects(frames: Sequence[SparseFrame], split: str) -> dict[str, dict[str, int]]:
    """Return the ids of the named objects of each subsequence: 1 to K in the order of the names' code points.

    In train, these are all objects with a polygon. In other splits, they are the objects in the first frame; a
    subsequence that is interrupted by another is numbered again, and the last numbering is used.
    """
    names: dict[str, set[str]] = {}
    before = None
    for frame in frames:
        shown = {entity.name for entity in frame.entities if entity.polygons}
        if split == "train":
            names.setdefault(frame.subsequence, set()).update(shown)
        elif frame.subsequence != before:
            names[frame.subsequence] = shown
        before = frame.subsequence
    return {name: {each: i for i, each in enumerate(sorted(found), 1)} for name, found in names.items()}


def paint_frame(frame: SparseFrame, ids: Mapping[str, int] | None) -> UInt8[np.ndarray, "1080 1920"] | None:
    """Return the frame's labels on the full canvas, or None if no pixel is painted; later entities cover earlier ones.

    Entities without an id are skipped. Without `ids`, an entity's id is its position in the frame's list, from 1.
    """
    canvas = np.zeros(CANVAS, np.uint8)
    for place, entity in enumerate(frame.entities, 1):
        label = place if ids is None else ids.get(entity.name, 0)
        if label > MAX_PALETTE_ID:
            raise ValueError(f"{frame.where}: got object {label}, {entity.name!r}, expected at most {MAX_PALETTE_ID}")
        if label:
            fill_polygons(canvas, entity.polygons, label)
    return canvas if canvas.any() else None


@lru_cache
def visor_palette() -> bytes:
    """Return the 256 colours of DAVIS and VISOR: VOC's first 22 with 191 for 192, then greys."""
    first = np.frombuffer(voc_palette(), np.uint8)[:66].copy()
    first[first == 192] = 191
    return first.tobytes() + bytes(np.repeat(np.arange(22, 256, dtype=np.uint8), 3))


def shrink_image(data: bytes, size: tuple[int, int], where: object) -> bytes:
    """Resize a JPEG to `size` (height, width), bilinear, and encode it in OpenCV's default quality.

    Raises:
        ValueError: with its name, for a damaged or too large image, or one with another aspect ratio than the canvas.
    """
    if b"\xff\xd9" not in data[-4096:]:  # OpenCV 4 fills missing data with grey
        raise ValueError(f"{where}: cannot be read as an image: not a JPEG, or cut off")
    height, width = _jpeg_size(data)
    if not 0 < height * width <= MAX_PIXELS or abs(width / height * CANVAS[0] / CANVAS[1] - 1) > ASPECT_TOLERANCE:
        raise ValueError(f"{where}: frame is (H, W) = {(height, width)}, expected {CANVAS} or the same shape")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(f"{where}: cannot be read as an image: {error}") from error
    if image is None:
        raise ValueError(f"{where}: cannot be read as an image")
    small = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return cv2.imencode(".jpg", small)[1].tobytes()


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return height and width from a JPEG header; (0, 0) if there is none."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    return 0, 0


# --------------------------------------------------------------------------------------------------------- one video
def convert_video(video: VideoFiles, options: VisorOptions) -> dict[str, Any]:
    """Convert one video unless it is finished; return the result as JSON.

    Its fields are `mapping` (subsequence -> id -> name), `sequences` (subsequence -> number of frames),
    `dropped_sequences`, `dropped_frames`, and `written`, the number of new frames.
    """
    if (before := finished_video(video, options)) is not None:
        return before
    with find_frames(options.frames, options.split, video.name) as store:
        frames = read_annotations(video.annotations) if video.annotations else _unannotated(video.name, store)
        _require_images(frames, store)
        result, files = _convert_frames(frames, store, options)
    ledger, mark = _ledger(options), _fingerprint(video, options)
    ledger.remove_stale(video.name, files)
    ledger.finish(video.name, mark, files, result)
    return result | {"written": sum(result["sequences"].values())}


def finished_video(video: VideoFiles, options: VisorOptions) -> dict[str, Any] | None:
    """Return the result of a video that an earlier call or another shard finished, else None."""
    before = _ledger(options).finished(video.name, _fingerprint(video, options))
    return None if before is None else before | {"written": 0}


def _ledger(options: VisorOptions) -> Ledger:
    return Ledger(options.tree, options.tree / ".convert" / options.level / options.split)


def _fingerprint(video: VideoFiles, options: VisorOptions) -> str:
    annotations = file_digest(video.annotations) if video.annotations else ""
    return fingerprint(_VERSION, options.split, *options.size, options.official_quirks, annotations)


def _unannotated(video: str, store: FrameStore) -> list[SparseFrame]:
    """Return all frames of a video without annotations as one sequence."""
    return [
        SparseFrame(name, name, video, [], str(store.path / name)) for name in store.images() if is_plain_name(name)
    ]


def _require_images(frames: Iterable[SparseFrame], store: FrameStore) -> None:
    missing = [frame for frame in frames if frame.name not in store]
    if missing:
        more = f", as of {len(missing) - 1} more frames" if len(missing) > 1 else ""
        raise ValueError(f"{missing[0].where}: no image {missing[0].name} in {store.path}{more}")


def _convert_frames(
    frames: Sequence[SparseFrame], store: FrameStore, options: VisorOptions
) -> tuple[dict[str, Any], list[str]]:
    """Write the subsequences of a video; return the result and all its files."""
    ids = number_objects(frames, options.split)
    result: dict[str, Any] = {"mapping": _mapping(ids, options), "sequences": {}}
    result |= {"dropped_sequences": [], "dropped_frames": []}
    files: list[str] = []
    members: dict[str, list[SparseFrame]] = {name: [] for name in ids}
    for frame in frames:
        members[frame.subsequence].append(frame)
    for name, objects in ids.items():
        own = members[name]
        dropped = {"sequence": name, "frames": len(own)}
        if not objects and options.split == "val" and not options.official_quirks:
            own, dropped["reason"] = [], NO_FIRST_OBJECT
        written, lost = _convert_sequence(name, own, objects, store, options)
        files += written
        result["dropped_frames"] += [{"frame": f"{name}/{stem}", "reason": NOTHING_VISIBLE} for stem in lost]
        if written:
            result["sequences"][name] = len(own) - len(lost)
        else:
            result["dropped_sequences"].append({"reason": TOO_SHORT.format(LEAST[options.split])} | dropped)
    return result, files


def _mapping(ids: Mapping[str, Mapping[str, int]], options: VisorOptions) -> dict[str, dict[str, str]]:
    """Return subsequence -> id -> name."""
    mapping: dict[str, dict[str, str]] = {}
    inherited: dict[str, str] = {}
    for name, objects in ids.items():
        own = {str(i): each for each, i in objects.items()}
        if options.official_quirks and options.split == "train":  # without masks: the ids of the previous one
            own = inherited = own or inherited
        mapping[name] = own
    return mapping


def _convert_sequence(
    name: str, frames: Sequence[SparseFrame], objects: Mapping[str, int], store: FrameStore, options: VisorOptions
) -> tuple[list[str], list[str]]:
    """Write one subsequence.

    Returns:
        Its files, empty if it is dropped, and the stems of its dropped frames.
    """
    written: list[str] = []
    lost: list[str] = []
    waiting: list[tuple[SparseFrame, np.ndarray | None]] = []
    for frame, labels in _painted(frames, objects, options):
        if labels is None and options.split != "test":
            lost.append(frame.stem)
            continue
        waiting.append((frame, labels))
        if len(written) or len(waiting) >= LEAST[options.split]:  # the subsequence is long enough to be kept
            for each in waiting:
                written += _write_frame(name, *each, store, options)
            waiting.clear()
    for kind in ("JPEGImages", "Annotations"):
        folder = options.tree / kind / options.level / name
        clear(folder, [Path(file).name for file in written if file.startswith(kind)])
    return written, lost


def _painted(
    frames: Iterable[SparseFrame], objects: Mapping[str, int], options: VisorOptions
) -> Iterator[tuple[SparseFrame, np.ndarray | None]]:
    """Yield each frame with its labels at the final size; None if nothing is visible at full size."""
    by_place = not objects and options.official_quirks and options.split == "val"
    for frame in frames:
        labels = paint_frame(frame, None if by_place else objects)
        yield frame, None if labels is None else shrink_labels(labels, options.size)


def _write_frame(
    sequence: str, frame: SparseFrame, labels: np.ndarray | None, store: FrameStore, options: VisorOptions
) -> list[str]:
    """Write the image of a frame and, if there are labels, its mask; return their paths within the tree."""
    files = [f"JPEGImages/{options.level}/{sequence}/{frame.name}"]
    image = shrink_image(store.read(frame.name), options.size, store.path / frame.name)
    write_bytes(options.tree / files[0], image)
    if labels is not None:
        files.append(f"Annotations/{options.level}/{sequence}/{frame.stem}.png")
        write_labels(options.tree / files[1], labels, visor_palette())
    return files


# -------------------------------------------------------------------------------------------------------- all videos
def convert_visor(
    options: VisorOptions, watch: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, count: items
) -> dict[str, Any]:
    """Convert a split into `output/VISOR_2022`, several videos in parallel; write and return the report.

    An interrupted run resumes, and ends with the same files. Of several shards, the last to finish writes the lists and
    the report.

    Args:
        watch: wraps the iterable of results and their number, for a progress bar.

    Raises:
        ValueError: with file and record, for invalid annotations or images.
    """
    videos = find_annotated(options)
    _require_no_other_split(videos, options)
    own = options.shard.of(videos)
    results = map_ahead(partial(convert_video, options=options), own, options.workers, 2 * options.workers)
    done = list(watch(results, len(own)))
    found, waiting = with_other_shards(done, videos, options.shard, partial(finished_video, options=options))
    return _write_lists(found, options, waiting)


def find_annotated(options: VisorOptions) -> list[VideoFiles]:
    """Return the videos to convert, by name. Raises ValueError if there are none."""
    if options.annotations is None:
        names = find_videos(options.frames, options.split)
        return [VideoFiles(name, None) for name in names if is_plain_name(name)]
    folder = options.annotations / options.split
    folder = folder if folder.is_dir() else options.annotations
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() == ".json" and path.name[0] != ".")
    if not files:
        raise ValueError(f"{folder}: no annotations, expected files <video>.json")
    for file in files:
        if not is_plain_name(file.stem):
            raise ValueError(f"{file}: expected <video>.json")
    return [VideoFiles(file.stem, file) for file in files]


def _require_no_other_split(videos: Iterable[VideoFiles], options: VisorOptions) -> None:
    """Raise ValueError if a video was converted in another split, which numbers its objects differently."""
    for split in LEAST.keys() - {options.split}:
        folder = options.tree / ".convert" / options.level / split
        for video in videos:
            if (folder / f"{video.name}.json").exists():
                raise ValueError(
                    f"{options.tree}: {video.name} is there already as {split}, expected another --output for it"
                )


def _write_lists(results: Sequence[Mapping[str, Any]], options: VisorOptions, waiting: int) -> dict[str, Any]:
    """Write the lists of the split, the names of the objects and the report; return the report.

    Nothing is written while videos of other shards are waiting.
    """
    sequences: dict[str, int] = {}
    mapping: dict[str, dict[str, str]] = {}
    for result in results:
        sequences |= result["sequences"]
        mapping |= result["mapping"]
    lists = {options.split: sorted(sequences)}
    if options.split == "val":
        lists["val_unseen"] = [name for name in lists["val"] if name.partition("_seq_")[0] in UNSEEN]
    report: dict[str, Any] = {
        "dataset": "visor",
        "split": options.split,
        "size": f"{options.size[1]}x{options.size[0]}",
        "official_quirks": options.official_quirks,
        "videos": len(results),
        "sequences": len(sequences),
        "frames": sum(sequences.values()),
        "dropped_sequences": [each for result in results for each in result["dropped_sequences"]],
        "dropped_frames": [each for result in results for each in result["dropped_frames"]],
    }
    if not waiting:
        for name, listed in lists.items():
            write_bytes(options.tree / "ImageSets" / "2022" / f"{name}.txt", "\n".join(listed).encode())
        write_json(options.tree / f"{options.split}_data_mapping.json", mapping)
        write_json(options.tree / f"{options.split}_report.json", report)
    report |= {"waiting": waiting} if waiting else {}
    return report | {"written": sum(result["written"] for result in results), "folder": str(options.tree)}
