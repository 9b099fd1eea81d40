"""Conversion of published annotations to folders of frames and masks, as called by `convert`."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cutie_geo.config import WHOLE, Shard, require
from cutie_geo.data.convert.burst import convert_burst
from cutie_geo.data.convert.ovis import convert_ovis
from cutie_geo.data.convert.visor import VisorOptions, convert_visor
from cutie_geo.data.convert.vos import ImageMode, VosOptions

SHOWN = 5
"""Maximum number of names in a line."""


@dataclass(frozen=True)
class ConvertOptions:
    """Settings of a conversion. Fields that do not apply to the data set must be unset."""

    dataset: Literal["visor", "ovis", "burst"]
    split: str
    frames: Path
    output: Path
    annotations: Path | None = None
    """Folder of annotations, or one file. None: only for VISOR's test split, which has none."""
    workers: int = 2
    """Number of videos converted in parallel."""
    size: str | None = None
    """VISOR: WIDTHxHEIGHT of the frames. None: 854x480."""
    official_quirks: bool = False
    """VISOR: keep subsequences whose first frame shows no object, with meaningless ids, as the official tool does."""
    images: ImageMode | None = None
    """OVIS, BURST: how images are placed in the output. None: symlink."""
    all_frames: bool = False
    """BURST: include frames without annotations."""
    shard: Shard = WHOLE
    """Part of the videos to convert. The last shard to finish writes lists and report."""


def convert(options: ConvertOptions, watch: Callable[[Iterable[Any], int], Iterable[Any]]) -> dict[str, Any]:
    """Convert a split; return the report.

    Args:
        watch: wraps the iterable of results and their number, for a progress bar.

    Raises:
        ValueError: for options of another data set, missing annotations, and invalid records.
    """
    _require_fitting(options)
    if options.dataset == "visor":
        visor = VisorOptions(
            options.frames,
            options.output,
            options.split,
            annotations=options.annotations,
            official_quirks=options.official_quirks,
            workers=options.workers,
            shard=options.shard,
            **({} if options.size is None else {"size": parse_size(options.size)}),
        )
        return convert_visor(visor, watch)
    assert options.annotations is not None
    split = "valid" if options.dataset == "ovis" and options.split == "val" else options.split
    others = VosOptions(
        options.annotations,
        options.frames,
        options.output,
        split,
        images=options.images or "symlink",
        all_frames=options.all_frames,
        workers=options.workers,
        shard=options.shard,
    )
    return {"ovis": convert_ovis, "burst": convert_burst}[options.dataset](others, watch)


def _require_fitting(options: ConvertOptions) -> None:
    dataset, visor = options.dataset, options.dataset == "visor"
    require(visor or options.size is None, f"--size: got {dataset}, expected visor with it")
    require(visor or not options.official_quirks, f"--official-quirks: got {dataset}, expected visor with it")
    require(
        not visor or options.images is None, "--images: got visor, whose frames are resized; expected ovis or burst"
    )
    require(dataset == "burst" or not options.all_frames, f"--all-frames: got {dataset}, expected burst with it")
    optional = visor and options.split == "test"
    given = options.annotations is not None or optional
    require(given, f"{dataset} {options.split}: got no annotations, expected --annotations")
    for folder in filter(None, (options.annotations, options.frames)):
        require(folder.exists(), f"{folder}: no such file or folder")


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) of WIDTHxHEIGHT. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if found is None:
        raise ValueError(f"--size: got {text!r}, expected WIDTHxHEIGHT, such as 854x480")
    return int(found[2]), int(found[1])


def report_lines(report: dict[str, Any], seconds: float) -> list[str]:
    """Return the lines of a report: results, dropped items and speed."""
    kept = f"{report['sequences']} sequences, {report['frames']} frames of {report['videos']} videos"
    lines = [f"{report['dataset']} {report['split']}: {kept} -> {report['folder']}"]
    for what in ("sequence", "frame"):
        dropped = report[f"dropped_{what}s"]
        for reason, count in sorted(Counter(each["reason"] for each in dropped).items()):
            names = [each[what] for each in dropped if each["reason"] == reason]
            lines.append(f"dropped {count} {what}s, {reason}: {_some(names)}")
    if "waiting" in report:
        lines.append(
            f"lists and report are not written yet: {report['waiting']} videos of other shards are not there; if all "
            "shards have ended, the same command without --shard completes them"
        )
    done = report["frames"] - report["written"]
    before = f", {done} were already there" if done else ""
    rate = report["written"] / seconds
    return [*lines, f"{report['written']} frames in {seconds:.1f} s, {rate:.0f} frames/s{before}"]


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
