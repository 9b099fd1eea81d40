"""SAM 2, zero-shot: the eight published networks, built by their authors' package, with its names in every file."""

import logging
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.errors import HydraException
from jaxtyping import Float
from sam2.build_sam import build_sam2_video_predictor
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor, nn
from torch.nn.functional import interpolate

from cutie_geo.config import require
from cutie_geo.model import weights as catalogue
from cutie_geo.model.blocks import normalise
from cutie_geo.model.load import resolve_device, resolve_precision
from cutie_geo.model.saving import checkpoint_file, holds_sam2, read_sam2_description
from cutie_geo.model.tensor_files import fill, read_tensors
from cutie_geo.structures import FrozenFile

log = logging.getLogger(__name__)

RELEASES = ("sam2.1", "sam2")
"""Of September and of July 2024."""
SIZES = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
SAM2_MODELS = {
    f"{release}-hiera-{size}": f"configs/{release}/{release}_hiera_{letter}.yaml"
    for release in RELEASES
    for size, letter in SIZES.items()
}
"""The package's configuration of each model; the catalogue has their weights under the same names."""

TRUNKS = {(144, 48): "large", (112, 24): "base-plus", (96, 16): "small", (96, 12): "tiny"}
"""Sizes by what tells their files apart: channels and blocks of the trunk."""


def is_sam2(name: str) -> bool:
    """Whether a model's name means a SAM 2: a published one's name, or the folder of a fine-tuned one."""
    return name in SAM2_MODELS or holds_sam2(Path(name).expanduser())


class Sam2Features(NamedTuple):
    """What SAM 2's image encoder makes of one frame, for all objects. Depends on nothing but the frame."""

    size: tuple[int, int]
    """Height and width of the frame itself."""
    image: Float[Tensor, "1 3 S S"]
    """As the network sees it: square, normalised."""
    backbone: dict[str, list[Tensor]]
    """The package's own: feature maps (1, C, s, s) and their positions, at strides 4, 8 and 16."""


class Sam2Model(nn.Module):
    """A SAM 2 that a `Sam2Tracker` can run. `network` is the package's own predictor, which holds no video, and its
    state dict is what the package loads."""

    def __init__(self, name: str, network: SAM2VideoPredictor) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.precision = torch.float32
        """What a tracker runs the network in; weights stay float32."""
        self.loaded_from: Path | None = None
        """The file that the weights came from."""
        self.overrides: tuple[str, ...] = ()
        """What differs from the package's configuration, in hydra's grammar."""
        self.frozen_files: dict[str, FrozenFile] = {}
        """Parts that a checkpoint names instead of storing: none."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    @property
    def side(self) -> int:
        """Height and width of the square, in pixels, that every frame is stretched to."""
        return self.network.image_size

    def autocast(self) -> torch.autocast:
        """The context of this network's precision."""
        half = self.precision != torch.float32
        return torch.autocast(self.device.type, dtype=self.precision if half else None, enabled=half)

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> list[Sam2Features]:
        """Features of frames, RGB in [0, 1], which go through the image encoder as one batch."""
        size = (images.shape[-2], images.shape[-1])
        square = normalise(to_square(images, self.side))
        found = self.network.forward_image(square)
        positions = [level[:1] for level in found["vision_pos_enc"]]  # those of one frame are those of all
        return [
            Sam2Features(
                size,
                square[k : k + 1],
                {"backbone_fpn": [level[k : k + 1] for level in found["backbone_fpn"]], "vision_pos_enc": positions},
            )
            for k in range(len(images))
        ]


def to_square(images: Float[Tensor, "B 3 H W"], side: int) -> Float[Tensor, "B 3 S S"]:
    """Frames in [0, 1] stretched to a square as the package does it, which resizes bytes with Pillow's bicubic filter:
    rows first, then columns, and a rounding to 256 steps of brightness after each."""
    for size in ((images.shape[-2], side), (side, side)):
        if images.shape[-2:] != size:
            resized = interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
            images = (resized.clamp(0, 1) * 255).round() / 255
    return images


