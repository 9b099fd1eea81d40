"""Encoders from a frame and its masks to memory values, sensory memory and object summaries."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.config import ModelConfig
from cutie_geo.model.blocks import ObjectFusion, ResNetFeatures, SensoryUpdate
from cutie_geo.ops import area, full_precision, grouped, sine_positions, to_tokens
from cutie_geo.regions import Window


class MaskEncoder(nn.Module):
    """Encoder of mask values for each object, with the deep update of sensory memory.

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
        windows: Sequence[Window | None] | None = None,
    ) -> tuple[Float[Tensor, "B N C h w"], Float[Tensor, "B N C h w"]]:
        """Encode masks.

        Args:
            image: Normalised image.
            masks: Each object's mask and, unless the network is a single-object network, the sum of the other masks.
            windows: Part of the frame in which the backbone encodes each object, and in which its sensory memory is
                updated; None is all of it. Outside its window, an object shares the features of the frame with all
                masks as other masks.

        Returns:
            Values and the new sensory memory.
        """
        images = image.unsqueeze(1).expand(-1, masks.shape[1], -1, -1, -1)
        inputs = torch.cat([images, masks.to(image.dtype)], dim=2)
        objects = grouped(self._encode, inputs) if windows is None else self._encode_windows(inputs, windows)
        value = self.fusion(pixel, objects)
        if not deep_update:
            return value, sensory
        if windows is None:
            return value, self.sensory_update(value, sensory)
        updated = sensory.clone()
        for slot, window in enumerate(windows):
            own = updated[:, slot : slot + 1], value[:, slot : slot + 1], sensory[:, slot : slot + 1]
            target, *parts = own if window is None else map(window.crop, own)
            target.copy_(self.sensory_update(*parts))
        return value, updated

    def _encode(self, x: Float[Tensor, "B K H W"]) -> Float[Tensor, "B C h w"]:
        return self.features(x)[-1]

    def _encode_windows(
        self, inputs: Float[Tensor, "B N K H W"], windows: Sequence[Window | None]
    ) -> Float[Tensor, "B N C h w"]:
        """Encode every object in its window, and what surrounds the windows once."""
        shared = inputs[:, 0].clone()
        shared[:, 3] = 0
        shared[:, 4:] = inputs[:, :, 3].sum(1, keepdim=True)
        surroundings = self._encode(shared)
        stride = inputs.shape[-1] // surroundings.shape[-1]
        objects = []
        for slot, window in enumerate(windows):
            if window is None:
                objects.append(self._encode(inputs[:, slot]))
                continue
            objects.append(surroundings.clone())
            window.crop(objects[-1]).copy_(self._encode(window.crop(inputs[:, slot], stride)))
        return torch.stack(objects, dim=1)


class ObjectSummarizer(nn.Module):
    """Weighted sums of an object's foreground and background features, which can be added over frames.

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
        """Return summaries, whose last axis holds C features and their weight (S = C + 1), and the weight logits."""
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
    """Extend a convolution's weight to `channels` inputs, with orthogonal new ones at the end, or truncate it.

    Converts weights between single-object and multi-object networks.
    Source: Cutie specification, section 3.10.
    """
    missing = channels - weight.shape[1]
    if missing <= 0:
        return weight[:, :channels].clone()
    return torch.cat([weight, nn.init.orthogonal_(weight.new_empty(weight.shape[0], missing, *weight.shape[2:]))], 1)


class PixelFusion(nn.Module):
    """Fusion of the memory readout with sensory memory and the previous masks.

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
        """Fuse the readout; `masks` are as in `MaskEncoder`, but of the previous frame and at stride 16."""
        state = torch.cat([sensory, masks.to(sensory.dtype)], dim=2)
        return self.fusion(pixel, read + grouped(self.sensory, state))


FUSED_GAIN = 10.0
"""Initial gain of the key projection of fused encoders. Their randomly initialised fusion gives small features: with a
gain of 1, as for a pre-trained ResNet, keys are so similar that every position reads the mean of the memory, which
slows down training."""


class KeyProjection(nn.Module):
    """Projection of features to keys, shrinkage and selection, always in float32: small key differences matter.

    Source: Cutie specification, section 3.2.
    """

    def __init__(self, in_channels: int, value_dim: int, key_dim: int, gain: float = 1.0) -> None:
        """Build the projection; `gain` scales the initial key weights, see `FUSED_GAIN`."""
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, value_dim, 1)
        self.key = nn.Conv2d(value_dim, key_dim, 3, padding=1)
        self.shrinkage = nn.Conv2d(value_dim, 1, 3, padding=1)
        self.selection = nn.Conv2d(value_dim, key_dim, 3, padding=1)
        nn.init.orthogonal_(self.key.weight.data, gain)
        nn.init.zeros_(self.key.bias.data)  # type: ignore[union-attr]

    def forward(self, f16: Float[Tensor, "B C h w"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return key (B, P, CK), shrinkage (B, P, 1) and selection (B, P, CK)."""
        with full_precision(f16):
            x = self.reduce(f16.float())
            return (
                to_tokens(self.key(x)),
                to_tokens(self.shrinkage(x).square() + 1),
                to_tokens(F.sigmoid(self.selection(x))),
            )
