"""Building blocks that several parts of the network share. Source: Cutie specification, section 2."""

import math

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.ops import full_precision, grouped

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def normalise(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """An RGB image in [0, 1] with ImageNet's mean and standard deviation taken out."""
    mean = image.new_tensor(IMAGE_MEAN).view(3, 1, 1)
    std = image.new_tensor(IMAGE_STD).view(3, 1, 1)
    return (image - mean) / std


class ResNetFeatures(nn.Module):
    """The first three stages of a ResNet: features at strides 4, 8 and 16.

    Batch normalisation always uses its stored statistics, in training too; its weights and biases are trained.
    """

    def __init__(self, name: str, in_channels: int = 3) -> None:
        super().__init__()
        self.body = timm.create_model(
            name, pretrained=False, features_only=True, out_indices=(1, 2, 3), in_chans=in_channels
        )
        self.channels: tuple[int, ...] = tuple(self.body.feature_info.channels())

    def train(self, mode: bool = True) -> "ResNetFeatures":
        """Stay in evaluation mode whatever is asked."""
        return super().train(False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> list[Tensor]:
        return self.body(x)


class ChannelGatedBlock(nn.Module):
    """A residual block of two convolutions whose output is scaled by a gate for each channel (CAResBlock)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        reach = int((abs(math.log2(channels)) + 1) / 2)
        kernel = reach if reach % 2 else reach + 1
        self.gate = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        y = self.conv2(F.relu(self.conv1(F.relu(x))))
        gate = self.gate(y.mean(dim=(-2, -1)).unsqueeze(1)).sigmoid().transpose(1, 2)  # (B, C, 1)
        return torch.addcmul(x, y, gate.unsqueeze(-1).to(y.dtype)) if x.dtype == y.dtype else y * gate.unsqueeze(-1) + x


class ResidualBlock(nn.Module):
    """Two convolutions, with activations before them, beside a shortcut (GroupResBlock)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 h w"]:
        return self.conv2(F.relu(self.conv1(F.relu(x)))) + self.shortcut(x)


class ObjectFusion(nn.Module):
    """Features that all objects share, and features of each object, made into one map for each object (FusionBlock)."""

    def __init__(self, shared_channels: int, object_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(shared_channels, out_channels, 1)
        self.per_object = nn.Conv2d(object_channels, out_channels, 1)
        self.block1 = ChannelGatedBlock(out_channels)
        self.block2 = ChannelGatedBlock(out_channels)

    def forward(self, shared: Float[Tensor, "B C h w"], objects: Float[Tensor, "B N C2 h w"]) -> Tensor:
        """(B, N, D, h, w)."""
        mixed = grouped(self.per_object, objects) + self.shared(shared).unsqueeze(1)
        return grouped(lambda x: self.block2(self.block1(x)), mixed)


class SensoryUpdate(nn.Module):
    """Sensory memory's recurrent unit. Float32 whatever the autocast: its state lives as long as the video."""

    def __init__(self, input_channels: int, sensory_channels: int) -> None:
        super().__init__()
        self.transform = nn.Conv2d(input_channels + sensory_channels, 3 * sensory_channels, 3, padding=1)
        nn.init.xavier_normal_(self.transform.weight)

    def forward(
        self, x: Float[Tensor, "B N C h w"], sensory: Float[Tensor, "B N D h w"]
    ) -> Float[Tensor, "B N D h w"]:
        with full_precision(x):
            both = torch.cat([x.float(), sensory.float()], dim=2)
            forget, update, candidate = grouped(self.transform, both).chunk(3, dim=2)
            update = update.sigmoid()
            return forget.sigmoid() * sensory * (1 - update) + update * candidate.tanh()
