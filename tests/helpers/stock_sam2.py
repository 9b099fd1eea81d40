"""SAM 2 as small as it gets, and the package's own predictor on the same weights and frames, as a judge."""

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity_rules import synthetic_video
from PIL import Image
from sam2.build_sam import build_sam2_video_predictor
from torch import Tensor

from cutie_geo.sam2.networks import SAM2_MODELS, Sam2Model, load_sam2

WIDTHS = {
    64: (
        "image_encoder.neck.d_model",
        "image_encoder.neck.position_encoding.num_pos_feats",
        "memory_attention.d_model",
        "memory_attention.layer.d_model",
        "memory_attention.layer.dim_feedforward",
        "memory_attention.layer.self_attention.embedding_dim",
        "memory_attention.layer.cross_attention.embedding_dim",
        "memory_encoder.in_dim",
        "memory_encoder.mask_downsampler.embed_dim",
        "memory_encoder.fuser.layer.dim",
    ),
    16: (
        "image_encoder.trunk.embed_dim",
        "memory_attention.layer.cross_attention.kv_in_dim",
        "memory_encoder.out_dim",
        "memory_encoder.position_encoding.num_pos_feats",
    ),
}
TINY = (
    "model.image_size=64",
    "model.image_encoder.trunk.stages=[1,1,2,1]",
    "model.image_encoder.trunk.global_att_blocks=[3]",
    "model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "model.memory_attention.num_layers=2",
    *(f"++model.{name}={width}" for width, names in WIDTHS.items() for name in names),
)
SIZE = (61, 93)
SCORE = {"sam2.1-hiera-tiny": 3.6, "sam2-hiera-tiny": 1.85}
"""Brings the objects' random scores to both sides of zero."""


@torch.no_grad()
def tiny_sam2(name: str = "sam2.1-hiera-tiny", overrides: Iterable[str] = ()) -> Sam2Model:
    """A network whose random weights make masks of both signs, and objects that come and go."""
    model = load_sam2(name, "none", "cpu", "fp32", [*TINY, *overrides])
    generator = torch.Generator().manual_seed(0)
    for tensor in model.network.state_dict().values():
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.2)
    model.network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.add_(SCORE[name])
    return model


def video(frames: int, folder: Path) -> tuple[Tensor, Tensor]:
    """A clip of three objects, written to `folder` as the package wants it and read back, and its label maps."""
    images, labels = synthetic_video(*SIZE, frames)
    read = []
    for t, image in enumerate(images):
        pixels = np.ascontiguousarray((image * 255).round().astype(np.uint8).transpose(1, 2, 0))
        Image.fromarray(pixels).save(folder / f"{t:05}.jpg", quality=95)
        with Image.open(folder / f"{t:05}.jpg") as file:
            read.append(torch.from_numpy(np.array(file)).permute(2, 0, 1).float() / 255)
    return torch.stack(read), torch.from_numpy(labels)


class Stock:
    """The package's predictor, with its defaults, on a folder of frames."""

    def __init__(self, model: Sam2Model, folder: Path, overrides: Iterable[str] = ()) -> None:
        self.network = build_sam2_video_predictor(
            SAM2_MODELS[model.name], device="cpu", hydra_overrides_extra=[*TINY, *overrides]
        )
        self.network.load_state_dict(model.network.state_dict())
        self.state = self.network.init_state(str(folder))

    def see(self, images: Iterable[Tensor]) -> None:
        """Look at these normalised squares instead of the folder's."""
        self.state["images"], self.state["cached_features"] = torch.cat(list(images)), {}

    def give(self, frame: int, labels: Tensor, ids: Iterable[int]) -> None:
        """Masks of some objects on one frame."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the kernel that fills holes is not compiled, says every call
            for i in ids:
                self.network.add_new_mask(self.state, frame, i, labels == i)

    def follow(self, start: int, stop: int) -> Iterator[Tensor]:
        """Logits of all objects (N, H, W) on the frames from `start` up to `stop`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = self.network.propagate_in_video(self.state, start, stop - 1 - start)
            for _, _, logits in results:
                yield logits[:, 0]

    def held(self) -> int:
        """Bytes of all tensors that the predictor's state holds, each counted once."""
        return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors(self.state)}.values())


def tensors(content: Any) -> Iterator[Tensor]:
    """Those in dictionaries, lists and tuples of any depth."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict):
        yield from tensors(list(content.values()))
    elif isinstance(content, (list, tuple)):
        for one in content:
            yield from tensors(one)
