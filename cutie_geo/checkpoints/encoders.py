"""Loading of published encoder weights in all their formats into the parts of `FusedEncoder`."""

import re
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Float
from torch import Tensor

from cutie_geo.checkpoints.catalogue import digest
from cutie_geo.checkpoints.tensor_files import fill, read_tensors
from cutie_geo.config import EncoderConfig, require
from cutie_geo.model.blocks import ResNetFeatures
from cutie_geo.model.encoder import MAE_GRID, FusedEncoder
from cutie_geo.model.mask_encoder import with_extra_channel
from cutie_geo.model.tensor_names import attention_name
from cutie_geo.model.timm_import import import_timm
from cutie_geo.structures import FrozenFile

if TYPE_CHECKING:  # its import takes seconds, and other encoders don't need it
    from cutie_geo.model.hiera import HieraFeatures
    from cutie_geo.model.timm_backbone import TimmFeatures

Names = list[tuple[str, str | Callable[[re.Match], str]]]


PACKAGE = "package:"
"""Prefix of a weights file given as the name of an installed Python package."""
WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors", ".bin")


class PartLoaded(NamedTuple):
    """Result of loading one part."""

    file: FrozenFile
    form: str
    """Format of the file."""
    loaded: int
    """Number of loaded tensors."""
    aside: int
    """Number of unused tensors of the file, those of parts that the network does not have."""

    def __str__(self) -> str:
        return f"{self.loaded} tensors loaded from {self.file.name} ({self.form}), {self.aside} left aside"


class _Form(NamedTuple):
    """Checkpoint format of a published network."""

    name: str
    mark: str
    """Pattern that matches a name in files of this format and no name in other formats."""
    names: Names
    """Patterns of the file's names and their replacements by the modules' names, applied in order."""
    outside: str = r"(?!)"
    """Pattern of renamed entries that belong to other networks in the same file."""


_TIMM_MLP: Names = [(r"\.mlp\.fc1\.", ".mlp.layers.0."), (r"\.mlp\.fc2\.", ".mlp.layers.1.")]

