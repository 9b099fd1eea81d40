"""The pixel encoder: one image in, features at strides 16, 8 and 4 out."""

from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.config import EncoderConfig
from cutie_geo.model.blocks import ResNetFeatures


class ResNetEncoder(nn.Module):
    """Cutie's own encoder. Source: Cutie specification, section 3.1."""

    multiple = 16
    """Both sides of a frame are padded to a multiple of this many pixels."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.features = ResNetFeatures(name)
        c4, c8, c16 = self.features.channels
        self.channels = (c16, c8, c4)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor, Tensor]:
        """Features at strides 16, 8 and 4 of a normalised image."""
        f4, f8, f16 = self.features(image)
        return f16, f8, f4


def build_encoder(config: EncoderConfig) -> ResNetEncoder:
    """The encoder that a configuration names, with random weights."""
    return ResNetEncoder(config.vision)
