"""SAM 2 networks of the `sam2` package, with the package's tensor names in all files."""

import logging
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from sam2.build_sam import build_sam2_video_predictor
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor, nn
from torch.nn.functional import interpolate

from cutie_geo.checkpoints import catalogue
from cutie_geo.checkpoints.load import resolve_device, resolve_precision
from cutie_geo.checkpoints.saving import checkpoint_file
from cutie_geo.checkpoints.tensor_files import fill, read_tensors
from cutie_geo.config import require, require_plain
from cutie_geo.model.blocks import normalise
from cutie_geo.sam2.names import RELEASES, SAM2_MODELS, holds_sam2
from cutie_geo.sam2.saving import Sam2Description, read_sam2_description
from cutie_geo.structures import FrozenFile

log = logging.getLogger(__name__)

REASON = 500
"""Maximum number of characters of another package's error in an error message."""

TRUNKS = {(144, 48): "large", (112, 24): "base-plus", (96, 16): "small", (96, 12): "tiny"}
"""Model sizes by number of channels and of blocks of the trunk."""


class Sam2Features(NamedTuple):
    """Outputs of SAM 2's image encoder for one frame, shared by all objects."""

    size: tuple[int, int]
    """Height and width of the frame."""
    image: Float[Tensor, "1 3 S S"]
    """Network input: square, normalised."""
    backbone: dict[str, list[Tensor]]
    """Feature maps (1, C, s, s) and their positions, at strides 4, 8 and 16, in the package's format."""


class Sam2Model(nn.Module):
    """SAM 2 network for `Sam2Tracker`.

    `network` is the package's predictor without the state of a video; the package loads its state dict.
    """

    def __init__(self, name: str, network: SAM2VideoPredictor) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.precision = torch.float32
        """Floating-point type of inference; weights stay float32."""
        self.loaded_from: Path | None = None
        """File of the weights."""
        self.overrides: tuple[str, ...] = ()
        """Overrides of the package's configuration, in hydra's grammar."""
        self.frozen_files: dict[str, FrozenFile] = {}
        """Empty: checkpoints store all parts."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.network.device

    @property
    def description(self) -> Sam2Description:
        """Name and overrides, enough to build the network."""
        return Sam2Description(self.name, list(self.overrides))

    def compilable(self) -> tuple[nn.Module, ...]:
        """Return no parts: the package's predictor does not support torch.compile."""
        return ()

    @property
    def side(self) -> int:
        """Side, in pixels, of the square to which every frame is resized."""
        return self.network.image_size

    def autocast(self) -> torch.autocast:
        """Return the autocast context of this network's precision."""
        half = self.precision != torch.float32
        return torch.autocast(self.device.type, dtype=self.precision if half else None, enabled=half)

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> list[Sam2Features]:
        """Encode frames, RGB in [0, 1], as one batch."""
        size = (images.shape[-2], images.shape[-1])
        square = normalise(to_square(images, self.side))
        found = self.network.forward_image(square)
        positions = [level[:1] for level in found["vision_pos_enc"]]  # the same for all frames
        return [
            Sam2Features(
                size,
                square[k : k + 1],
                {"backbone_fpn": [level[k : k + 1] for level in found["backbone_fpn"]], "vision_pos_enc": positions},
            )
            for k in range(len(images))
        ]


def to_square(images: Float[Tensor, "B 3 H W"], side: int) -> Float[Tensor, "B 3 S S"]:
    """Resize frames in [0, 1] to a square, as the package does with Pillow's bicubic filter.

    Rows are resized before columns, with rounding to 8 bits after each.
    """
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
    """Load a SAM 2 network for a `Sam2Tracker`, with the package's default post-processing.

    Args:
        name: One of `SAM2_MODELS`, or the folder of a fine-tuned model with its weights and overrides.
        weights: "auto" (published weights, downloaded if needed), "none" (random, with a warning), a .pt or
            .safetensors file with the package's tensor names, or the folder of a fine-tuned model.
        device: See `load_model`.
        precision: See `load_model`.
        overrides: `model.key=value` overrides of the package's configuration, in hydra's grammar.

    Raises:
        ValueError: For unknown names and options, and for weights that do not match in every entry.
    """
    if name not in SAM2_MODELS and holds_sam2(Path(name).expanduser()):
        require(str(weights) == "auto", f"weights: got {weights} for {name}, which has its own weights; expected auto")
        name, weights = _trained_name(name), name
    require(name in SAM2_MODELS, f"{name}: no such model of SAM 2; expected one of {', '.join(SAM2_MODELS)}")
    place = resolve_device(device)
    dtype = resolve_precision(precision, place)
    file = None
    if str(weights) != "none":
        file = catalogue.fetch(name) if str(weights) == "auto" else checkpoint_file(Path(weights).expanduser())
    changes = _with_saved(name, file, overrides)
    model = Sam2Model(name, _network(name, changes))
    model.overrides = tuple(changes)
    if file is None:
        log.warning("%s: random weights in every part: its masks are meaningless", name)
    else:
        log.info("%s: %d entries loaded from %s", name, _fill(model, file), file)
        model.loaded_from = file
    model.precision = dtype
    if place.type != "cuda" or find_spec("sam2._C") is None:
        # the package fills holes with a compiled kernel; without it, it would only warn on every frame
        model.network.fill_hole_area = 0
    return model.eval().to(place)


def _trained_name(folder: str) -> str:
    """Return the name of the SAM 2 in a folder. Raises ValueError if its description is missing or damaged."""
    described = read_sam2_description(checkpoint_file(Path(folder).expanduser()))
    require(
        described is not None, f"{folder}: its weights have no description, expected the folder of a fine-tuned SAM 2"
    )
    assert described is not None
    return described.name


def _with_saved(name: str, file: Path | None, overrides: Iterable[str]) -> list[str]:
    """Merge overrides into those of a checkpoint. Raises ValueError for a checkpoint of another model."""
    described = None if file is None else read_sam2_description(file)
    if described is None:
        return list(overrides)
    require(described.name == name, f"{file}: trained weights of {described.name}, expected those of {name}")
    own = {_changed(item) for item in overrides}
    return [*(item for item in described.overrides if _changed(item) not in own), *overrides]


def _changed(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").strip()


def _network(name: str, overrides: list[str]) -> Any:
    """Build the package's predictor with random weights, the same on every call.

    Raises:
        ValueError: For overrides that are not plain values, before hydra sees them, and for those that do not fit.
    """
    require_plain(overrides, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return build_sam2_video_predictor(SAM2_MODELS[name], device="cpu", hydra_overrides_extra=list(overrides))
        except MemoryError:
            raise
        except Exception as error:  # hydra, omegaconf and the network's constructors raise many types
            raise ValueError(f"{name}: overrides {overrides}: {' '.join(str(error).split())[:REASON]}") from None


def _fill(model: Sam2Model, file: Path) -> int:
    """Load all tensors of a file strictly; return their number."""
    tensors = read_tensors(file)
    looks_like = _looks_like(tensors)
    hint = f" (the file looks like {looks_like})" if looks_like and looks_like != model.name else ""
    return fill(model.network, tensors, str(file), model.name + hint)


def _looks_like(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the published model that a file resembles, or an empty string."""
    patches = tensors.get("image_encoder.trunk.patch_embed.proj.bias")
    blocks = {name.split(".")[3] for name in tensors if name.startswith("image_encoder.trunk.blocks.")}
    size = None if patches is None else TRUNKS.get((patches.numel(), len(blocks)))
    release = RELEASES[0] if "no_obj_embed_spatial" in tensors else RELEASES[1]
    return f"{release}-hiera-{size}" if size else ""
