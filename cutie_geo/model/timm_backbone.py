"""Backbones of timm with features at strides 4, 8 and 16, without unused stages."""

import copy
import warnings
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.model.blocks import IMAGE_MEAN, IMAGE_STD, folded
from cutie_geo.model.packed import Derived, is_packed, with_fused_activations
from cutie_geo.model.timm_import import import_timm

timm: Any = import_timm()

STRIDES = (4, 8, 16)
PROBE_SIDE = 64
"""Side, in pixels, of the noise image that tests whether a backbone's batch norms can be folded."""
FOLD_ERROR = 1e-3
"""Largest difference of features by folding, relative to the largest feature; beyond it nothing is folded."""


class TimmFeatures(nn.Module):
    """Features of a backbone of timm at strides 16, 8 and 4.

    Batch norms are frozen and folded into the convolutions before them, so a checkpoint has no statistics. A backbone
    with norms before convolutions keeps them, in evaluation mode.

    Args:
        name: timm's name, without `timm/`.
        features: "trunk" for the stages at strides 4, 8 and 16, or "fpn" for stride 32 too, which `TopDown` adds to
            stride 16.

    Raises:
        ValueError: If timm does not have the name, or the backbone does not have the strides.
    """

    def __init__(self, name: str, features: Literal["trunk", "fpn"] = "trunk") -> None:
        super().__init__()
        self.name = name
        self.strides: tuple[int, ...] = (*STRIDES, 32) if features == "fpn" else STRIDES
        self.multiple = self.strides[-1]
        """Divisor, in pixels, of both sides of a padded frame."""
        published, channels = features_only(name, self.strides)
        self.folds = _can_fold(published)
        """True if batch norms are folded."""
        self.body = _without_padding(folded(published) if self.folds else published)
        self.body.requires_grad_(True)  # biases that folding creates have no gradients by default
        self._fused = Derived[nn.Module]()
        self.fuses = _can_fuse(self.body)
        """True if convolutions compute their activations in inference on a CPU."""
        self.channels = (channels[2], channels[1], channels[0])
        self.deepest = channels[3] if features == "fpn" else 0
        """Number of channels at stride 32; 0 if it is not used."""
        self.scale: Tensor
        self.shift: Tensor
        scale, shift = _normalisation(name)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.train()

    def train(self, mode: bool = True) -> "TimmFeatures":
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """Return features at strides 16, 8 and 4, and 32 for `fpn`, of an image with ImageNet's normalisation."""
        body = self.body
        if self.fuses and is_packed(image):
            body = self._fused.get(self.body.parameters(), lambda: with_fused_activations(self.body))
        f4, f8, f16, *deeper = body(torch.addcmul(self.shift, image, self.scale))
        return f16, f8, f4, *deeper

    def fill_from(self, published: nn.Module) -> None:
        """Copy the weights of `features_only(self.name, ...)`, folded if this backbone is."""
        given = _without_padding(folded(published) if self.folds else published)
        self.body.load_state_dict(given.state_dict(), strict=True)


