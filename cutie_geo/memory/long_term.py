"""Long-term memory: consolidation of tokens into prototypes, and ranking of tokens by usage.

Source: XMem (Cheng and Schwing, ECCV 2022); Cutie specification, sections 5.8 and 5.9.
"""

from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.ops import read_dense, similarity
from cutie_geo.structures import MemoryTokens

NEWBORN_LIFE = 1e-7
"""Age of a new token, in frames; not zero, because usage is divided by it."""


def fresh(
    key: Float[Tensor, "1 M CK"],
    shrinkage: Float[Tensor, "1 M 1"],
    selection: Float[Tensor, "1 M CK"],
    value: Float[Tensor, "1 N M CV"],
) -> MemoryTokens:
    """Return tokens without usage."""
    use = shrinkage.new_zeros(shrinkage.shape)
    return MemoryTokens(key, shrinkage, selection, use, use + NEWBORN_LIFE, value)


def ranked(tokens: MemoryTokens, count: int) -> Int[Tensor, "K"]:
    """Return the rows of the `count` most used tokens (all if there are fewer), most used first."""
    usage = (tokens.use / tokens.life)[0, :, 0]
    return usage.topk(min(count, tokens.count)).indices


def consolidate(candidates: MemoryTokens, num_prototypes: int) -> MemoryTokens:
    """Consolidate candidates into prototypes at the most used candidates.

    Keys and selections are copied; shrinkages and values are averaged over all candidates, weighted by their affinity
    to the prototype.
    """
    chosen = candidates.take(ranked(candidates, num_prototypes))
    affinity = similarity(chosen.key, chosen.selection, candidates.key, candidates.shrinkage).softmax(dim=-1)
    value, _ = read_dense(affinity, candidates.value)
    return fresh(chosen.key, affinity @ candidates.shrinkage, chosen.selection, value)
