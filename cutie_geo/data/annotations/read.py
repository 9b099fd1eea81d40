"""Reading of other programs' annotation files as input masks."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from cutie_geo.config import require
from cutie_geo.data.annotations.coco import read_coco
from cutie_geo.data.annotations.cvat import read_cvat
from cutie_geo.data.annotations.session import is_session, read_session
from cutie_geo.data.annotations.shapes import Annotations, FrameFinder
from cutie_geo.data.annotations.yolo import labels_folder, read_yolo
from cutie_geo.data.io_threads import write_json
from cutie_geo.data.listing import MASK_SUFFIXES, files_by_stem
from cutie_geo.data.masks import MAX_PALETTE_ID, write_labels
from cutie_geo.data.session_file import FILE
from cutie_geo.data.video import FrameFolder, VideoFile

NAMES_FILE = "names.json"
"""File with the names of the objects by id, beside the masks of `write_masks`."""


class WrittenMasks(NamedTuple):
    """Masks that `write_masks` has written."""

    folder: Path
    long_ids: bool
    """The masks are RGB, for ids above 255."""


def is_annotations(path: Path, video: str) -> bool:
    """Return True for a JSON or XML file, the folder of a session, and a folder of YOLO labels without masks."""
    if path.is_dir():
        if is_session(path):
            return True
        folder = labels_folder(path, video)
        return bool(files_by_stem(folder, frozenset({".txt"}))) and not files_by_stem(folder, MASK_SUFFIXES)
    return path.suffix.lower() in (".json", ".xml")


def read_annotations(path: str | Path, source: FrameFolder | VideoFile) -> Annotations:
    """Return the masks of a video from COCO's .json, CVAT's .xml, the folder of a session, or a folder of YOLO labels.

    No name in the file is used as a path: each is looked up among the frames of `source`.

    Raises:
        ValueError: with the file and the place in it, for invalid content and for frames that the video lacks.
    """
    path, finder = Path(path), FrameFinder(source)
    require(
        path.exists(), f"{path}: no such file or folder, expected COCO's JSON, CVAT's XML, a session or YOLO's labels"
    )
    if is_session(path):
        return read_session(path, source)
    if path.is_dir():
        _, image = next(iter(source))
        return read_yolo(path, finder, source.name, (image.shape[0], image.shape[1]))
    if path.suffix.lower() == ".xml":
        return read_cvat(path, finder)
    require(path.suffix.lower() == ".json", f"{path}: got a {path.suffix} file, expected COCO's .json or CVAT's .xml")
    return read_coco(path, finder, source.name)


def write_masks(path: str | Path, source: FrameFolder | VideoFile, root: str | Path) -> WrittenMasks:
    """Write the masks of `read_annotations` as PNG files named after the frames.

    The folder inside `root` depends on the content of the annotations; its `names.json` has the objects' names.

    Raises:
        ValueError: as `read_annotations`.
        OSError: with the name of a file that cannot be written.
    """
    annotations = read_annotations(path, source)
    long_ids = max(annotations.ids) > MAX_PALETTE_ID
    folder = Path(root) / _digest(Path(path), source)
    for frame in annotations.shapes:
        write_labels(folder / f"{frame}.png", annotations.mask(frame).labels, long_ids=long_ids)
    write_json(folder / NAMES_FILE, {str(object_id): name for object_id, name in sorted(annotations.names.items())})
    return WrittenMasks(folder, long_ids)


def _digest(path: Path, source: FrameFolder | VideoFile) -> str:
    """Return a digest of the annotations' content and the video's name."""
    digest = hashlib.sha256(source.name.encode(errors="surrogateescape"))
    for file in annotation_files(path):
        digest.update(file.name.encode(errors="surrogateescape") + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def annotation_files(path: Path) -> list[Path]:
    """Return the files on which the masks of a file or folder of annotations depend."""
    if path.is_dir() and is_session(path):
        files = [path / FILE, path / f"{FILE}-wal"]  # the second one exists while the session is open
    else:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file for file in files if file.is_file()]
