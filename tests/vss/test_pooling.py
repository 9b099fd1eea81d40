"""Mean features of masks against the slow, obvious form."""

import pytest
import torch
from stock_sam2 import tiny_sam2
from torch.nn.functional import interpolate

from cutie_geo.vss.pooling import pool_masks


@pytest.mark.parametrize(("size", "grid"), [((24, 36), (4, 6)), ((23, 37), (4, 6)), ((3, 5), (4, 6)), ((8, 8), (8, 8))])
def test_a_mask_has_the_mean_of_its_pixels_features(size: tuple[int, int], grid: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, *grid, generator=generator)
    masks = torch.rand(3, *size, generator=generator) > 0.6
    spread = interpolate(features[None], size, mode="nearest")[0]
    wanted = torch.stack([spread[:, mask].mean(1) for mask in masks])
    torch.testing.assert_close(pool_masks(features, masks), wanted)


def test_an_empty_mask_has_none_and_no_masks_have_no_features() -> None:
    features = torch.ones(5, 4, 4)
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[1, 3, 9] = True
    assert pool_masks(features, masks).tolist() == [[0.0] * 5, [1.0] * 5]
    assert pool_masks(features, masks[:0]).shape == (0, 5)


def test_features_of_sam2_in_half_precision_are_summed_in_full() -> None:
    (found,) = tiny_sam2().encode(torch.rand(1, 3, 48, 80, generator=torch.Generator().manual_seed(0)))
    features = found.backbone["backbone_fpn"][-1][0]
    whole = torch.ones(1, 48, 80, dtype=torch.bool)
    pooled = pool_masks(features.bfloat16(), whole)
    assert pooled.dtype == torch.float32
    spread = interpolate(features[None].bfloat16().float(), (48, 80), mode="nearest")
    torch.testing.assert_close(pooled[0], spread[0].mean((1, 2)))
