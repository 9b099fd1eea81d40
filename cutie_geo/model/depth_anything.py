"""Depth Anything V2 (DINOv2 and a DPT) as a source of features at strides 16, 8 and 4, and of depth maps.

Importing this module imports transformers, which takes seconds: only a network with a geometry encoder does.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

from cutie_geo.model.names import attention_name
from cutie_geo.model.positions import StretchedTable
from cutie_geo.ops import full_precision

PATCH = 14
"""Pixels of a DINOv2 patch."""
STRIDE = 16
"""Pixels of the frame that a patch stands for: the frame is shrunk to 14/16, so that both grids agree."""
STAGES = 3
"""Fusion stages whose outputs have strides 16, 8 and 4."""


class DepthSize(NamedTuple):
    """What tells one depth network from another. Source: the model configurations of Depth Anything V2."""

    hidden: int
    """Channels of the transformer's tokens."""
    num_heads: int
    taps: tuple[int, int, int, int]
    """Transformer blocks, counted from 1, whose outputs the DPT reads; the last one is the transformer's last."""
    neck: tuple[int, int, int, int]
    """Channels of the four maps, finest first, that tokens become."""
    fusion: int
    """Channels of the fused features."""
    head: int = 32
    """Channels of the last layer before the depth map."""
    grid: int = 37
    """Side of the table of positions, in patches."""


DEPTH_SIZES = {
    "depth-anything-v2-large": DepthSize(1024, 16, (5, 12, 18, 24), (256, 512, 1024, 1024), 256),
    "depth-anything-v2-base": DepthSize(768, 12, (3, 6, 9, 12), (96, 192, 384, 768), 128),
    "depth-anything-v2-small": DepthSize(384, 6, (3, 6, 9, 12), (48, 96, 192, 384), 64),
    "depth-nano": DepthSize(96, 3, (1, 2, 3, 4), (24, 32, 48, 64), 32, head=16, grid=16),
}


class _Embeddings(Dinov2Embeddings):
    """transformers' own, with the table of positions stretched once for all frames of one size."""

    table: StretchedTable

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        if torch.compiler.is_compiling():
            return super().interpolate_pos_encoding(embeddings, height, width)
        stretch = partial(super().interpolate_pos_encoding, embeddings, height, width)
        return self.table.get((self.position_embeddings,), (height, width), stretch)

    @classmethod
    def take_over(cls, module: nn.Module) -> None:
        """Make one of these of what transformers has built."""
        module.__class__ = cls
        assert isinstance(module, _Embeddings)
        module.table = StretchedTable()


class DepthAnythingFeatures(nn.Module):
    """transformers' Depth Anything, asked for the fused features of its DPT, and for depth only on demand."""

    def __init__(self, size: DepthSize, starts_at_random: bool = False) -> None:
        """starts_at_random: no file fills it, and it is to be trained."""
        super().__init__()
        self.model = DepthAnythingForDepthEstimation(depth_config(size))
        self.model.register_state_dict_post_hook(_name_alike)
        _Embeddings.take_over(self.model.backbone.embeddings)
        if starts_at_random:
            self._vary()
        self.channels: tuple[int, int, int] = (size.fusion, size.fusion, size.fusion)

    def forward(
        self, image: Float[Tensor, "B 3 H W"], with_depth: bool = False
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Float[Tensor, "B H1 W1"] | None]:
        """Features at strides 16, 8 and 4 of a normalised image whose sides are multiples of 16, and, if asked for,
        relative inverse depth (larger is nearer, no unit) at 14/16 of its size."""
        rows, columns = image.shape[-2] // STRIDE, image.shape[-1] // STRIDE
        # bicubic without antialiasing, as Depth Anything prepares its own images
        small = F.interpolate(image, size=(PATCH * rows, PATCH * columns), mode="bicubic", align_corners=False)
        taps = self.model.backbone(small).feature_maps
        if with_depth:
            fused = self.model.neck(taps, rows, columns)
            return (fused[0], fused[1], fused[2]), self._depth(fused, rows, columns)
        return self._fuse(taps, rows, columns), None

    def _depth(self, fused: Sequence[Tensor], rows: int, columns: int) -> Float[Tensor, "B H1 W1"]:
        """The depth map, in its weights' precision: steps of half precision would show."""
        head = self.model.head
        with full_precision(fused[0]):
            return head([x.to(head.conv1.weight.dtype) for x in fused], rows, columns)

    def _vary(self) -> None:
        """Make depth a lively function of the image, and positive.

        transformers starts convolutions so small that depth is the same everywhere, and cuts it off at 0: below,
        nothing would ever get a gradient.
        """
        for part in (self.model.neck, self.model.head):
            for layer in part.modules():
                if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                    layer.reset_parameters()
        nn.init.ones_(self.model.head.conv3.bias)  # type: ignore[arg-type]

    def _fuse(self, taps: tuple[Tensor, ...], rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the neck's first three fusion stages give; its fourth, and all that only the fourth reads, is left out.

        The first tap is such: of its map the third stage would only ask the size, which is known.
        """
        neck, fused, outputs = self.model.neck, None, []
        for stage in range(STAGES):
            level = STAGES - stage
            tokens = rearrange(taps[level][:, 1:], "b (h w) c -> b c h w", h=rows, w=columns).contiguous()
            own = neck.convs[level](neck.reassemble_stage.layers[level](tokens))
            size = (rows << stage, columns << stage)
            layer = neck.fusion_stage.layers[stage]
            fused = layer(own, size=size) if fused is None else layer(fused, own, size=size)
            outputs.append(fused)
        f16, f8, f4 = outputs
        return f16, f8, f4


def _name_alike(module: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    """Offer a network's tensors under the same names whatever release of transformers is installed."""
    for name in [name for name in state if name.startswith(prefix) and attention_name(name) != name]:
        state[attention_name(name)] = state.pop(name)


def depth_config(size: DepthSize) -> DepthAnythingConfig:
    """The configuration that transformers wants."""
    backbone = Dinov2Config(
        hidden_size=size.hidden,
        num_attention_heads=size.num_heads,
        num_hidden_layers=size.taps[-1],
        image_size=PATCH * size.grid,
        patch_size=PATCH,
        out_indices=list(size.taps),  # type: ignore[call-arg]
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    return DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=PATCH,
        reassemble_hidden_size=size.hidden,
        neck_hidden_sizes=list(size.neck),
        fusion_hidden_size=size.fusion,
        head_hidden_size=size.head,
    )
