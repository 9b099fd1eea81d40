"""The refiner's vote: each masklet takes the class that most of the base prediction has inside it.

A window has base predictions S, one label map for each frame, and masklets, at most one mask for each frame. Rules:

- The votes of a masklet are the pixels of S inside it, over all frames of the window (with `scope="frame"`, over each
  frame separately). Pixels covered by several masklets count for each. VOID casts no vote.
- The class with most votes wins; of equals, the smallest class.
- A masklet without votes, because it is empty or covers only VOID, is not painted.
- Masklets are painted from the largest to the smallest, in pixels of the window; with scores, from the lowest to the
  highest. Of equals, the first is painted last.
- Pixels that no masklet covers keep S.

Source: equations 1 and 2 of "Evaluating SAM2 for Video Semantic Segmentation", which leaves ties, VOID, overlaps and
the frames that vote open.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from cutie_geo.config import require
from cutie_geo.structures import VOID
from cutie_geo.vss.config import Scope

Labels = UInt8[np.ndarray, "H W"]


# ------------------------------------------------------------------------------------------------------ pure functions
def count_votes(base: UInt8[np.ndarray, "*pixels"], classes: int) -> Int64[np.ndarray, "C"]:
    """Return the votes for each class among the base predictions inside a masklet.

    Raises:
        ValueError: if a label is neither a class nor VOID.
    """
    counts = np.bincount(base.ravel(), minlength=256).astype(np.int64)
    strange = np.flatnonzero(counts[classes:VOID])
    if strange.size:
        label = classes + int(strange[0])
        raise ValueError(f"base prediction: got label {label}, expected 0 to {classes - 1}, or {VOID} for none")
    return counts[:classes]


def majority(votes: Int64[np.ndarray, "K C"]) -> UInt8[np.ndarray, "K"]:
    """Return the class with most votes of each masklet; of equals, the smallest; VOID without votes."""
    return np.where(votes.any(1), votes.argmax(1), VOID).astype(np.uint8)


def paint_order(sizes: Sequence[int], scores: Sequence[float] | None = None) -> list[int]:
    """Return the indices of masklets in painting order.

    Args:
        sizes: pixels of each masklet; larger ones are painted first.
        scores: scores of the masklets, used instead of sizes; lower ones are painted first.

    Raises:
        ValueError: if the numbers of sizes and scores differ.
    """
    require(scores is None or len(scores) == len(sizes), f"scores: got {len(scores or ())}, expected {len(sizes)}")
    ranks = [-size for size in sizes] if scores is None else list(scores)
    return sorted(range(len(ranks)), key=lambda k: (ranks[k], -k))


def refine_window(
    base: UInt8[np.ndarray, "T H W"],
    masklets: Bool[np.ndarray, "K T H W"],
    classes: int,
    scores: Sequence[float] | None = None,
    scope: Scope = "window",
) -> UInt8[np.ndarray, "T H W"]:
    """Return the base predictions of a window with the class of each masklet painted over them.

    Args:
        base: base predictions.
        masklets: masks of each masklet.
        classes: number of classes.
        scores: see `paint_order`.
        scope: frames that vote together.

    Raises:
        ValueError: if sizes differ, or a label is neither a class nor VOID.
    """
    window = Window(classes)
    for t, own in enumerate(base):
        window.add(own, masklets[:, t])
    return np.stack(list(window.refined(scores, scope)))


# ---------------------------------------------------------------------------------------------------------- windows
class Patch(NamedTuple):
    """Mask cropped to its bounding box, with eight pixels in a byte."""

    rows: slice
    columns: slice
    bits: UInt8[np.ndarray, "bytes"]

    def mask(self) -> Bool[np.ndarray, "h w"]:
        """Return the mask within its bounding box."""
        shape = (self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)
        return np.unpackbits(self.bits, count=shape[0] * shape[1]).reshape(shape).view(bool)


def cut(mask: Bool[np.ndarray, "H W"]) -> Patch | None:
    """Return a mask as a patch; None for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    place = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return Patch(*place, np.packbits(mask[place]))


class Window:
    """Base predictions and masklets of one window, added frame by frame.

    It holds label maps, cropped masks of one bit per pixel, and votes: at most T H W (1 + K/8) + 8 T K C bytes, and far
    less for small masklets.
    """

    def __init__(self, classes: int) -> None:
        require(1 <= classes < VOID, f"classes: got {classes}, expected 1 to {VOID - 1}")
        self.classes = classes
        self._frames: list[tuple[Labels, list[Patch | None]]] = []
        self._votes: list[Int64[np.ndarray, "K C"]] = []
        self._sizes: list[int] = []

    def __len__(self) -> int:
        """Return the number of frames so far."""
        return len(self._frames)

    def add(self, base: Labels, masks: Bool[np.ndarray, "K H W"] | Sequence[Bool[np.ndarray, "H W"]]) -> None:
        """Add the next frame.

        Args:
            base: base prediction.
            masks: mask of each masklet; that of an invisible masklet is empty.

        Raises:
            ValueError: if the number of masklets or the size changes, or a label is invalid.
        """
        sizes = self._sizes if len(self) else [0] * len(masks)
        require(len(masks) == len(sizes), f"masklets: got {len(masks)} on frame {len(self)}, expected {len(sizes)}")
        shapes = {base.shape, *(mask.shape for mask in masks), *(frame.shape for frame, _ in self._frames[:1])}
        require(len(shapes) == 1, f"window: got sizes {sorted(shapes)} on frame {len(self)}, expected one for all")
        patches = [cut(mask) for mask in masks]
        votes = np.zeros((len(masks), self.classes), np.int64)
        for k, patch in enumerate(patches):
            if patch is not None:
                votes[k] = count_votes(base[patch.rows, patch.columns][patch.mask()], self.classes)
        self._sizes = [size + int(np.count_nonzero(mask)) for size, mask in zip(sizes, masks)]
        self._frames.append((base, patches))
        self._votes.append(votes)

    def votes(self, scope: Scope = "window") -> list[Int64[np.ndarray, "K C"]]:
        """Return the votes of the masklets for each class: one table for the window, or one for each frame."""
        if scope == "frame":
            return list(self._votes)
        return [np.sum(self._votes, axis=0)] if self._votes else []

    def refined(self, scores: Sequence[float] | None = None, scope: Scope = "window") -> Iterator[Labels]:
        """Yield the refined map of each frame. For `scores` see `paint_order`."""
        yield from self.painted([majority(votes) for votes in self.votes(scope)], scores)

    def painted(
        self, numbers: Sequence[UInt8[np.ndarray, "K"]], scores: Sequence[float] | None = None
    ) -> Iterator[Labels]:
        """Yield the map of each frame with masklets painted over the base prediction.

        Args:
            numbers: classes of the masklets, VOID for none: one array for all frames, or one for each.
            scores: see `paint_order`.
        """
        order = paint_order(self._sizes, scores)
        of_each = list(numbers) * len(self) if len(numbers) == 1 else numbers
        for (base, patches), own in zip(self._frames, of_each, strict=True):
            yield paint(base, patches, own, order)


def paint(
    base: Labels, patches: Sequence[Patch | None], numbers: UInt8[np.ndarray, "K"], order: Iterable[int]
) -> Labels:
    """Return a copy of the base prediction with masklets painted over it in order; VOID paints nothing."""
    out = base.copy()
    for k in order:
        patch = patches[k]
        if patch is not None and numbers[k] != VOID:
            out[patch.rows, patch.columns][patch.mask()] = numbers[k]
    return out
