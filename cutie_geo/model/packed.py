"""Convolutions and linear layers that keep converted weights for inference on a CPU.

Autocast converts the weights of every call anew in torch's inference mode, and oneDNN reorders them to its own layout
before it computes. Both depend on the weights alone, and together take as long as a small convolution.
"""

import copy
import platform
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake

T = TypeVar("T")

NO_ACTIVATION: tuple[str, list[float]] = ("none", [])
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}
"""Names and arguments in oneDNN of the activations that a convolution can compute on its output."""


def _packed_types() -> frozenset[torch.dtype]:
    """Return the types in which this machine and this build of torch have oneDNN's fused operators."""
    names = ("_reorder_convolution_weight", "_convolution_pointwise", "_is_mkldnn_bf16_supported")
    known = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)
    if not known or platform.machine().lower() not in ("x86_64", "amd64"):
        return frozenset()
    half = {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    return frozenset({torch.float32} | half)


PACKED_TYPES = _packed_types()


class Derived(Generic[T]):
    """Value computed from tensors, kept until one of them changes.

    A change through `.data`, which torch does not count, is not noticed. Copies and pickles of the owner do not
    include the value.
    """

    def __init__(self) -> None:
        self.kept: tuple[Hashable, T] | None = None

    def get(self, tensors: Iterable[Tensor | None], compute: Callable[[], T], key: Hashable = None) -> T:
        """Return the value for `tensors` and `key`, which `compute` returns if they have changed."""
        state = (key, tuple(_version(tensor) for tensor in tensors))
        if self.kept is None or self.kept[0] != state:
            self.kept = (state, compute())
        return self.kept[1]

    def forget(self) -> None:
        """Compute the value again at the next call."""
        self.kept = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Derived, ()


def _version(tensor: Tensor | None) -> tuple[int, int]:
    """Return the address of a tensor and its count of in-place changes, without reading its values."""
    if tensor is None:
        return 0, 0
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def computes_ahead(x: Tensor) -> bool:
    """Return True in inference mode on a CPU, outside torch's compiler and tracing."""
    return (
        x.device.type == "cpu" and torch.is_inference_mode_enabled()
        and not torch.compiler.is_compiling() and not is_fake(x)
    )  # fmt: skip


def inference_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which autocast computes convolutions of `x`."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


class PackedConv2d(nn.Conv2d):
    """Convolution that keeps its weights in bfloat16 and in oneDNN's layout for inference on a CPU.

    Results equal those of `nn.Conv2d` up to rounding; in float32, and elsewhere, they are those of `nn.Conv2d`.
    """

    activation: tuple[str, list[float]] = NO_ACTIVATION
    """Activation of the output, which `fused` sets: only then is float32 packed too."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "PackedConv2d":
        """Return a convolution with the parameters of `conv`, not copied."""
        new = cls.__new__(cls)
        new.__dict__.update(conv.__dict__)
        new.packed = Derived[tuple[Tensor, Tensor | None]]()
        return new

    packed: Derived[tuple[Tensor, Tensor | None]]

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O h w"]:
        dtype = inference_dtype(x)
        if self.activation is NO_ACTIVATION and not (dtype == torch.bfloat16 and is_packed(x)):
            return super().forward(x)
        weight, bias = self.packed.get((self.weight, self.bias), lambda: self._pack(dtype, x), dtype)
        layout = [list(self.padding), list(self.stride), list(self.dilation), self.groups]
        return torch.ops.mkldnn._convolution_pointwise(x.to(dtype), weight, bias, *layout, *self.activation, "")

    def _pack(self, dtype: torch.dtype, x: Tensor) -> tuple[Tensor, Tensor | None]:
        layout = [list(self.padding), list(self.stride), list(self.dilation), self.groups]
        weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight.detach().to(dtype), *layout, list(x.shape))
        return weight, None if self.bias is None else self.bias.detach().to(dtype)


class KeptLinear(nn.Linear):
    """Linear layer that keeps its weights in bfloat16 for inference on a CPU; else as `nn.Linear`."""

    kept: Derived[tuple[Tensor, Tensor | None]]

    @classmethod
    def of(cls, linear: nn.Linear) -> "KeptLinear":
        """Return a layer with the parameters of `linear`, not copied."""
        new = cls.__new__(cls)
        new.__dict__.update(linear.__dict__)
        new.kept = Derived[tuple[Tensor, Tensor | None]]()
        return new

    def forward(self, x: Float[Tensor, "*lead I"]) -> Float[Tensor, "*lead O"]:
        dtype = inference_dtype(x)
        if dtype != torch.bfloat16 or not computes_ahead(x):
            return super().forward(x)
        weight, bias = self.kept.get((self.weight, self.bias), lambda: self._convert(dtype), dtype)
        return F.linear(x, weight, bias)  # autocast converts `x`

    def _convert(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        return self.weight.detach().to(dtype), None if self.bias is None else self.bias.detach().to(dtype)


def is_packed(x: Tensor) -> bool:
    """Return True if a packed convolution of `x` uses its packed weights."""
    return inference_dtype(x) in PACKED_TYPES and computes_ahead(x)


def pack(body: nn.Module, leave: tuple[str, ...] = ()) -> None:
    """Replace all plain convolutions and linear layers within `body` except in its parts `leave`.

    Parameters and their names stay.
    """
    for name, module in list(body.named_modules()):
        if name.startswith(leave):
            continue
        if type(module) is nn.Conv2d and _can_pack(module):
            body.set_submodule(name, PackedConv2d.of(module))
        elif type(module) is nn.Linear:
            body.set_submodule(name, KeptLinear.of(module))


def with_fused_activations(body: nn.Module) -> nn.Module:
    """Return a network of the same parameters for `is_packed` inputs, whose convolutions compute their activations.

    It equals `body` only if each activation follows the convolution that is registered before it.
    """
    body = copy.deepcopy(body, {id(weight): weight for weight in body.parameters()})
    before: tuple[str, nn.Conv2d] | None = None
    for name, module in list(body.named_modules()):
        if isinstance(module, nn.Conv2d):
            before = (name, module) if _can_pack(module) else None
        elif before is not None and type(module) in ACTIVATIONS:
            conv = PackedConv2d.of(before[1])
            conv.activation = ACTIVATIONS[type(module)]
            body.set_submodule(before[0], conv)
            body.set_submodule(name, nn.Identity())
            before = None
        elif not isinstance(module, nn.Identity) and not list(module.children()):
            before = None
    pack(body)
    return body


def _can_pack(conv: nn.Conv2d) -> bool:
    return (
        conv.padding_mode == "zeros" and not isinstance(conv.padding, str) and type(conv) in (nn.Conv2d, PackedConv2d)
    )