VISION_FORMS = [
    _Form("sam2", r"^image_encoder\.", [(r"^image_encoder\.", "")], outside=r"^(?!trunk\.|neck\.)"),
    _Form(
        "transformers",
        r"^vision_encoder\.",
        [
            (r"^vision_encoder\.backbone\.", "trunk."),
            (r"^vision_encoder\.neck\.convs\.(\d+)\.", r"neck.convs.\1.conv."),
            (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
            (r"\.layer_norm([12])\.", r".norm\1."),
            (r"\.mlp\.proj_in\.", ".mlp.layers.0."),
            (r"\.mlp\.proj_out\.", ".mlp.layers.1."),
        ],
        outside=r"^(?!trunk\.|neck\.)",
    ),
    _Form(
        "timm",
        r"^(model\.)?pos_embed_window$",
        [(r"^(model\.)?", "trunk."), *_TIMM_MLP],
        outside=r"^trunk\.(head|norm)\.",
    ),
]
"""Formats of SAM 2's encoder: the original checkpoints, those of transformers, and timm's trunks."""

MAE_FORMS = [
    _Form(
        "timm",
        r"^pos_embed$",
        [(r"^", "trunk."), *_TIMM_MLP],
        outside=r"^trunk\.(head|norm|encoder_norm|decoder\w*|mask_token|multi_scale_fusion_heads)\b",
    )
]
"""Format of Hiera's masked autoencoder, which has a single absolute position table."""


_LAYER = r"^backbone\.encoder\.layer\.(\d+)\."
_SAME_LAYER = r"backbone.encoder.layer.\1."
GEOMETRY_FORMS = [
    _Form(
        "depth-anything",
        r"^depth_head\.",
        [
            (r"^pretrained\.pos_embed$", "backbone.embeddings.position_embeddings"),
            (r"^pretrained\.(cls_token|mask_token)$", r"backbone.embeddings.\1"),
            (r"^pretrained\.patch_embed\.proj\.", "backbone.embeddings.patch_embeddings.projection."),
            (r"^pretrained\.norm\.", "backbone.layernorm."),
            (r"^pretrained\.blocks\.", "backbone.encoder.layer."),
            (_LAYER + r"attn\.proj\.", _SAME_LAYER + "attention.o_proj."),
            (_LAYER + r"attn\.([qkv])\.", _SAME_LAYER + r"attention.\2_proj."),
            (_LAYER + r"ls([12])\.gamma$", _SAME_LAYER + r"layer_scale\2.lambda1"),
            (r"^depth_head\.projects\.(\d)\.", r"neck.reassemble_stage.layers.\1.projection."),
            (r"^depth_head\.resize_layers\.(\d)\.", r"neck.reassemble_stage.layers.\1.resize."),
            (r"^depth_head\.scratch\.output_conv1\.", "head.conv1."),
            (r"^depth_head\.scratch\.output_conv2\.0\.", "head.conv2."),
            (r"^depth_head\.scratch\.output_conv2\.2\.", "head.conv3."),
            # the original code counts maps from 1, and fusion stages from the finest
            *((rf"^depth_head\.scratch\.layer{i + 1}_rn\.", f"neck.convs.{i}.") for i in range(4)),
            *((rf"^depth_head\.scratch\.refinenet{4 - i}\.", f"neck.fusion_stage.layers.{i}.") for i in range(4)),
            (r"(fusion_stage\.layers\.\d)\.out_conv\.", r"\1.projection."),
            (r"(fusion_stage\.layers\.\d)\.resConfUnit([12])\.conv([12])\.", r"\1.residual_layer\2.convolution\3."),
        ],
    ),
    _Form(
        "transformers",
        r"^neck\.fusion_stage\.",
        [(r"^.*$", lambda found: attention_name(found[0]))],  # files on the hub keep the names of transformers 4
    ),
]
"""Formats of Depth Anything V2: the original checkpoints, and those of transformers."""


WIDTHS = {
    "trunk.patch_embed.proj.bias": {144: "hiera-large", 112: "hiera-base-plus", 96: "hiera-tiny"},
    "backbone.embeddings.cls_token": {
        1024: "depth-anything-v2-large",
        768: "depth-anything-v2-base",
        384: "depth-anything-v2-small",
    },
}
"""Published networks by the number of channels of a tensor, for hints in errors."""


# ------------------------------------------------------------------------------------------------------- loading
def weights_path(given: str) -> Path:
    """Return the path of `weights.vision` or `weights.geometry`.

    `package:NAME` is the weights file of an installed Python package, which is not imported.

    Raises:
        ValueError: If the package is not installed, or has no weights file or several.
    """
    if not given.startswith(PACKAGE):
        return Path(given).expanduser()
    name = given.removeprefix(PACKAGE)
    try:
        files = metadata.distribution(name).files or []
    except (metadata.PackageNotFoundError, ValueError):
        raise ValueError(f"{given}: no such package is installed; `pip install {name}` installs it") from None
    found = [Path(str(file.locate())) for file in files if file.suffix in WEIGHT_SUFFIXES]
    some = ", ".join(path.name for path in found) or "none"
    require(
        len(found) == 1, f"{given}: got weights files {some}, expected one that ends in {', '.join(WEIGHT_SUFFIXES)}"
    )
    return found[0]


def load_part(encoder: FusedEncoder, config: EncoderConfig, part: str, path: Path) -> PartLoaded:
    """Load the part `vision` or `geometry` of an encoder from a published checkpoint in any of its formats.

    Raises:
        ValueError: If the file is damaged, of another network, size or release, or if any tensor of the part is
            missing, extra, of another shape or not finite; the part is unchanged.
    """
    tensors = read_tensors(path)
    if part == "geometry":
        form, what, given = _form(GEOMETRY_FORMS, tensors, path, "Depth Anything V2"), config.geometry, dict(tensors)
        if form.name == "depth-anything":
            given = _split_attention(given)
        given, aside, module = _renamed(form, given, path), 0, getattr(encoder.geometry, "model", None)
    elif config.is_timm:
        from cutie_geo.model.timm_backbone import TimmFeatures

        assert isinstance(encoder.vision, TimmFeatures), "built by its configuration"
        return _load_timm(encoder.vision, tensors, path)
    else:
        from cutie_geo.model.hiera import HieraFeatures

        assert isinstance(encoder.vision, HieraFeatures), "built by its configuration"
        is_mae = config.vision_init == "mae"
        forms, kind = (MAE_FORMS, "Hiera's masked autoencoder") if is_mae else (VISION_FORMS, "SAM 2")
        form, what, module = _form(forms, tensors, path, kind), config.vision, encoder.vision
        if not is_mae:
            _require_release(form, tensors, config.vision_init, path)
        given, aside = _inside(form, _renamed(form, tensors, path), encoder.vision)
        if is_mae:
            given = _with_split_positions(given, path)
    require(module is not None, f"{path}: a {part} file for a network without {part} encoder")
    assert module is not None
    fill(module, given, str(path), what + _hint(given, what))
    return PartLoaded(FrozenFile(path.name, digest(path, "sha256")), form.name, len(tensors) - aside, aside)


COUNTS = ".num_batches_tracked"
"""Suffix of the names of unused tensors."""


def _load_timm(vision: "TimmFeatures", tensors: Mapping[str, Tensor], path: Path) -> PartLoaded:
    """Load a backbone of timm from timm's own file, or from one of the same network with other names.

    A file without any of timm's names is expected to have the same tensors in the same order; every shape is checked.
    """
    from cutie_geo.model.timm_backbone import features_only

    whole = import_timm().create_model(vision.name, pretrained=False)
    wanted = {name: tensor for name, tensor in whole.state_dict().items() if not name.endswith(COUNTS)}
    given = {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTS)}
    what, form = f"timm/{vision.name}", "timm"
    if not wanted.keys() & given.keys():
        form = "in timm's order"
        require(len(given) == len(wanted), f"{path}: got {len(given)} tensors, expected the {len(wanted)} of {what}")
        given = dict(zip(wanted, given.values()))
    fill(whole, given, str(path), what)
    body = features_only(vision.name, vision.strides)[0]
    # timm's sources of features have the same names, or "_" in place of the first "."
    by_name = {name: name for name in whole.state_dict()} | {n.replace(".", "_", 1): n for n in whole.state_dict()}
    inside = {name: whole.state_dict()[by_name[name]] for name in body.state_dict() if name in by_name}
    fill(body, inside, str(path), what)
    vision.fill_from(body)
    loaded = sum(not name.endswith(COUNTS) for name in inside)
    return PartLoaded(FrozenFile(path.name, digest(path, "sha256")), form, loaded, len(tensors) - loaded)


