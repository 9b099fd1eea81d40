"""Depth Anything V2 (DINOv2 and a DPT) as an encoder with features at strides 16, 8 and 4 and depth maps.

This module imports transformers, which takes seconds; it is imported only for networks with a geometry encoder.
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

from cutie_geo.model.positions import StretchedTable
from cutie_geo.model.tensor_names import attention_name
from cutie_geo.ops import full_precision

PATCH = 14
"""Side of a DINOv2 patch, in pixels."""
STRIDE = 16
"""Side of a patch in pixels of the frame: the frame is resized to 14/16, so that both grids agree."""
STAGES = 3
"""Number of fusion stages, whose outputs have strides 16, 8 and 4."""


class DepthSize(NamedTuple):
    """Sizes of a depth network. Source: the model configurations of Depth Anything V2."""

    hidden: int
    """Number of channels of the transformer's tokens."""
    num_heads: int
    taps: tuple[int, int, int, int]
    """Transformer blocks, counted from 1, whose outputs the DPT reads; the last is the transformer's last block."""
    neck: tuple[int, int, int, int]
    """Numbers of channels of the four reassembled maps, finest first."""
    fusion: int
    """Number of channels of the fused features."""
    head: int = 32
    """Number of channels of the last layer before the depth map."""
    grid: int = 37
    """Side of the position table, in patches."""


DEPTH_SIZES = {
    "depth-anything-v2-large": DepthSize(1024, 16, (5, 12, 18, 24), (256, 512, 1024, 1024), 256),
    "depth-anything-v2-base": DepthSize(768, 12, (3, 6, 9, 12), (96, 192, 384, 768), 128),
    "depth-anything-v2-small": DepthSize(384, 6, (3, 6, 9, 12), (48, 96, 192, 384), 64),
    "depth-nano": DepthSize(96, 3, (1, 2, 3, 4), (24, 32, 48, 64), 32, head=16, grid=16),
}


class _Embeddings(Dinov2Embeddings):
    """Embeddings of transformers that interpolate the position table once per frame size."""

    table: StretchedTable

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        if torch.compiler.is_compiling():
            return super().interpolate_pos_encoding(embeddings, height, width)
        stretch = partial(super().interpolate_pos_encoding, embeddings, height, width)
        return self.table.get((self.position_embeddings,), (height, width), stretch)

    @classmethod
    def take_over(cls, module: nn.Module) -> None:
        """Convert the embeddings of a transformers model to this class."""
        module.__class__ = cls
        assert isinstance(module, _Embeddings)
        module.table = StretchedTable()


class DepthAnythingFeatures(nn.Module):
    """Depth Anything of transformers, with the fused features of its DPT and optional depth."""

    def __init__(self, size: DepthSize, starts_at_random: bool = False) -> None:
        """Build the network; `starts_at_random` initialises it for training without a weights file."""
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
        """Encode a normalised image whose sides are multiples of 16.

        Returns:
            Features at strides 16, 8 and 4; relative inverse depth (larger is nearer, no unit) at 14/16 of the image's
            size if `with_depth` is set, else None.
        """
        rows, columns = image.shape[-2] // STRIDE, image.shape[-1] // STRIDE
        # bicubic without antialiasing, as in Depth Anything's preprocessing
        small = F.interpolate(image, size=(PATCH * rows, PATCH * columns), mode="bicubic", align_corners=False)
        taps = self.model.backbone(small).feature_maps
        if with_depth:
            fused = self.model.neck(taps, rows, columns)
            return (fused[0], fused[1], fused[2]), self._depth(fused, rows, columns)
        return self._fuse(taps, rows, columns), None

    def _depth(self, fused: Sequence[Tensor], rows: int, columns: int) -> Float[Tensor, "B H1 W1"]:
        """Return the depth map, in the precision of its weights: half precision causes visible steps."""
        head = self.model.head
        with full_precision(fused[0]):
            return head([x.to(head.conv1.weight.dtype) for x in fused], rows, columns)

    def _vary(self) -> None:
        """Reinitialise neck and head so that depth varies with the image and is positive.

        transformers initialises convolutions with values so small that depth is constant, and applies a ReLU to it:
        negative depth would never get a gradient.
        """
        for part in (self.model.neck, self.model.head):
            for layer in part.modules():
                if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                    layer.reset_parameters()
        nn.init.ones_(self.model.head.conv3.bias)  # type: ignore[arg-type]

    def _fuse(self, taps: tuple[Tensor, ...], rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs of the neck's first three fusion stages.

        The fourth stage and its inputs are skipped. The first tap is among these: the third stage would only use the
        size of its map, which is known.
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
    """Rename tensors of a state dict so that the names do not depend on the installed release of transformers."""
    for name in [name for name in state if name.startswith(prefix) and attention_name(name) != name]:
        state[attention_name(name)] = state.pop(name)


def depth_config(size: DepthSize) -> DepthAnythingConfig:
    """Return the transformers configuration of a depth network."""
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
