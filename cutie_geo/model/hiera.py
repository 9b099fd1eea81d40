"""SAM 2's image trunk, Hiera, as a source of features at strides 16, 8 and 4."""

from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck
from torch import Tensor, nn

from cutie_geo.model.positions import StretchedTable

PYRAMID_CHANNELS = 256
"""Of every level of SAM 2's feature pyramid."""
STAGES = 3
"""Stages whose ends have strides 4, 8 and 16; the fourth is needed for the feature pyramid only."""


class HieraSize(NamedTuple):
    """What tells one trunk from another. Source: the model configurations of the sam2 package."""

    embed_dim: int
    """Channels of the first stage; each later stage has twice as many."""
    num_heads: int
    stages: tuple[int, int, int, int]
    """Blocks of each stage."""
    global_blocks: tuple[int, ...]
    """Blocks that attend to the whole frame instead of a window."""
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)
    """Side of each stage's windows, in tokens."""
    background: int = 7
    """Side of the position table that is stretched over the frame."""


HIERA_SIZES = {
    "hiera-large": HieraSize(144, 2, (2, 6, 36, 4), (23, 33, 43), windows=(8, 4, 16, 8)),
    "hiera-base-plus": HieraSize(112, 2, (2, 3, 16, 3), (12, 16, 20), background=14),
    "hiera-small": HieraSize(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "hiera-tiny": HieraSize(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "hiera-nano": HieraSize(32, 1, (1, 2, 3, 1), (4,), windows=(8, 4, 8, 4)),
}


class _Trunk(Hiera):
    """The sam2 package's trunk, with its table of positions stretched once for all frames of one size."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._table = StretchedTable()

    def _get_pos_embed(self, hw: tuple[int, int]) -> Tensor:
        if torch.compiler.is_compiling():
            return super()._get_pos_embed(hw)
        stretch = partial(super()._get_pos_embed, hw)
        return self._table.get((self.pos_embed, self.pos_embed_window), tuple(hw), stretch)


class HieraFeatures(nn.Module):
    """A Hiera trunk of the sam2 package, cut behind the last stage that is needed.

    `features` is "trunk" for the ends of the stages, or "fpn" for the feature pyramid that SAM 2 puts behind them.
    `background` is the side of the stretched position table, where it isn't SAM 2's (docs/architecture.md).
    """

    multiple = 32
    """Both sides of a frame: an 8x8 table of window positions is tiled over the stride-4 grid."""

    def __init__(self, size: HieraSize, features: Literal["trunk", "fpn"] = "trunk", background: int = 0) -> None:
        super().__init__()
        table = background or size.background
        self.left_out = range(0)
        """Blocks of the full trunk that are not here."""
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
        """Features at strides 16, 8 and 4 of a normalised image."""
        levels = self.trunk(image)
        if self.neck is not None:
            levels, _ = self.neck(levels)
        f4, f8, f16 = levels[:STAGES]
        return f16, f8, f4
