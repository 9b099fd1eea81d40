"""Masks from points and boxes: SAM 2's prompt encoder and mask decoder, behind its own trunk or one that is there."""

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate

from cutie_geo.model.blocks import normalise
from cutie_geo.model.hiera import STAGES
from cutie_geo.model.sam2 import Sam2Model, to_square

BOX_CORNERS = (2, 3)
"""Labels that the prompt encoder knows a box's corners by."""


class PromptHead(nn.Module):
    """All of a SAM 2 that lies between the third stage of its trunk and a mask: the last stage, the feature pyramid,
    the prompt encoder and the mask decoder, as the package has them; always in float32.

    own_trunk: keep the first three stages too; without them another trunk with the same weights has to give theirs.
    The weights are those of `sam2`, not copies of them, and `sam2` stays as it is.
    """

    def __init__(self, sam2: Sam2Model, own_trunk: bool) -> None:
        super().__init__()
        network: Any = sam2.network
        trunk = network.image_encoder.trunk
        first = trunk.stage_ends[STAGES - 1] + 1
        self.name = sam2.name
        self.side: int = network.image_size
        """Height and width of the square that SAM 2 was trained on."""
        self.last_stage = trunk.blocks[first:]
        self.trunk: nn.Module | None = _cut(trunk, first) if own_trunk else None
        self.neck = network.image_encoder.neck
        self.prompt_encoder = network.sam_prompt_encoder
        self.mask_decoder = network.sam_mask_decoder
        self.no_memory = network.no_mem_embed if network.directly_add_no_mem_embed else None
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.prompt_encoder.no_mask_embed.weight.device

    @torch.inference_mode()
    def look(self, image: Float[Tensor, "3 H W"]) -> list[Float[Tensor, "1 _ _ _"]]:
        """The ends of the first three stages, at strides 4, 8 and 16, of an RGB image in [0, 1] that is stretched to
        SAM 2's square. Raises ValueError without a trunk."""
        if self.trunk is None:
            raise ValueError("look: this head has no trunk of its own")
        return self.trunk(normalise(to_square(image[None].to(self.device, torch.float32), self.side)))

    @torch.inference_mode()
    def forward(
        self,
        stages: Sequence[Float[Tensor, "1 _ _ _"]],
        points: Sequence[tuple[Float[Tensor, "n 2"], Int[Tensor, "n"]]],
    ) -> list[Float[Tensor, "H W"]]:
        """The mask logits of objects, at the size of the image whose stages are given: 4 pixels for one of the first.

        points: for each object, x and y in pixels of that image, and labels: 1 on it, 0 beside it, 2 and 3 for the
        corners of a box, which come first. Of a single point, which may mean a part or the whole, SAM 2 makes three
        masks, and the one that it thinks best is taken.
        """
        with torch.autocast(self.device.type, enabled=False):
            embedding, details = self._pyramid([stage.to(self.device, torch.float32) for stage in stages])
            height, width = embedding.shape[-2:]
            size = (4 * details[0].shape[-2], 4 * details[0].shape[-1])
            # SAM 2 itself only ever sees its square
            self.prompt_encoder.image_embedding_size = (height, width)
            self.prompt_encoder.input_image_size = size
            return [self._mask(embedding, details, size, where, labels) for where, labels in points]

    def _pyramid(self, stages: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What the mask decoder looks at: features at stride 16, and details at strides 4 and 8."""
        x = stages[-1].permute(0, 2, 3, 1)  # blocks want channels last
        for block in self.last_stage:
            x = block(x)
        levels, _ = self.neck([*stages, x.permute(0, 3, 1, 2)])
        top = levels[2] if self.no_memory is None else levels[2] + self.no_memory.reshape(1, -1, 1, 1)
        return top, [self.mask_decoder.conv_s0(levels[0]), self.mask_decoder.conv_s1(levels[1])]

    def _mask(
        self, embedding: Tensor, details: list[Tensor], size: tuple[int, int], where: Tensor, labels: Tensor
    ) -> Float[Tensor, "H W"]:
        prompts = (where[None].to(self.device, torch.float32), labels[None].to(self.device, torch.int32))
        sparse, dense = self.prompt_encoder(points=prompts, boxes=None, masks=None)
        masks, quality, _, _ = self.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=len(labels) == 1,
            repeat_image=False,
            high_res_features=details,
        )
        best = masks[:, quality[0].argmax()][None]
        return interpolate(best, size, mode="bilinear", align_corners=False)[0, 0]


def _cut(trunk: nn.Module, blocks: int) -> nn.Module:
    """A trunk's first blocks as a trunk that has the same weights; the other one stays whole."""
    first = copy(trunk)
    first._modules = dict(trunk._modules)
    first.blocks = trunk.blocks[:blocks]  # type: ignore[index]
    return first
