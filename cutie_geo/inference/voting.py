"""The refiner's vote: each masklet takes the class that most of the base prediction has inside it.

For a window of frames there are base predictions S, label maps, and masklets, a mask on each frame or none. The rules:

- A masklet's votes are the pixels of S inside it, in all frames of the window (or, with `scope="frame"`, in each frame
  for itself); pixels that other masklets cover too count for each of them. VOID casts no vote.
- The class with most votes wins; of equals the smallest class.
- A masklet without a vote, since it is empty or S is VOID in all of it, is left out: it hides no other.
- Masklets are painted from the largest to the smallest, counted in pixels of the window, so that small ones lie on top;
  with scores instead, from the lowest to the highest. Of equals, the one named first lies on top.
- Pixels that no masklet covers keep S.

Source: equations 1 and 2 of "Evaluating SAM2 for Video Semantic Segmentation", which leaves ties, VOID, overlaps and
the frames that vote open.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from cutie_geo.config import require
from cutie_geo.data.index.labelled import VOID

Scope = Literal["window", "frame"]
"""Which frames vote together."""
Labels = UInt8[np.ndarray, "H W"]


# ------------------------------------------------------------------------------------------------------ pure functions
def count_votes(base: UInt8[np.ndarray, "*pixels"], classes: int) -> Int64[np.ndarray, "C"]:
    """Votes for each class among the base predictions inside a masklet; VOID is none.

    Raises ValueError for labels that are neither classes nor VOID.
    """
    counts = np.bincount(base.ravel(), minlength=256).astype(np.int64)
    strange = np.flatnonzero(counts[classes:VOID])
    if strange.size:
        label = classes + int(strange[0])
        raise ValueError(f"base prediction: got label {label}, wanted 0 to {classes - 1}, or {VOID} for none")
    return counts[:classes]


def majority(votes: Int64[np.ndarray, "K C"]) -> UInt8[np.ndarray, "K"]:
    """The class with most votes of each masklet, the smallest of equals; VOID without a vote."""
    return np.where(votes.any(1), votes.argmax(1), VOID).astype(np.uint8)


def paint_order(sizes: Sequence[int], scores: Sequence[float] | None = None) -> list[int]:
    """Places of masklets in the order they are painted: by falling size, or by rising score where scores are given.

    Of equals the first is painted last. Raises ValueError for another number of scores.
    """
    require(scores is None or len(scores) == len(sizes), f"scores: got {len(scores or ())}, wanted {len(sizes)}")
    ranks = [-size for size in sizes] if scores is None else list(scores)
    return sorted(range(len(ranks)), key=lambda k: (ranks[k], -k))


def refine_window(
    base: UInt8[np.ndarray, "T H W"],
    masklets: Bool[np.ndarray, "K T H W"],
    classes: int,
    scores: Sequence[float] | None = None,
    scope: Scope = "window",
) -> UInt8[np.ndarray, "T H W"]:
    """The base predictions of a window with each masklet's class painted over them.

    scores: of the masklets, where the best shall lie on top instead of the smallest. Raises ValueError for unequal
    sizes and for labels that are no classes.
    """
    window = Window(classes)
    for t, own in enumerate(base):
        window.add(own, masklets[:, t])
    return np.stack(list(window.refined(scores, scope)))


# ---------------------------------------------------------------------------------------------------------- windows
class Patch(NamedTuple):
    """A mask cut to what it covers, eight pixels a byte."""

    rows: slice
    columns: slice
    bits: UInt8[np.ndarray, "bytes"]

    def mask(self) -> Bool[np.ndarray, "h w"]:
        """The mask within its rows and columns."""
        shape = (self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)
        return np.unpackbits(self.bits, count=shape[0] * shape[1]).reshape(shape).view(bool)


def cut(mask: Bool[np.ndarray, "H W"]) -> Patch | None:
    """A mask as a patch; None of an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    place = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return Patch(*place, np.packbits(mask[place]))


class Window:
    """The base predictions and masklets of one window, handed over frame by frame as a propagator yields them.

    It holds the window's label maps, of each masklet the box that it fills in each frame, a bit a pixel, and its votes:
    never more than T H W (1 + K/8) + 8 T K C bytes, and far less where masklets are small.
    """

    def __init__(self, classes: int) -> None:
        require(1 <= classes < VOID, f"classes: got {classes}, wanted 1 to {VOID - 1}")
        self.classes = classes
        self._frames: list[tuple[Labels, list[Patch | None]]] = []
        self._votes: list[Int64[np.ndarray, "K C"]] = []
        self._sizes: list[int] = []

    def __len__(self) -> int:
        """Frames added so far."""
        return len(self._frames)

    def add(self, base: Labels, masks: Bool[np.ndarray, "K H W"] | Sequence[Bool[np.ndarray, "H W"]]) -> None:
        """The next frame: its base prediction and each masklet's mask, all empty where a masklet isn't seen.

        Raises ValueError for another number of masklets or another size than before, and for labels that are none.
        """
        sizes = self._sizes if len(self) else [0] * len(masks)
        require(len(masks) == len(sizes), f"masklets: got {len(masks)} on frame {len(self)}, wanted {len(sizes)}")
        shapes = {base.shape, *(mask.shape for mask in masks), *(frame.shape for frame, _ in self._frames[:1])}
        require(len(shapes) == 1, f"window: got sizes {sorted(shapes)} on frame {len(self)}, wanted one for all")
        patches = [cut(mask) for mask in masks]
        votes = np.zeros((len(masks), self.classes), np.int64)
        for k, patch in enumerate(patches):
            if patch is not None:
                votes[k] = count_votes(base[patch.rows, patch.columns][patch.mask()], self.classes)
        self._sizes = [size + int(np.count_nonzero(mask)) for size, mask in zip(sizes, masks)]
        self._frames.append((base, patches))
        self._votes.append(votes)

    def votes(self, scope: Scope = "window") -> list[Int64[np.ndarray, "K C"]]:
        """The votes for each class that masklets have: in all frames together, or with `frame` in each."""
        if scope == "frame":
            return list(self._votes)
        return [np.sum(self._votes, axis=0)] if self._votes else []

    def refined(self, scores: Sequence[float] | None = None, scope: Scope = "window") -> Iterator[Labels]:
        """The refined label map of each frame, one at a time. scores: as in `paint_order`. Raises ValueError."""
        yield from self.painted([majority(votes) for votes in self.votes(scope)], scores)

    def painted(
        self, numbers: Sequence[UInt8[np.ndarray, "K"]], scores: Sequence[float] | None = None
    ) -> Iterator[Labels]:
        """The label map of each frame with these classes of the masklets in it, VOID for none: one set for all frames,
        or one for each. scores: as in `paint_order`. Raises ValueError."""
        order = paint_order(self._sizes, scores)
        of_each = list(numbers) * len(self) if len(numbers) == 1 else numbers
        for (base, patches), own in zip(self._frames, of_each, strict=True):
            yield paint(base, patches, own, order)


def paint(
    base: Labels, patches: Sequence[Patch | None], numbers: UInt8[np.ndarray, "K"], order: Iterable[int]
) -> Labels:
    """A copy of the base prediction with each masklet's class in its patch, in the order given; VOID paints nothing."""
    out = base.copy()
    for k in order:
        patch = patches[k]
        if patch is not None and numbers[k] != VOID:
            out[patch.rows, patch.columns][patch.mask()] = numbers[k]
    return out
