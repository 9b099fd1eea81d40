"""Long-term memory: many tokens summed up in a few, and the least used ones dropped.

Source: XMem (Cheng and Schwing, ECCV 2022); Cutie specification, sections 5.8 and 5.9.
"""

from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.ops import read_dense, similarity
from cutie_geo.structures import MemoryTokens

NEWBORN_LIFE = 1e-7
"""A new token's age in frames: not zero, because usage is divided by it."""


def fresh(
    key: Float[Tensor, "1 M CK"],
    shrinkage: Float[Tensor, "1 M 1"],
    selection: Float[Tensor, "1 M CK"],
    value: Float[Tensor, "1 N M CV"],
) -> MemoryTokens:
    """Tokens that nothing has read yet."""
    use = shrinkage.new_zeros(shrinkage.shape)
    return MemoryTokens(key, shrinkage, selection, use, use + NEWBORN_LIFE, value)


def ranked(tokens: MemoryTokens, count: int) -> Int[Tensor, "K"]:
    """Rows of the `count` tokens (all if there are fewer) that were read most per frame, most used first."""
    usage = (tokens.use / tokens.life)[0, :, 0]
    return usage.topk(min(count, tokens.count)).indices


def consolidate(candidates: MemoryTokens, num_prototypes: int) -> MemoryTokens:
    """The most used candidates as prototypes: keys and selections copied, shrinkages and values averaged over all
    candidates by how well they match the prototype."""
    chosen = candidates.take(ranked(candidates, num_prototypes))
    affinity = similarity(chosen.key, chosen.selection, candidates.key, candidates.shrinkage).softmax(dim=-1)
    value, _ = read_dense(affinity, candidates.value)
    return fresh(chosen.key, affinity @ candidates.shrinkage, chosen.selection, value)
