"""Mean features of masks, the input of the masklet classifier."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutie_geo.config import require
from cutie_geo.ops import full_precision


def pool_masks(features: Float[Tensor, "C h w"], masks: Bool[Tensor, "K H W"]) -> Float[Tensor, "K C"]:
    """Return the mean feature of the pixels in each mask.

    A pixel has the feature of its cell. Features are not upsampled, so memory is that of one mask and K h w numbers.

    Source: equation 3 of "Evaluating SAM2 for Video Semantic Segmentation", with nearest-cell features.

    Args:
        features: an encoder's map of the whole frame; its aspect ratio may differ.
        masks: masks of the frame.

    Returns:
        float32 features, zeros for empty masks.

    Raises:
        ValueError: if the masks are on another device.
    """
    require(masks.device == features.device, f"masks: got device {masks.device}, expected {features.device}")
    (height, width), (rows, columns) = masks.shape[1:], features.shape[1:]
    row = torch.arange(height, device=masks.device) * rows // height
    column = torch.arange(width, device=masks.device) * columns // width
    pixels = features.new_zeros(len(masks), rows, columns, dtype=torch.float32)  # pixels of each mask in each cell
    for own, mask in zip(pixels, masks):
        across = own.new_zeros(rows, width).index_add_(0, row, mask.float())
        own.index_add_(1, column, across)
    with full_precision(features):
        total = pixels.flatten(1) @ features.flatten(1).float().T  # (K, C)
    return total / pixels.sum((1, 2)).clamp(min=1)[:, None]
