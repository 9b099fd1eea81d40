"""The published encoders' weights, in every form in which they are published, for the parts of `FusedEncoder`."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from cutie_geo.config import EncoderConfig, require
from cutie_geo.model.blocks import ResNetFeatures
from cutie_geo.model.encoder import MAE_GRID, FusedEncoder
from cutie_geo.model.mask_encoder import with_extra_channel
from cutie_geo.model.names import attention_name
from cutie_geo.model.tensor_files import fill, read_tensors
from cutie_geo.model.weights import digest
from cutie_geo.structures import FrozenFile

Names = list[tuple[str, str | Callable[[re.Match], str]]]


class PartLoaded(NamedTuple):
    """What came of loading one part."""

    file: FrozenFile
    form: str
    """Whose names the file uses."""
    loaded: int
    """Tensors of the file that were used."""
    aside: int
    """Tensors of the file that belong to what this network doesn't have."""

    def __str__(self) -> str:
        return f"{self.loaded} tensors loaded from {self.file.name} ({self.form}), {self.aside} left aside"


class _Form(NamedTuple):
    """One way in which a network's weights are published."""

    name: str
    mark: str
    """A pattern that some name in such a file matches, and none in the other forms."""
    names: Names
    """The file's names and those of our modules; every pattern that matches is applied, in order."""
    outside: str = r"(?!)"
    """Renamed entries that match belong to other networks in the same file."""


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
"""SAM 2's encoder: its authors' files, those of transformers, and timm's trunks."""

MAE_FORMS = [
    _Form(
        "timm",
        r"^pos_embed$",
        [(r"^", "trunk."), *_TIMM_MLP],
        outside=r"^trunk\.(head|norm|encoder_norm|decoder\w*|mask_token|multi_scale_fusion_heads)\b",
    )
]
"""Hiera's masked autoencoder, which has one table of positions and no windowed one."""


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
            # the authors count maps from 1, and fusion stages from the finest
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
"""Depth Anything V2: its authors' files, and those of transformers."""


WIDTHS = {
    "trunk.patch_embed.proj.bias": {144: "hiera-large", 112: "hiera-base-plus", 96: "hiera-tiny"},
    "backbone.embeddings.cls_token": {
        1024: "depth-anything-v2-large",
        768: "depth-anything-v2-base",
        384: "depth-anything-v2-small",
    },
}
"""Published networks by the channels of a tensor that all sizes have, for hints in errors."""


# ------------------------------------------------------------------------------------------------------- loading
def load_part(encoder: FusedEncoder, config: EncoderConfig, part: str, path: Path) -> PartLoaded:
    """Fill the part `vision` or `geometry` of an encoder from a published file in any of its forms.

    Strict: raises ValueError naming the file if it is damaged, of another network, size or release, or if any tensor
    of the part is missing, extra, of another shape or not finite. The part is unchanged then.
    """
    tensors = read_tensors(path)
    if part == "geometry":
        form, what, given = _form(GEOMETRY_FORMS, tensors, path, "Depth Anything V2"), config.geometry, dict(tensors)
        if form.name == "depth-anything":
            given = _split_attention(given)
        given, aside, module = _renamed(form, given, path), 0, getattr(encoder.geometry, "model", None)
    else:
        is_mae = config.vision_init == "mae"
        forms, kind = (MAE_FORMS, "Hiera's masked autoencoder") if is_mae else (VISION_FORMS, "SAM 2")
        form, what, module = _form(forms, tensors, path, kind), config.vision, encoder.vision
        if not is_mae:
            _require_release(form, tensors, config.vision_init, path)
        given, aside = _inside(form, _renamed(form, tensors, path), encoder)
        if is_mae:
            given = _with_split_positions(given, path)
    require(module is not None, f"{path}: a {part} file for a network without {part} encoder")
    assert module is not None
    fill(module, given, str(path), what + _hint(given, what))
    return PartLoaded(FrozenFile(path.name, digest(path, "sha256")), form.name, len(tensors) - aside, aside)


BEHIND_STAGES = ("layer4.", "fc.")
"""What a classifier has behind the stages that are used."""


