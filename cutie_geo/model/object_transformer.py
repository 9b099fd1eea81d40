"""Object transformer, with attention between object queries and pixel features.

Source: Cutie (Cheng et al., CVPR 2024); Cutie specification, section 3.6.
"""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cutie_geo.config import ModelConfig
from cutie_geo.model.blocks import Attention, ChannelGatedBlock
from cutie_geo.ops import grouped, in_object_chunks, sine_positions, soft_aggregate, to_map, to_tokens

SUMMARY_EPSILON = 1e-4


def foreground_masks(
    logits: Float[Tensor, "B N h w"], selector: Float[Tensor, "B N"] | None
) -> Bool[Tensor, "B N h w"]:
    """Return True where an object is at least as likely as background and every other object, without gradients."""
    probs = logits.detach().sigmoid()
    if selector is not None:
        probs = probs * selector[..., None, None]
    aggregated = soft_aggregate(probs)
    return aggregated[:, 1:] >= aggregated.amax(dim=1, keepdim=True)


def blocked_positions(foreground: Bool[Tensor, "B N h w"], num_queries: int) -> Bool[Tensor, "B N Q P"]:
    """Return the attention mask of queries, True where a query may not attend.

    The first half of the queries attends to the foreground, the second half to the background. A query whose region is
    empty attends to all positions.
    """
    inside = foreground.flatten(2).unsqueeze(2)  # (B, N, 1, P)
    half = num_queries // 2
    blocked = torch.cat([~inside, inside], dim=2).repeat_interleave(half, dim=2)
    return blocked & ~blocked.all(dim=-1, keepdim=True)


class ObjectTransformerBlock(nn.Module):
    """Block of cross-attention to pixels, self-attention of queries, and cross-attention from pixels to queries."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, heads = config.value_dim, config.num_heads
        self.read_pixels_norm = nn.LayerNorm(dim)
        self.read_pixels = Attention(dim, heads)
        self.self_attention_norm = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, heads)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, config.feedforward_dim), nn.ReLU(), nn.Linear(config.feedforward_dim, dim)
        )
        self.read_queries = Attention(dim, heads)
        self.pixels = ChannelGatedBlock(dim)

    def forward(
        self,
        query: Float[Tensor, "b Q C"],
        query_position: Float[Tensor, "b Q C"],
        x: Float[Tensor, "b C h w"],
        pixel_position: Float[Tensor, "b P C"],
        blocked: Bool[Tensor, "b Q P"],
    ) -> tuple[Float[Tensor, "b Q C"], Float[Tensor, "b C h w"]]:
        """Return the new queries and pixel features of b = B * N objects."""
        pixels = to_tokens(x)
        # both attentions add to the normalised query, not to the query before it: trained weights depend on it
        query = self.read_pixels_norm(query)
        query = query + self.read_pixels(query + query_position, pixels + pixel_position, pixels, blocked)
        query = self.self_attention_norm(query)
        query = query + self.self_attention(query + query_position, query + query_position, query)
        query = query + self.feedforward(self.feedforward_norm(query))
        pixels = pixels + self.read_queries(pixels + pixel_position, query + query_position, query)
        return query, self.pixels(to_map(pixels, (x.shape[-2], x.shape[-1])))


class ObjectTransformer(nn.Module):
    """Transformer that refines the pixel readout with object queries from object memory."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.value_dim
        self.config = config
        self.query = nn.Embedding(config.num_queries, dim)
        self.query_position = nn.Embedding(config.num_queries, dim)
        self.summary_to_query = nn.Linear(dim, dim)
        self.summary_to_position = nn.Linear(dim, dim)
        self.pixel = nn.Conv2d(dim, dim, 1)
        self.pixel_position = nn.Conv2d(dim, dim, 1)
        self.blocks = nn.ModuleList(ObjectTransformerBlock(config) for _ in range(config.num_blocks))
        self.masks = nn.ModuleList(nn.Conv2d(dim, 1, 1) for _ in range(config.num_blocks + 1))

    def forward(
        self,
        fused: Float[Tensor, "B N C h w"],
        summary: Float[Tensor, "B N Q S"],
        selector: Float[Tensor, "B N"] | None = None,
        chunk: int = -1,
    ) -> tuple[Float[Tensor, "B N C h w"], Float[Tensor, "B N L h w"]]:
        """Return the refined features, and the mask logits before the first block and after each block.

        Objects interact only in `foreground_masks`, between blocks, so a block can process them in chunks.
        """
        query, query_position, x, pixel_position, logits = in_object_chunks(self._start, fused, summary, chunk=chunk)
        all_logits = [logits]
        for index in range(len(self.blocks)):
            blocked = blocked_positions(foreground_masks(logits, selector), self.config.num_queries)
            query, x, logits = in_object_chunks(
                partial(self._advance, index), query, query_position, x, pixel_position, blocked, chunk=chunk
            )
            all_logits.append(logits)
        return x, torch.stack(all_logits, dim=2)

    def _start(self, fused: Float[Tensor, "B N C h w"], summary: Float[Tensor, "B N Q S"]) -> tuple[Tensor, ...]:
        """Return initial queries and pixel features, each followed by its positions, and the first mask logits."""
        mean = summary[..., :-1] / (summary[..., -1:] + SUMMARY_EPSILON)
        x = grouped(self.pixel, fused)
        return (
            self.query.weight + self.summary_to_query(mean),
            self.query_position.weight + self.summary_to_position(mean),
            x,
            to_tokens(grouped(self.pixel_position, fused)) + self._sines(fused),
            self._mask(0, x),
        )

    def _advance(self, index: int, *per_object: Tensor) -> tuple[Tensor, ...]:
        """Return queries, pixel features and mask logits after block `index`."""
        shape = per_object[0].shape[:2]
        query, x = (y.unflatten(0, shape) for y in self.blocks[index](*(y.flatten(0, 1) for y in per_object)))
        return query, x, self._mask(index + 1, x)

    def _mask(self, index: int, x: Float[Tensor, "B N C h w"]) -> Float[Tensor, "B N h w"]:
        return grouped(lambda y: self.masks[index](F.relu(y)), x).squeeze(2)

    def _sines(self, x: Float[Tensor, "B N C h w"]) -> Float[Tensor, "P C"]:
        size, config = (x.shape[-2], x.shape[-1]), self.config
        return sine_positions(size, x.shape[2], config.position_scale, config.position_temperature, x.device).to(
            x.dtype
        )