def load_sam2(
    name: str,
    weights: str | Path = "auto",
    device: str | torch.device = "auto",
    precision: str = "auto",
    overrides: Iterable[str] = (),
) -> Sam2Model:
    """A SAM 2, ready for a `Sam2Tracker`, with the package's usual post-processing.

    name: one of `SAM2_MODELS`, or a folder that training has left, which brings its weights and its changes of the
    configuration. weights: "auto" (the published ones, cached, else downloaded; their digest is checked), "none"
    (random, with a warning), or a file: .pt as published, .safetensors with the same names, or again such a folder.
    device and precision: as of `load_model`. overrides: `model.key=value` changes of the package's configuration, in
    hydra's grammar.

    Raises ValueError for anything it doesn't know and for weights that don't fit in every entry.
    """
    if name not in SAM2_MODELS and is_sam2(name):
        require(str(weights) == "auto", f"weights: got {weights} for {name}, which brings its own; wanted auto")
        name, weights = _trained_name(name), name
    require(name in SAM2_MODELS, f"{name}: no such model of SAM 2; wanted one of {', '.join(SAM2_MODELS)}")
    place = resolve_device(device)
    dtype = resolve_precision(precision, place)
    file = None
    if str(weights) != "none":
        file = catalogue.fetch(name) if str(weights) == "auto" else checkpoint_file(Path(weights).expanduser())
    changes = _with_saved(name, file, overrides)
    model = Sam2Model(name, _network(name, changes))
    model.overrides = tuple(changes)
    if file is None:
        log.warning("%s: random weights in every part: its masks mean nothing", name)
    else:
        log.info("%s: %d entries loaded from %s", name, _fill(model, file), file)
        model.loaded_from = file
    model.precision = dtype
    if place.type != "cuda" or find_spec("sam2._C") is None:
        # holes are filled by a compiled kernel; without it the package leaves them, with a warning at every frame
        model.network.fill_hole_area = 0
    return model.eval().to(place)


def _trained_name(folder: str) -> str:
    """Which SAM 2 a folder has fine-tuned weights of. Raises ValueError for a damaged one."""
    described = read_sam2_description(checkpoint_file(Path(folder).expanduser()))
    require(described is not None, f"{folder}: its weights don't say what they are of, wanted what training has left")
    assert described is not None
    return described.name


def _with_saved(name: str, file: Path | None, overrides: Iterable[str]) -> list[str]:
    """Overrides over those that a trained file asks for. Raises ValueError for a file of another model."""
    described = None if file is None else read_sam2_description(file)
    if described is None:
        return list(overrides)
    require(described.name == name, f"{file}: trained weights of {described.name}, wanted those of {name}")
    own = {_changed(item) for item in overrides}
    return [*(item for item in described.overrides if _changed(item) not in own), *overrides]


def _changed(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").strip()


def _network(name: str, overrides: list[str]) -> Any:
    """The package's predictor with weights that are random, and the same ones on every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return build_sam2_video_predictor(SAM2_MODELS[name], device="cpu", hydra_overrides_extra=list(overrides))
        except HydraException as error:
            raise ValueError(f"{name}: overrides {overrides}: {' '.join(str(error).split())}") from None


def _fill(model: Sam2Model, file: Path) -> int:
    """Give the network a file's tensors, every one; return how many."""
    tensors = read_tensors(file)
    looks_like = _looks_like(tensors)
    hint = f" (the file looks like {looks_like})" if looks_like and looks_like != model.name else ""
    return fill(model.network, tensors, str(file), model.name + hint)


def _looks_like(tensors: Mapping[str, Tensor]) -> str:
    """Which published model a file seems to be of; empty for files of something else."""
    patches = tensors.get("image_encoder.trunk.patch_embed.proj.bias")
    blocks = {name.split(".")[3] for name in tensors if name.startswith("image_encoder.trunk.blocks.")}
    size = None if patches is None else TRUNKS.get((patches.numel(), len(blocks)))
    release = RELEASES[0] if "no_obj_embed_spatial" in tensors else RELEASES[1]
    return f"{release}-hiera-{size}" if size else ""
