"""Building blocks shared by several parts of the network. Source: Cutie specification, section 2."""

import copy
import math
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cutie_geo.model.packed import Derived, pack
from cutie_geo.model.timm_import import import_timm
from cutie_geo.ops import full_precision, grouped

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def normalise(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Normalise an RGB image in [0, 1] with ImageNet's mean and standard deviation."""
    mean = image.new_tensor(IMAGE_MEAN).view(3, 1, 1)
    std = image.new_tensor(IMAGE_STD).view(3, 1, 1)
    return (image - mean) / std


NANO: dict[str, Any] = {
    "stem_type": "deep",
    "stem_width": 16,
    "layers": (1, 1, 1, 1),
    "channels": (32, 64, 128, 256),
}
"""Sizes of `resnet-nano`: a ResNet-18 with one narrow block per stage. Three small convolutions replace the large first
one, which would take a third of the time."""


class ResNetFeatures(nn.Module):
    """First three stages of a ResNet, with features at strides 4, 8 and 16.

    Batch normalisation always uses its stored statistics, even in training; its weights and biases are trained. In
    inference mode on a CPU it is folded into the convolutions: the same values up to rounding, a seventh less time.
    The folded copy is updated when weights are loaded, moved or changed in place; after a change through `.data`, which
    torch does not count, call `eval()`.
    """

    def __init__(self, name: str, in_channels: int = 3) -> None:
        super().__init__()
        kind, sizes = ("resnet18", NANO) if name == "resnet-nano" else (name, {})
        body: Any = import_timm().create_model(
            kind, pretrained=False, features_only=True, out_indices=(1, 2, 3), in_chans=in_channels, **sizes
        )
        self.body: nn.Module = body
        self.channels: tuple[int, ...] = tuple(body.feature_info.channels())
        self._folded = Derived[nn.Module]()
        self.train()

    def train(self, mode: bool = True) -> "ResNetFeatures":
        """Stay in evaluation mode, and fold the weights again at the next call."""
        self._folded.forget()
        return super().train(False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> list[Tensor]:
        fold = torch.is_inference_mode_enabled() and x.device.type == "cpu"
        return (self._folded_body() if fold else self.body)(x)

    def _folded_body(self) -> nn.Module:
        """Return the folded copy, rebuilt if torch has counted a change of the weights."""
        return self._folded.get((*self.body.parameters(), *self.body.buffers()), self._fold)

    def _fold(self) -> nn.Module:
        body = folded(self.body)
        pack(body)
        return body


def folded(body: nn.Module) -> nn.Module:
    """Copy a network in evaluation mode, with its batch normalisations folded into the convolutions before them.

    Every normalisation must be registered right after its convolution.
    """
    body = copy.deepcopy(body)
    before = ""
    for name, module in list(body.named_modules()):
        if isinstance(module, nn.BatchNorm2d):  # its convolution is registered right before it
            body.set_submodule(before, fuse_conv_bn_eval(body.get_submodule(before), module))  # type: ignore[type-var]
            body.set_submodule(name, getattr(module, "act", nn.Identity()))  # timm's may hold the activation, too
        elif isinstance(module, nn.Conv2d):
            before = name
    return body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Attention(nn.MultiheadAttention):
    """Multi-head attention with PyTorch's parameters, batch-first inputs and one mask for all heads.

    PyTorch's own forward pass transposes the batch axis, which makes half-precision projections many times slower on a
    CPU.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads, batch_first=True)

    def forward(  # type: ignore[override]
        self,
        query: Float[Tensor, "b L C"],
        key: Float[Tensor, "b S C"],
        value: Float[Tensor, "b S C"],
        blocked: Bool[Tensor, "b L S"] | None = None,
    ) -> Float[Tensor, "b L C"]:
        """Attend from queries to keys; `blocked` is True where a query may not attend."""
        projected = [
            self._heads(F.linear(x, weight, bias))
            for x, weight, bias in zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3))
        ]
        allowed = None if blocked is None else ~blocked.unsqueeze(1)
        gathered = F.scaled_dot_product_attention(*projected, attn_mask=allowed)  # (b, heads, L, C / heads)
        return self.out_proj(rearrange(gathered, "b heads l d -> b l (heads d)"))

    def _heads(self, x: Float[Tensor, "b L C"]) -> Float[Tensor, "b heads L D"]:
        return rearrange(x, "b l (heads d) -> b heads l d", heads=self.num_heads)


class ChannelGatedBlock(nn.Module):
    """Residual block of two convolutions with a gate for each output channel (CAResBlock)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        reach = int((abs(math.log2(channels)) + 1) / 2)
        kernel = reach if reach % 2 else reach + 1
        self.gate = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        y = self.conv2(F.relu(self.conv1(F.relu(x))))
        gate = self.gate(y.mean(dim=(-2, -1)).unsqueeze(1)).sigmoid().transpose(1, 2)  # (B, C, 1)
        return torch.addcmul(x, y, gate.unsqueeze(-1).to(y.dtype)) if x.dtype == y.dtype else y * gate.unsqueeze(-1) + x


class ResidualBlock(nn.Module):
    """Pre-activation residual block of two convolutions (GroupResBlock)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 h w"]:
        return self.conv2(F.relu(self.conv1(F.relu(x)))) + self.shortcut(x)


class ObjectFusion(nn.Module):
    """Fusion of shared features and object features to one map per object (FusionBlock)."""

    def __init__(self, shared_channels: int, object_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(shared_channels, out_channels, 1)
        self.per_object = nn.Conv2d(object_channels, out_channels, 1)
        self.block1 = ChannelGatedBlock(out_channels)
        self.block2 = ChannelGatedBlock(out_channels)

    def forward(self, shared: Float[Tensor, "B C h w"], objects: Float[Tensor, "B N C2 h w"]) -> Tensor:
        """Return fused features (B, N, D, h, w)."""
        mixed = grouped(self.per_object, objects) + self.shared(shared).unsqueeze(1)
        return grouped(lambda x: self.block2(self.block1(x)), mixed)


class SensoryUpdate(nn.Module):
    """Recurrent unit (GRU) of sensory memory.

    State and gates are always in float32, because the state accumulates over the whole video. The convolution of the
    gates is in float32 on a GPU, as Cutie's, and under autocast on a CPU, where it would be the slowest operation.
    """

    def __init__(self, input_channels: int, sensory_channels: int) -> None:
        super().__init__()
        self.transform = nn.Conv2d(input_channels + sensory_channels, 3 * sensory_channels, 3, padding=1)
        nn.init.xavier_normal_(self.transform.weight)

    def forward(self, x: Float[Tensor, "B N C h w"], sensory: Float[Tensor, "B N D h w"]) -> Float[Tensor, "B N D h w"]:
        with full_precision(x) if x.device.type != "cpu" else nullcontext():
            gates = grouped(self.transform, torch.cat([x.float(), sensory.float()], dim=2))
        with full_precision(x):
            forget, update, candidate = gates.float().chunk(3, dim=2)
            update = update.sigmoid()
            return forget.sigmoid() * sensory * (1 - update) + update * candidate.tanh()
