"""From a frame and its masks to what memory keeps: values, sensory memory, object summaries."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.config import ModelConfig
from cutie_geo.model.blocks import ObjectFusion, ResNetFeatures, SensoryUpdate
from cutie_geo.ops import area, full_precision, grouped, sine_positions, to_tokens


class MaskEncoder(nn.Module):
    """One mask value map for each object, and the deep update of sensory memory.

    Source: Cutie specification, section 3.3.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.features = ResNetFeatures(config.mask_encoder, in_channels=4 if config.single_object else 5)
        self.fusion = ObjectFusion(config.value_dim, self.features.channels[-1], config.value_dim)
        self.sensory_update = SensoryUpdate(config.value_dim, config.value_dim)

    def forward(
        self,
        image: Float[Tensor, "B 3 H W"],
        pixel: Float[Tensor, "B C h w"],
        masks: Float[Tensor, "B N K H W"],
        sensory: Float[Tensor, "B N C h w"],
        deep_update: bool = True,
    ) -> tuple[Float[Tensor, "B N C h w"], Float[Tensor, "B N C h w"]]:
        """Values and the new sensory memory. `image` is normalised; `masks` are each object's own mask and, unless the
        network is for single objects, the sum of the others'."""
        images = image.unsqueeze(1).expand(-1, masks.shape[1], -1, -1, -1)
        objects = grouped(lambda x: self.features(x)[-1], torch.cat([images, masks.to(image.dtype)], dim=2))
        value = self.fusion(pixel, objects)
        return value, self.sensory_update(value, sensory) if deep_update else sensory


class ObjectSummarizer(nn.Module):
    """Mean features of an object's foreground and background, as sums and weights that can be added over frames.

    Source: Cutie specification, section 3.4.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, queries = config.value_dim, config.num_queries
        self.config = config
        self.project = nn.Linear(dim, dim)
        self.feature = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.weight = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, queries))

    def forward(
        self, masks: Float[Tensor, "B N H W"], value: Float[Tensor, "B N C h w"]
    ) -> tuple[Float[Tensor, "B N Q S"], Float[Tensor, "B N h w Q"]]:
        """Summaries, features and then their weight in the last axis (S = C + 1), and the weights' logits."""
        size = (value.shape[-2], value.shape[-1])
        inside = to_tokens(area(masks, masks.shape[-1] // size[1]).unsqueeze(2)).float()  # (B, N, P, 1)
        half = self.config.num_queries // 2
        share = torch.cat([inside.expand(*inside.shape[:-1], half), (1 - inside).expand(*inside.shape[:-1], half)], -1)
        x = self.project(to_tokens(value))
        x = x + sine_positions(
            size, x.shape[-1], self.config.position_scale, self.config.position_temperature, x.device
        ).to(x.dtype)
        with full_precision(x):
            x = x.float()
            logits = self.weight(x)
            weight = (logits.sigmoid() * share).transpose(-1, -2)  # (B, N, Q, P)
            summary = torch.cat([weight @ self.feature(x), weight.sum(-1, keepdim=True)], dim=-1)
        return summary, logits.unflatten(2, size)


def with_extra_channel(weight: Float[Tensor, "O I *k"], channels: int) -> Float[Tensor, "O I2 *k"]:
    """A convolution's weight widened to `channels` inputs (new ones orthogonal) or cut to them, at the end.

    Turns a single-object network's weights into a multi-object network's and back.
    Source: Cutie specification, section 3.10.
    """
    missing = channels - weight.shape[1]
    if missing <= 0:
        return weight[:, :channels].clone()
    return torch.cat([weight, nn.init.orthogonal_(weight.new_empty(weight.shape[0], missing, *weight.shape[2:]))], 1)


class PixelFusion(nn.Module):
    """What was read from memory, joined with sensory memory and the last masks.

    Source: Cutie specification, section 3.5.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.value_dim
        self.sensory = nn.Conv2d(dim + (1 if config.single_object else 2), dim, 1)
        self.fusion = ObjectFusion(dim, dim, dim)

    def forward(
        self,
        pixel: Float[Tensor, "B C h w"],
        read: Float[Tensor, "B N C h w"],
        sensory: Float[Tensor, "B N C h w"],
        masks: Float[Tensor, "B N K h w"],
    ) -> Float[Tensor, "B N C h w"]:
        """`masks` as in `MaskEncoder`, but of the frame before and at stride 16."""
        state = torch.cat([sensory, masks.to(sensory.dtype)], dim=2)
        return self.fusion(pixel, read + grouped(self.sensory, state))


FUSED_GAIN = 10.0
"""Of keys behind the fusion of encoders, which starts at random and gives small features. With a gain of 1, which suits
a ResNet from ImageNet, keys are so alike that every position reads the mean of the memory, and training takes long to
leave that: docs/experiments.md has the figures."""


class KeyProjection(nn.Module):
    """Keys, shrinkage and selection of a frame. Float32 whatever the autocast: small differences of keys decide.

    Source: Cutie specification, section 3.2.
    """

    def __init__(self, in_channels: int, value_dim: int, key_dim: int, gain: float = 1.0) -> None:
        """gain: how far apart keys start; see `FUSED_GAIN`."""
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, value_dim, 1)
        self.key = nn.Conv2d(value_dim, key_dim, 3, padding=1)
        self.shrinkage = nn.Conv2d(value_dim, 1, 3, padding=1)
        self.selection = nn.Conv2d(value_dim, key_dim, 3, padding=1)
        nn.init.orthogonal_(self.key.weight.data, gain)
        nn.init.zeros_(self.key.bias.data)  # type: ignore[union-attr]

    def forward(self, f16: Float[Tensor, "B C h w"]) -> tuple[Tensor, Tensor, Tensor]:
        """(B, P, CK), (B, P, 1) and (B, P, CK)."""
        with full_precision(f16):
            x = self.reduce(f16.float())
            return (
                to_tokens(self.key(x)),
                to_tokens(self.shrinkage(x).square() + 1),
                to_tokens(F.sigmoid(self.selection(x))),
            )
