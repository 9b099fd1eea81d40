"""Finished masks in any of the formats, by name."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cutie_geo.config import require
from cutie_geo.data.listing import real_path
from cutie_geo.export.coco import write_coco, write_youtubevis
from cutie_geo.export.cvat import write_cvat
from cutie_geo.export.images import write_binary, write_davis
from cutie_geo.export.labelstudio import write_labelstudio
from cutie_geo.export.options import ExportOptions
from cutie_geo.export.overlays import write_overlays, write_rgba
from cutie_geo.export.runs import FinishedVideo, open_run
from cutie_geo.export.tables import write_csv
from cutie_geo.export.yolo import write_yolo

Write = Callable[[Sequence[FinishedVideo], Path, ExportOptions], list[Path]]

FORMATS: dict[str, Write] = {
    "davis": write_davis,
    "binary": write_binary,
    "coco": write_coco,
    "youtubevis": write_youtubevis,
    "yolo": write_yolo,
    "cvat": write_cvat,
    "labelstudio": write_labelstudio,
    "rgba": write_rgba,
    "overlay": write_overlays,
    "csv": write_csv,
}
"""Writers by format: each writes the masks of videos into a folder and returns the files."""


def export_masks(
    run: str | Path,
    format: str,
    output: str | Path,
    options: ExportOptions | None = None,
    video: str | Path | None = None,
) -> list[Path]:
    """Write the masks of a finished run in another format; nothing is segmented.

    >>> import tempfile
    >>> from cutie_geo.data.example import example_masks
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in export_masks(example_masks(), "csv", folder)]
    ['boxes.csv']

    Args:
        run: a folder of results, its `Annotations`, or any folder of `<video>/<frame>.png`.
        format: one of `FORMATS`.
        output: the folder to write into, created if missing.
        options: what is exported, and how.
        video: the frames, for formats that show them: a video file, a folder of frames, or a folder of such.

    Returns:
        The files that were written.

    Raises:
        ValueError: for an unknown format, a run without masks, unknown objects, and for masks that the format cannot
            represent.
        OSError: with the name of a file that cannot be written.
    """
    options = options or ExportOptions()
    require(format in FORMATS, f"format: got {format}, expected one of {', '.join(FORMATS)}")
    videos = open_run(run, video)
    require_apart(videos, Path(output))
    known = {object_id for finished in videos for object_id in finished.objects}
    require(bool(known), f"{run}: the masks show no object")
    missing = [object_id for object_id in options.objects if object_id not in known]
    require(not missing, f"--objects: no object {missing[:1]} in {run}; it has {', '.join(map(str, sorted(known)))}")
    return FORMATS[format](videos, Path(output), options)


def require_apart(videos: Sequence[FinishedVideo], output: Path) -> None:
    """Raise ValueError if an export would be written among the masks or frames that it is made from."""
    place = real_path(output)
    for video in videos:
        folders = {real_path(path).parent for path in video.masks.values()}
        source = None if video.source is None else real_path(video.source.path)
        folders |= set() if source is None or not source.is_dir() else {source}
        for folder in folders:
            inside = place.is_relative_to(folder) or (place / video.name).is_relative_to(folder)
            require(not inside, f"--output: got {output}, which holds the input; expected another folder")
        clash = source is not None and source.parent == place and source.stem == video.name
        require(not clash, f"--output: got {output}, which holds the input; expected another folder")
