"""The mean feature of a mask: what a classifier of masklets sees of each."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutie_geo.config import require
from cutie_geo.ops import full_precision


def pool_masks(features: Float[Tensor, "C h w"], masks: Bool[Tensor, "K H W"]) -> Float[Tensor, "K C"]:
    """The mean feature of the pixels in each mask, in float32; zeros for an empty one.

    features: an encoder's map of the whole frame, stretched or not. A pixel has the feature of the cell that it lies
    in; features are never spread over pixels, so that memory stays that of one mask and of K h w numbers.
    Raises ValueError for masks on another device.

    Source: equation 3 of "Evaluating SAM2 for Video Semantic Segmentation", with its encoded features at every pixel
    read as those of the nearest cell.
    """
    require(masks.device == features.device, f"masks: got them on {masks.device}, wanted {features.device}")
    (height, width), (rows, columns) = masks.shape[1:], features.shape[1:]
    row = torch.arange(height, device=masks.device) * rows // height
    column = torch.arange(width, device=masks.device) * columns // width
    pixels = features.new_zeros(len(masks), rows, columns, dtype=torch.float32)  # of a mask in each cell
    for own, mask in zip(pixels, masks):
        across = own.new_zeros(rows, width).index_add_(0, row, mask.float())
        own.index_add_(1, column, across)
    with full_precision(features):
        total = pixels.flatten(1) @ features.flatten(1).float().T  # (K, C)
    return total / pixels.sum((1, 2)).clamp(min=1)[:, None]