BEHIND_STAGES = ("layer4.", "fc.")
"""Name prefixes of a classifier's layers after the used stages."""


def load_resnet(features: ResNetFeatures, path: Path, what: str) -> PartLoaded:
    """Load a ResNet from a classifier in torchvision's format, for example of ImageNet.

    Input channels after the image's are initialised orthogonally. Source: Cutie specification, section 3.9.

    Args:
        features: Network to load.
        path: File of the weights.
        what: Name of the network, for errors.

    Raises:
        ValueError: If the file is damaged or of another network.
    """
    tensors = read_tensors(path)
    given = {name: tensor for name, tensor in tensors.items() if not name.startswith(BEHIND_STAGES)}
    first, wanted = given.get("conv1.weight"), features.body.state_dict()["conv1.weight"]
    if first is not None and first.ndim == 4 and first.shape[1] == 3:
        given["conv1.weight"] = with_extra_channel(first, wanted.shape[1])
    fill(features.body, given, str(path), what)
    return PartLoaded(
        FrozenFile(path.name, digest(path, "sha256")), "torchvision", len(given), len(tensors) - len(given)
    )


def _form(forms: list[_Form], tensors: Mapping[str, Tensor], path: Path, kind: str) -> _Form:
    """Detect the checkpoint format.

    Raises:
        ValueError: If no known format matches.
    """
    for form in forms:
        if any(re.search(form.mark, name) for name in tensors):
            return form
    some = ", ".join(list(tensors)[:3])
    raise ValueError(f"{path}: got a file with {some}, ...; expected {kind} as published by {_names(forms)}")


def _names(forms: list[_Form]) -> str:
    return " or ".join(form.name for form in forms)


