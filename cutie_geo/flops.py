"""FLOP counter that supports all attention kernels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def flop_counter() -> FlopCounterMode:
    """Return a context that counts FLOPs of matrix products, convolutions and attention; a multiply-add counts as two.

    torch 2.14 has no FLOP formula for its CPU attention kernel and would count 0.
    """
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: _attention})


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Return the FLOPs of attention for inputs of these shapes."""
    return sdpa_flop_count(query, key, value)
