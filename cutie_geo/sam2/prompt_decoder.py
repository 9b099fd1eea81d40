"""SAM 2's prompt encoder and mask decoder for points and boxes, with their own or a shared trunk."""

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate

from cutie_geo.model.blocks import normalise
from cutie_geo.model.hiera import STAGES
from cutie_geo.sam2.networks import Sam2Model, to_square

BOX_CORNERS = (2, 3)
"""Labels of a box's corners in the prompt encoder."""


class PromptHead(nn.Module):
    """Parts of a SAM 2 after the third stage of its trunk: last stage, feature pyramid, prompt encoder, mask decoder.

    It runs in float32 and shares its weights with `sam2`, which is unchanged.

    Args:
        sam2: Network whose parts are used.
        own_trunk: Include the first three stages. Otherwise another trunk with the same weights must provide them.
    """

    def __init__(self, sam2: Sam2Model, own_trunk: bool) -> None:
        super().__init__()
        network: Any = sam2.network
        trunk = network.image_encoder.trunk
        first = trunk.stage_ends[STAGES - 1] + 1
        self.name = sam2.name
        self.side: int = network.image_size
        """Side of SAM 2's square input, in pixels."""
        self.last_stage = trunk.blocks[first:]
        self.trunk: nn.Module | None = _cut(trunk, first) if own_trunk else None
        self.neck = network.image_encoder.neck
        self.prompt_encoder = network.sam_prompt_encoder
        self.mask_decoder = network.sam_mask_decoder
        self.no_memory = network.no_mem_embed if network.directly_add_no_mem_embed else None
        self.eval()

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.prompt_encoder.no_mask_embed.weight.device

    @torch.inference_mode()
    def look(self, image: Float[Tensor, "3 H W"]) -> list[Float[Tensor, "1 _ _ _"]]:
        """Return the outputs of the first three stages, at strides 4, 8 and 16.

        Args:
            image: RGB image in [0, 1], which is resized to SAM 2's square.

        Raises:
            ValueError: If the head has no trunk.
        """
        if self.trunk is None:
            raise ValueError("look: this head has no trunk")
        return self.trunk(normalise(to_square(image[None].to(self.device, torch.float32), self.side)))

    @torch.inference_mode()
    def forward(
        self,
        stages: Sequence[Float[Tensor, "1 _ _ _"]],
        points: Sequence[tuple[Float[Tensor, "n 2"], Int[Tensor, "n"]]],
    ) -> list[Float[Tensor, "H W"]]:
        """Return the mask logits of objects, at the size of the encoded image.

        Args:
            stages: Outputs of the first three stages, at strides 4, 8 and 16.
            points: For each object, (x, y) in pixels of the encoded image and labels: 1 for foreground, 0 for
                background, 2 and 3 for the corners of a box, which come first. For a single point, which is ambiguous,
                the mask with the highest predicted IoU of three is returned.
        """
        with torch.autocast(self.device.type, enabled=False):
            embedding, details = self._pyramid([stage.to(self.device, torch.float32) for stage in stages])
            height, width = embedding.shape[-2:]
            size = (4 * details[0].shape[-2], 4 * details[0].shape[-1])
            # SAM 2 itself only supports its square
            self.prompt_encoder.image_embedding_size = (height, width)
            self.prompt_encoder.input_image_size = size
            return [self._mask(embedding, details, size, where, labels) for where, labels in points]

    def _pyramid(self, stages: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the inputs of the mask decoder: features at stride 16, and details at strides 4 and 8."""
        x = stages[-1].permute(0, 2, 3, 1)  # blocks are channels-last
        for block in self.last_stage:
            x = block(x)
        levels, _ = self.neck([*stages, x.permute(0, 3, 1, 2)])
        top = levels[2] if self.no_memory is None else levels[2] + self.no_memory.reshape(1, -1, 1, 1)
        return top, [self.mask_decoder.conv_s0(levels[0]), self.mask_decoder.conv_s1(levels[1])]

    def _mask(
        self, embedding: Tensor, details: list[Tensor], size: tuple[int, int], where: Tensor, labels: Tensor
    ) -> Float[Tensor, "H W"]:
        return self._mask_and_quality(embedding, details, size, where, labels)[0]

    @torch.inference_mode()
    def correct(
        self,
        stages: Sequence[Float[Tensor, "1 _ _ _"]],
        where: Float[Tensor, "n 2"],
        labels: Int[Tensor, "n"],
        mask: Float[Tensor, "H W"] | None = None,
    ) -> tuple[Float[Tensor, "H W"], float]:
        """Return the mask logits of one object, as `forward` does, and the predicted IoU.

        Args:
            stages: As for `forward`.
            where: (x, y) in pixels of the encoded image.
            labels: As for `forward`.
            mask: Logits of the object so far, at the size of the encoded image, which the points correct.
        """
        with torch.autocast(self.device.type, enabled=False):
            embedding, details = self._pyramid([stage.to(self.device, torch.float32) for stage in stages])
            size = (4 * details[0].shape[-2], 4 * details[0].shape[-1])
            self.prompt_encoder.image_embedding_size = (embedding.shape[-2], embedding.shape[-1])
            self.prompt_encoder.input_image_size = size
            return self._mask_and_quality(embedding, details, size, where, labels, mask)

    def _mask_and_quality(
        self,
        embedding: Tensor,
        details: list[Tensor],
        size: tuple[int, int],
        where: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
    ) -> tuple[Float[Tensor, "H W"], float]:
        prompts = (where[None].to(self.device, torch.float32), labels[None].to(self.device, torch.int32))
        coarse = None
        if mask is not None:
            inner = (4 * embedding.shape[-2], 4 * embedding.shape[-1])
            coarse = interpolate(mask[None, None].to(self.device, torch.float32), inner, mode="area")
        sparse, dense = self.prompt_encoder(points=prompts, boxes=None, masks=coarse)
        masks, quality, _, _ = self.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=len(labels) == 1 and mask is None,
            repeat_image=False,
            high_res_features=details,
        )
        place = quality[0].argmax()
        best = masks[:, place][None]
        logits = interpolate(best, size, mode="bilinear", align_corners=False)[0, 0]
        return logits, float(quality[0, place].clamp(0, 1))


def _cut(trunk: nn.Module, blocks: int) -> nn.Module:
    """Return a trunk of the first blocks that shares its weights with `trunk`, which is unchanged."""
    first = copy(trunk)
    first._modules = dict(trunk._modules)
    first.blocks = trunk.blocks[:blocks]  # type: ignore[index]
    return first
