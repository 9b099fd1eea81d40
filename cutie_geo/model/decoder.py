"""Decoder from object features to masks at stride 4, with the frequent update of sensory memory.

Source: Cutie specification, section 3.7.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.config import ModelConfig
from cutie_geo.model.blocks import ResidualBlock, SensoryUpdate
from cutie_geo.ops import area, full_precision, grouped, upsample


class MaskDecoder(nn.Module):
    """Decoder of mask logits, independently for each object."""

    def __init__(self, config: ModelConfig, c8: int, c4: int) -> None:
        super().__init__()
        dim, narrow = config.value_dim, config.decoder_dim
        self.skip8 = nn.Conv2d(c8, dim, 1)
        self.skip4 = nn.Conv2d(c4, narrow, 1)
        self.up8 = ResidualBlock(dim, narrow)
        self.up4 = ResidualBlock(narrow, narrow)
        self.predict = nn.Conv2d(narrow, 1, 3, padding=1)
        self.sensory16 = nn.Conv2d(dim, dim, 1)
        self.sensory8 = nn.Conv2d(narrow, dim, 1)
        self.sensory4 = nn.Conv2d(narrow + 1, dim, 1)
        self.sensory_update = SensoryUpdate(dim, dim)

    def skips(
        self, f8: Float[Tensor, "B C8 h8 w8"], f4: Float[Tensor, "B C4 h4 w4"]
    ) -> tuple[Float[Tensor, "B C h8 w8"], Float[Tensor, "B D h4 w4"]]:
        """Project the finer features, which all objects share, for the decoder."""
        return self.skip8(f8), self.skip4(f4)

    def forward(
        self,
        skip8: Float[Tensor, "B C h8 w8"],
        skip4: Float[Tensor, "B D h4 w4"],
        features: Float[Tensor, "B N C h w"],
        sensory: Float[Tensor, "B N C h w"],
        update_sensory: bool,
    ) -> tuple[Float[Tensor, "B N h4 w4"], Float[Tensor, "B N C h w"]]:
        """Return logits at stride 4 and sensory memory, which is updated if `update_sensory` is set."""
        p8 = grouped(self.up8, grouped(_double, features) + skip8.unsqueeze(1))
        p4 = grouped(self.up4, grouped(_double, p8) + skip4.unsqueeze(1))
        with full_precision(p4):
            logits = grouped(self.predict, F.relu(p4.float()))  # (B, N, 1, h4, w4)
        if update_sensory:
            fine = torch.cat([p4, logits.to(p4.dtype)], dim=2)
            seen = (
                grouped(self.sensory16, features)
                + grouped(self.sensory8, area(p8, 2))
                + grouped(self.sensory4, area(fine, 4))
            )
            sensory = self.sensory_update(seen, sensory)
        return logits.squeeze(2), sensory


def _double(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h2 w2"]:
    return upsample(x, 2)
