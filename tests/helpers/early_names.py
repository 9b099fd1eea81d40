"""Modules of transformers under the names that its early releases gave them."""

from torch import nn


def name_as_early(attention: nn.Module) -> None:
    """Rearrange a DINOv2 layer's attention so that its tensors have the names of transformers 4 and early 5."""
    if hasattr(attention, "q_proj"):
        attention.attention, attention.output = nn.Module(), nn.Module()
        for old, new in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
            setattr(attention.attention, old, getattr(attention, new))
            delattr(attention, new)
        attention.output.dense = attention.o_proj
        del attention.o_proj
