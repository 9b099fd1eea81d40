"""Choice of the part of a frame in which each object is decoded."""

import torch
from jaxtyping import Float
from torch import Tensor

from cutie_geo.model.network import STRIDE
from cutie_geo.ops import area
from cutie_geo.structures import Window

LAST_SHARE = 0.02
"""Share of a 16x16 cell that the last mask covers where the object was."""
COARSE_PROBABILITY = 0.2
"""Probability, in the object transformer's coarse mask, at which the object may be in a cell."""
MARGIN, MARGIN_SHARE = 1, 0.125
"""Margin around the object: cells, and share of its height and width."""
LARGEST_SHARE = 0.7
"""Share of the frame above which a window saves too little."""


def choose_windows(last_mask: Float[Tensor, "1 N H W"], coarse: Float[Tensor, "1 N h w"]) -> list[Window | None]:
    """Return a window for each object, or None for the whole frame.

    A window contains the last mask and the object's coarse mask in this frame, with a margin. An object that is in
    neither is looked for in the whole frame.

    Args:
        last_mask: Probabilities of the objects in the frame before, at the padded size.
        coarse: Logits of the object transformer's masks in this frame, at stride 16.
    """
    seen = ((area(last_mask, STRIDE) > LAST_SHARE) | (coarse.sigmoid() > COARSE_PROBABILITY))[0].cpu()
    return [_around(cells) for cells in seen]


def mask_windows(masks: Float[Tensor, "1 N H W"]) -> list[Window | None]:
    """Return the window in which each object's mask is encoded for memory, or None for the whole frame.

    An object that is not in the frame has the smallest window.
    """
    cells = (area(masks, STRIDE) > LAST_SHARE)[0].cpu()
    return [_around(own) if own.any() else Window(0, 1, 0, 1) for own in cells]


def _around(cells: Tensor) -> Window | None:
    """Return the window of the True cells (h, w) of an object."""
    height, width = cells.shape
    if not cells.any():
        return None
    top, bottom = _extended(cells.any(1), height)
    left, right = _extended(cells.any(0), width)
    if (bottom - top) * (right - left) > LARGEST_SHARE * height * width:
        return None
    return Window(top, bottom, left, right)


def _extended(line: Tensor, count: int) -> tuple[int, int]:
    """Return start and end of the True positions with the margin, within `count` positions."""
    places = torch.nonzero(line).flatten()
    start, end = int(places[0]), int(places[-1]) + 1
    margin = MARGIN + round(MARGIN_SHARE * (end - start))
    return max(start - margin, 0), min(end + margin, count)