class TopDown(nn.Module):
    """Projection of the stage at stride 32, added to that at stride 16. It starts at zero."""

    def __init__(self, deepest: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(deepest, channels, 1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, f16: Float[Tensor, "B C h w"], f32: Float[Tensor, "B C32 h32 w32"]) -> Float[Tensor, "B C h w"]:
        return f16 + F.interpolate(self.project(f32), scale_factor=2.0, mode="nearest")


def features_only(name: str, strides: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
    """Build timm's backbone without the stages behind the last of `strides`.

    Returns:
        The module, in evaluation mode with random weights, which returns a list of feature maps, and their channels.

    Raises:
        ValueError: If timm does not have the name, or the backbone has no features at `strides`.
    """
    wanted = f"encoder.vision=timm/{name}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of timm, about renamed models
            found: Any = timm.create_model(name, pretrained=False, features_only=True)
            reductions = found.feature_info.reduction()
            missing = [stride for stride in strides if stride not in reductions]
            if missing:
                raise ValueError(
                    f"{wanted}: no features at stride {missing[0]}; got strides {reductions}, expected {strides}"
                )
            # of several stages with one stride, the last
            indices = tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides)
            body: Any = timm.create_model(name, pretrained=False, features_only=True, out_indices=indices)
    except (RuntimeError, AttributeError, TypeError, KeyError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{wanted}: timm cannot build it with features_only ({reason}); expected one of "
            "timm.list_models() with features at several strides") from None  # fmt: skip
    if isinstance(getattr(body, "blocks", None), nn.Sequential) and body.feature_hooks is None:
        # timm's EfficientNet class builds all stages regardless of out_indices
        body.blocks = body.blocks[: max(info["stage"] for info in body.feature_info.get_dicts(keys=("stage",)))]
    shapes = [tuple(each.shape[1:]) for each in _probe(body)]
    channels = tuple(body.feature_info.channels())
    expected = [(c, PROBE_SIDE // stride, PROBE_SIDE // stride) for c, stride in zip(channels, strides)]
    if shapes != expected:
        raise ValueError(f"{wanted}: got features of shapes {shapes}, expected {expected}")
    return body.eval(), channels


@torch.no_grad()
def _probe(body: nn.Module) -> list[Tensor]:
    """Return the features of a small noise image."""
    noise = torch.randn(1, 3, PROBE_SIDE, PROBE_SIDE, generator=torch.Generator().manual_seed(0))
    return list(body.eval()(noise))


@torch.no_grad()
def _can_fold(body: nn.Module) -> bool:
    """Return True if folding keeps the features, tried with non-trivial statistics."""
    body, numbers = copy.deepcopy(body), torch.Generator().manual_seed(0)
    norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            if tensor is not None:
                tensor.add_(torch.rand(tensor.shape, generator=numbers), alpha=0.3)
    try:
        other = folded(body)
    except (RuntimeError, AttributeError, AssertionError):  # a norm without a convolution of its width before it
        return False
    return bool(norms) and all(
        bool((got - wanted).abs().max() <= FOLD_ERROR * wanted.abs().max())
        for got, wanted in zip(_probe(other), _probe(body))
    )


@torch.inference_mode()
def _can_fuse(body: nn.Module) -> bool:
    """Return True if fusing activations with the convolutions before them keeps the features."""
    try:
        other, noise = with_fused_activations(body), torch.randn(1, 3, PROBE_SIDE, PROBE_SIDE)
        if not is_packed(noise):
            return False
        return all(
            bool((got - wanted).abs().max() <= FOLD_ERROR * wanted.abs().max())
            for got, wanted in zip(other(noise), body(noise))
        )
    except RuntimeError:
        return False


def _without_padding(body: nn.Module) -> nn.Module:
    """Replace convolutions of stride 2 with TensorFlow's asymmetric padding by equally padded ones.

    For even sides, a kernel with one more row and column of zeros has the same result. Asymmetric padding is an
    operation of its own, which takes as long as the convolution.
    """
    from timm.layers.conv2d_same import Conv2dSame  # here, after `import_timm`

    for name, module in list(body.named_modules()):
        if isinstance(module, Conv2dSame) and module.stride == (2, 2) and module.dilation == (1, 1):
            assert isinstance(module, nn.Conv2d), "its base class"
            body.set_submodule(name, _evenly_padded(module))
    return body


def _evenly_padded(conv: nn.Conv2d) -> nn.Conv2d:
    kernel, bias = conv.kernel_size[0], conv.bias is not None
    before = (kernel - 2) // 2  # TensorFlow pads one more after than before
    even = nn.Conv2d(
        conv.in_channels, conv.out_channels, kernel + 1, 2, padding=before + 1, groups=conv.groups, bias=bias
    )
    even.weight.data = F.pad(conv.weight.data, (1, 0, 1, 0)).contiguous(memory_format=torch.channels_last)
    if conv.bias is not None and even.bias is not None:
        even.bias.data = conv.bias.data
    return even


def _normalisation(name: str) -> tuple[Tensor, Tensor]:
    """Return scale and shift from ImageNet's normalisation to the backbone's."""
    config = timm.get_pretrained_cfg(name)
    mean, std = (IMAGE_MEAN, IMAGE_STD) if config is None else (config.mean, config.std)
    scale = torch.tensor(IMAGE_STD) / torch.tensor(std)
    shift = (torch.tensor(IMAGE_MEAN) - torch.tensor(mean)) / torch.tensor(std)
    return scale.view(3, 1, 1), shift.view(3, 1, 1)
