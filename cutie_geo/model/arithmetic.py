"""Counting a network's arithmetic as torch does, whatever kernel attention takes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def flop_counter() -> FlopCounterMode:
    """A context that counts operations, a multiply-add being two, in matrix products, convolutions and attention.

    torch 2.14 does not know the arithmetic of the attention that it runs on a CPU, and would count none.
    """
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: _attention})


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Of queries, keys and values of these shapes."""
    return sdpa_flop_count(query, key, value)