def _renamed(form: _Form, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename a file's tensors to the names of the modules."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in form.names:
            name = re.sub(pattern, replacement, name)
        require(name not in renamed, f"{path}: holds {name} twice")
        renamed[name] = tensor
    return renamed


def _inside(form: _Form, given: dict[str, Tensor], vision: "HieraFeatures") -> tuple[dict[str, Tensor], int]:
    """Select the tensors of the vision encoder; return them and the number of other tensors.

    Other tensors are those of other networks of SAM 2, of the feature pyramid if it is not used, and of unused stages.
    """

    def wanted(name: str) -> bool:
        if re.search(form.outside, name) or (name.startswith("neck.") and vision.neck is None):
            return False
        block = re.match(r"trunk\.blocks\.(\d+)\.", name)
        # blocks beyond the full network's depth are kept, and reported as extra
        return block is None or int(block[1]) not in vision.left_out

    inside = {name: tensor for name, tensor in given.items() if wanted(name)}
    return inside, len(given) - len(inside)


def _require_release(form: _Form, tensors: Mapping[str, Tensor], wanted: str, path: Path) -> None:
    """Raise ValueError if a file is of another release of SAM 2; timm's trunks are not checked."""
    marks = {"sam2": "no_obj_embed_spatial", "transformers": "occlusion_spatial_embedding_parameter"}
    # the release of a single trunk cannot be determined
    if form.name not in marks or not any(name.startswith(("memory_encoder.", "memory_attention.")) for name in tensors):
        return
    got = "sam2.1" if marks[form.name] in tensors else "sam2"
    require(
        got == wanted, f"{path}: got weights of {got}, expected {wanted} (encoder.vision_init={got} takes the file)"
    )


def _split_attention(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split the fused QKV weights of Depth Anything's transformer, as in transformers."""
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." in name and tensor.ndim and tensor.shape[0] % 3 == 0 and not tensor.is_meta:
            for letter, rows in zip("qkv", tensor.chunk(3)):
                split[name.replace(".attn.qkv.", f".attn.{letter}.")] = rows
        else:
            split[name] = tensor
    return split


def _hint(given: Mapping[str, Tensor], what: str) -> str:
    """Return a hint about the network of a file if it differs from `what`."""
    name = what
    for entry, names in WIDTHS.items():
        if entry in given and given[entry].ndim:
            name = names.get(given[entry].shape[-1], what)
    if name == "hiera-tiny" and any(entry.startswith("trunk.blocks.12.") for entry in given):
        name = "hiera-small"  # same width, but more than hiera-tiny's 12 blocks
    return "" if name == what else f" (the file looks like {name})"


# ----------------------------------------------------------------------------------------------------- positions
def _with_split_positions(given: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    table = given.get("trunk.pos_embed")
    good = table is not None and table.ndim == 3 and table.shape[:2] == (1, MAE_GRID**2)
    shape = None if table is None else tuple(table.shape)
    require(good, f"{path}: positions of shape {shape}, expected (1, {MAE_GRID**2}, channels)")
    assert table is not None
    window = given["trunk.blocks.0.norm1.weight"].shape[0] if "trunk.blocks.0.norm1.weight" in given else 0
    require(window == table.shape[2], f"{path}: positions of {table.shape[2]} channels, expected {window}")
    background, window_table = split_positions(table.float())
    return given | {"trunk.pos_embed": background, "trunk.pos_embed_window": window_table}


def split_positions(
    table: Float[Tensor, "1 T C"], window: int = 8
) -> tuple[Float[Tensor, "1 C h w"], Float[Tensor, "1 C k k"]]:
    """Split an absolute position table into SAM 2's two tables, a global table and a window table.

    The global table is interpolated to the frame, the window table is tiled; on the original grid their sum is the
    absolute table.

    The absolute table P of h x w tokens was trained with attention in windows of k x k tokens and contains a periodic
    pattern. Interpolating P would misalign this pattern with the windows (Bolya et al., "Window attention is bugged",
    2023). The window table is therefore the mean over windows,

        W[a, b] = mean over i, j of P[k i + a, k j + b],

    which is the least-squares fit of a repeated tile. The global table is the remainder, B = P - tile(W), at the full
    h x w (SAM 2's own global table of 7 x 7 or 14 x 14 is too small for it).
    """
    side = int(table.shape[1] ** 0.5)
    grid = table.reshape(side, side, -1).permute(2, 0, 1)
    tiles = grid.unflatten(1, (-1, window)).unflatten(3, (-1, window))  # (C, rows, k, columns, k)
    tile = tiles.mean(dim=(1, 3))
    background = grid - tile.repeat(1, side // window, side // window)
    return background[None], tile[None]


def catalogue_name(config: EncoderConfig, part: str) -> str:
    """Return the catalogue's name of a part's initial weights."""
    if part == "geometry":
        return config.geometry
    if config.is_timm:
        return config.vision
    size = config.vision.removeprefix("hiera-")
    return f"hiera-{size}-mae" if config.vision_init == "mae" else f"{config.vision_init}-hiera-{size}"
