"""VSPW and VIPSeg: where their clips are, and how the values of their masks stand for classes."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64

from cutie_geo.config import require
from cutie_geo.data.index.labelled import LabelledSpec, labelled_videos
from cutie_geo.data.index.layouts import Layout, find_home, read_json, read_list
from cutie_geo.data.index.records import LabelledVideo
from cutie_geo.structures import VOID

CLASSES = 124
"""Number of classes of VSPW and of VIPSeg."""
VAL = "val.txt"
SPLITS = {"vspw-train": "train.txt", "vspw-val": VAL, "vspw-test": "test.txt"}
"""Clip lists of VSPW by split name."""
VSPW_HOMES = (".", "VSPW_480p", "VSPW/VSPW_480p", "VSPW")
VIPSEG_HOMES = (".", "VIPSeg_720P", "VIPSeg/VIPSeg_720P", "VIPSeg")
"""Folders below a root in which the data sets are looked for."""


@dataclass(frozen=True)
class SemanticEncoding:
    """Encoding of classes in the masks of VSPW or VIPSeg.

    VSPW: values 1 to 124 are classes, 0 and 255 are void. VIPSeg: values 1 to 124 are classes, larger values are
    class * 100 + instance, 0 is void.
    """

    dataset: Literal["vspw", "vipseg"]
    expected: str = f"classes 1 to {CLASSES}"

    def decode(self, values: Int64[np.ndarray, "values"]) -> Int64[np.ndarray, "values"]:
        """Return the class, from 1 on, of each value; 0 for void, -1 for invalid values."""
        if self.dataset == "vipseg":
            values = np.where(values > CLASSES, values // 100, values)
        else:
            values = np.where(values == VOID, 0, values)
        return np.where(values > CLASSES, -1, values)

    def classes(self, values: Iterable[int]) -> set[int]:
        """Return the classes, from 1 on, that mask values stand for."""
        decoded = self.decode(np.fromiter(values, np.int64))
        return set(decoded[decoded > 0].tolist())

    def invalid(self, values: Iterable[int]) -> list[int]:
        """Return the values that stand neither for a class nor for void."""
        given = np.fromiter(values, np.int64)
        return given[self.decode(given) < 0].tolist()


VSPW, VIPSEG = SemanticEncoding("vspw"), SemanticEncoding("vipseg")


def index_vspw(root: Path, split: str, strict: bool = True) -> list[LabelledVideo]:
    """Return the clips of VSPW.

    Args:
        root: folder of the data set, or one above it.
        split: train, val, or test, whose masks are not published.
        strict: see `LabelledSpec.index`.

    Raises:
        ValueError: if the folders have another layout.
    """
    home = find_home(root, VSPW_HOMES, "data")
    layout = Layout(home / "data", home / "data", read_list(home / f"{split}.txt"), inside=("origin", "mask"))
    return labelled_videos(layout, strict, masked=split != "test", encoding=VSPW)


def index_vipseg(root: Path, split: str, strict: bool = True) -> list[LabelledVideo]:
    """Return the clips of VIPSeg that `<split>.txt`, or else the panoptic JSON of the split, lists.

    Args:
        root: folder of the data set, or one above it.
        split: train or val.
        strict: see `LabelledSpec.index`.

    Raises:
        ValueError: if the folders have another layout.
    """
    home = find_home(root, VIPSEG_HOMES, "panomasks")
    path = home / f"{split}.txt"
    names = read_list(path) if path.is_file() else _panoptic_names(home / f"panoptic_gt_VIPSeg_{split}.json")
    return labelled_videos(Layout(vipseg_images(home), home / "panomasks", names), strict, encoding=VIPSEG)


def vipseg_images(home: Path) -> Path:
    """Return the folder of VIPSeg's frames: `images`, or `imgs` in earlier releases."""
    return next((home / name for name in ("images", "imgs") if (home / name).is_dir()), home / "images")


def _panoptic_names(path: Path) -> list[str]:
    content = read_json(path)
    try:
        names = sorted(str(video["video_id"]) for video in content["videos"])
    except (TypeError, KeyError):
        raise ValueError(f'{path}: expected {{"videos": [{{"video_id": name}}, ...]}}') from None
    require(bool(names), f"{path}: lists no videos")
    return names


SEMANTIC_DATASETS: dict[str, LabelledSpec] = {
    spec.name: spec
    for spec in (
        LabelledSpec("vspw-train", "VSPW, train", partial(index_vspw, split="train")),
        LabelledSpec("vspw-val", "VSPW, val", partial(index_vspw, split="val")),
        LabelledSpec("vspw-test", "VSPW, test", partial(index_vspw, split="test"), "none"),
        LabelledSpec("vipseg-train", "VIPSeg, train", partial(index_vipseg, split="train")),
        LabelledSpec("vipseg-val", "VIPSeg, val", partial(index_vipseg, split="val")),
    )
}
"""Splits with semantic masks, for `cutie_geo.data.check.check`."""
