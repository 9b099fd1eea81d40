"""SAM 2's image trunk, Hiera, as an encoder with features at strides 16, 8 and 4."""

from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck
from torch import Tensor, nn

from cutie_geo.model.positions import StretchedTable

PYRAMID_CHANNELS = 256
"""Number of channels of every level of SAM 2's feature pyramid."""
STAGES = 3
"""Number of stages with strides 4, 8 and 16; only the feature pyramid needs the fourth."""


class HieraSize(NamedTuple):
    """Sizes of a Hiera trunk. Source: the model configurations of the sam2 package."""

    embed_dim: int
    """Number of channels of the first stage, doubled at each later stage."""
    num_heads: int
    stages: tuple[int, int, int, int]
    """Number of blocks of each stage."""
    global_blocks: tuple[int, ...]
    """Indices of the blocks with global instead of window attention."""
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)
    """Side of the attention windows of each stage, in tokens."""
    background: int = 7
    """Side of the global position table, which is interpolated to the size of the frame."""


HIERA_SIZES = {
    "hiera-large": HieraSize(144, 2, (2, 6, 36, 4), (23, 33, 43), windows=(8, 4, 16, 8)),
    "hiera-base-plus": HieraSize(112, 2, (2, 3, 16, 3), (12, 16, 20), background=14),
    "hiera-small": HieraSize(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "hiera-tiny": HieraSize(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "hiera-nano": HieraSize(32, 1, (1, 2, 3, 1), (4,), windows=(8, 4, 8, 4)),
}


class _Trunk(Hiera):
    """Trunk of the sam2 package that interpolates its position table once per frame size."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._table = StretchedTable()

    def _get_pos_embed(self, hw: tuple[int, int]) -> Tensor:
        if torch.compiler.is_compiling():
            return super()._get_pos_embed(hw)
        stretch = partial(super()._get_pos_embed, hw)
        return self._table.get((self.pos_embed, self.pos_embed_window), tuple(hw), stretch)


class HieraFeatures(nn.Module):
    """Hiera trunk of the sam2 package without the stages that are not needed.

    Args:
        size: Sizes of the trunk.
        features: "trunk" for the stages' outputs, or "fpn" for SAM 2's feature pyramid on top of them.
        background: Side of the global position table if it differs from SAM 2's; else 0.
    """

    multiple = 32
    """Divisor, in pixels, of both sides of a padded frame: an 8x8 window position table is tiled at stride 4."""

    def __init__(self, size: HieraSize, features: Literal["trunk", "fpn"] = "trunk", background: int = 0) -> None:
        super().__init__()
        table = background or size.background
        self.left_out = range(0)
        """Indices of the full trunk's blocks that were removed."""
        self.trunk = _Trunk(
            embed_dim=size.embed_dim,
            num_heads=size.num_heads,
            stages=size.stages,
            global_att_blocks=size.global_blocks,
            window_spec=size.windows,
            window_pos_embed_bkg_spatial_size=(table, table),
        )
        channels: list[int] = self.trunk.channel_list  # type: ignore[assignment]
        if features == "fpn":
            # the pyramid's position encodings are for SAM 2's memory, which is not used here
            self.neck: nn.Module | None = FpnNeck(
                position_encoding=nn.Identity(),
                d_model=PYRAMID_CHANNELS,
                backbone_channel_list=channels,
                fpn_top_down_levels=[2, 3],
                fpn_interp_model="nearest",
            )
            self.channels: tuple[int, int, int] = (PYRAMID_CHANNELS, PYRAMID_CHANNELS, PYRAMID_CHANNELS)
        else:
            self.neck = None
            self.channels = (channels[1], channels[2], channels[3])
            kept = self.trunk.stage_ends[STAGES - 1] + 1
            self.left_out = range(kept, len(self.trunk.blocks))
            self.trunk.blocks = self.trunk.blocks[:kept]

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return features at strides 16, 8 and 4 of a normalised image."""
        levels = self.trunk(image)
        if self.neck is not None:
            levels, _ = self.neck(levels)
        f4, f8, f16 = levels[:STAGES]
        return f16, f8, f4