def load_resnet(features: ResNetFeatures, path: Path, what: str) -> PartLoaded:
    """Fill a ResNet with a classifier's weights in torchvision's form, of ImageNet for example; input channels beyond
    the image's start orthogonal. Source: Cutie specification, section 3.9.

    Strict: raises ValueError naming the file if it is damaged or another network's. `what` is which network is wanted.
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
    """Which of the forms a file has. Raises ValueError for none."""
    for form in forms:
        if any(re.search(form.mark, name) for name in tensors):
            return form
    some = ", ".join(list(tensors)[:3])
    raise ValueError(f"{path}: got a file with {some}, ...; wanted {kind} as published by {_names(forms)}")


def _names(forms: list[_Form]) -> str:
    return " or ".join(form.name for form in forms)


def _renamed(form: _Form, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A file's tensors under the names of our modules."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in form.names:
            name = re.sub(pattern, replacement, name)
        require(name not in renamed, f"{path}: holds {name} twice")
        renamed[name] = tensor
    return renamed


def _inside(form: _Form, given: dict[str, Tensor], encoder: FusedEncoder) -> tuple[dict[str, Tensor], int]:
    """What of a file the vision encoder has, and how much it has not: other networks of SAM 2, the feature pyramid
    where stages are wanted, and the stage behind the last that is needed."""

    def wanted(name: str) -> bool:
        if re.search(form.outside, name) or (name.startswith("neck.") and encoder.vision.neck is None):
            return False
        block = re.match(r"trunk\.blocks\.(\d+)\.", name)
        # blocks beyond the full network's depth stay, and are reported as extra
        return block is None or int(block[1]) not in encoder.vision.left_out

    inside = {name: tensor for name, tensor in given.items() if wanted(name)}
    return inside, len(given) - len(inside)


def _require_release(form: _Form, tensors: Mapping[str, Tensor], wanted: str, path: Path) -> None:
    """Raise ValueError if a file is of the other release of SAM 2. timm's trunks don't tell."""
    marks = {"sam2": "no_obj_embed_spatial", "transformers": "occlusion_spatial_embedding_parameter"}
    # a trunk cut out of such a file tells no more than timm's
    if form.name not in marks or not any(name.startswith(("memory_encoder.", "memory_attention.")) for name in tensors):
        return
    got = "sam2.1" if marks[form.name] in tensors else "sam2"
    require(got == wanted, f"{path}: got weights of {got}, wanted {wanted} (encoder.vision_init={got} takes the file)")


def _split_attention(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of Depth Anything's transformer one by one, as transformers keeps them."""
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." in name and tensor.ndim and tensor.shape[0] % 3 == 0 and not tensor.is_meta:
            for letter, rows in zip("qkv", tensor.chunk(3)):
                split[name.replace(".attn.qkv.", f".attn.{letter}.")] = rows
        else:
            split[name] = tensor
    return split


def _hint(given: Mapping[str, Tensor], what: str) -> str:
    """Which network a file seems to be of, where that is not the one wanted."""
    name = what
    for entry, names in WIDTHS.items():
        if entry in given and given[entry].ndim:
            name = names.get(given[entry].shape[-1], what)
    if name == "hiera-tiny" and any(entry.startswith("trunk.blocks.12.") for entry in given):
        name = "hiera-small"  # as wide, but deeper than hiera-tiny's 12 blocks
    return "" if name == what else f" (the file looks like {name})"


# ----------------------------------------------------------------------------------------------------- positions
def _with_split_positions(given: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    table = given.get("trunk.pos_embed")
    good = table is not None and table.ndim == 3 and table.shape[:2] == (1, MAE_GRID**2)
    shape = None if table is None else tuple(table.shape)
    require(good, f"{path}: positions of shape {shape}, wanted (1, {MAE_GRID**2}, channels)")
    assert table is not None
    window = given["trunk.blocks.0.norm1.weight"].shape[0] if "trunk.blocks.0.norm1.weight" in given else 0
    require(window == table.shape[2], f"{path}: positions of {table.shape[2]} channels, wanted {window}")
    background, window_table = split_positions(table.float())
    return given | {"trunk.pos_embed": background, "trunk.pos_embed_window": window_table}


def split_positions(
    table: Float[Tensor, "1 T C"], window: int = 8
) -> tuple[Float[Tensor, "1 C h w"], Float[Tensor, "1 C k k"]]:
    """One absolute table of positions as SAM 2's two: a background that is stretched over the frame, and a window that
    is repeated without stretching; on the table's own grid their sum is the table again.

    The absolute table P of h x w tokens was learnt beside attention within windows of k x k tokens, and its numbers
    repeat with the windows. Stretched as a whole, it would put that pattern out of step with the windows (Bolya et al.,
    "Window attention is bugged", 2023). So the window part is what the windows have in common,

        W[a, b] = mean over i, j of P[k i + a, k j + b],

    the least-squares fit of a repeated tile, and the background is all the rest, B = P - tile(W), kept at the full
    h x w (SAM 2's own background is 7 x 7 or 14 x 14, which could not hold it).
    """
    side = int(table.shape[1] ** 0.5)
    grid = table.reshape(side, side, -1).permute(2, 0, 1)
    tiles = grid.unflatten(1, (-1, window)).unflatten(3, (-1, window))  # (C, rows, k, columns, k)
    tile = tiles.mean(dim=(1, 3))
    background = grid - tile.repeat(1, side // window, side // window)
    return background[None], tile[None]


def catalogue_name(config: EncoderConfig, part: str) -> str:
    """The catalogue's name of the file that a part starts from."""
    if part == "geometry":
        return config.geometry
    size = config.vision.removeprefix("hiera-")
    return f"hiera-{size}-mae" if config.vision_init == "mae" else f"{config.vision_init}-hiera-{size}"
