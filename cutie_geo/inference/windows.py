"""Choice of the part of a frame in which each object is decoded."""

from jaxtyping import Float
from torch import Tensor

from cutie_geo.ops import area
from cutie_geo.regions import COARSE_PROBABILITY, LAST_SHARE, SMALLEST, STRIDE, Window, windows_around


def choose_windows(last_mask: Float[Tensor, "1 N H W"], coarse: Float[Tensor, "1 N h w"]) -> list[Window | None]:
    """Return a window for each object, or None for the whole frame.

    A window contains the last mask and the object's coarse mask in this frame, with a margin. An object that is in
    neither is looked for in the whole frame.

    Args:
        last_mask: Probabilities of the objects in the frame before, at the padded size.
        coarse: Logits of the object transformer's masks in this frame, at stride 16.
    """
    seen = (area(last_mask, STRIDE) > LAST_SHARE) | (coarse.sigmoid() > COARSE_PROBABILITY)
    return windows_around(seen[0].cpu().numpy())


def mask_windows(masks: Float[Tensor, "1 N H W"]) -> list[Window | None]:
    """Return the window in which each object's mask is encoded for memory, or None for the whole frame.

    An object that is not in the frame has the smallest window.
    """
    return windows_around((area(masks, STRIDE) > LAST_SHARE)[0].cpu().numpy(), empty=SMALLEST)
