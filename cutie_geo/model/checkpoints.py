"""Weights from files: one rename table, one strict load, no pickled code."""

import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from cutie_geo.model.mask_encoder import with_extra_channel
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import inverse_frequencies

# ----------------------------------------------------------------------------------------------- the rename table
_FUSION = [
    (r"distributor\.x_transform\.", "shared."),
    (r"distributor\.g_transform\.", "per_object."),
    (r"(block[12])\.conv\.", r"\1.gate."),
]
_BLOCK = r"(object_transformer\.blocks\.\d+)\."

OFFICIAL_NAMES: list[tuple[str, str]] = [
    (r"^pixel_encoder\.res2\.", "encoder.features.body.layer1."),
    (r"^pixel_encoder\.", "encoder.features.body."),
    (r"^pix_feat_proj\.", "pixel_projection."),
    (r"^key_proj\.pix_feat_proj\.", "key_projection.reduce."),
    (r"^key_proj\.key_proj\.", "key_projection.key."),
    (r"^key_proj\.d_proj\.", "key_projection.shrinkage."),
    (r"^key_proj\.e_proj\.", "key_projection.selection."),
    (r"^mask_encoder\.(conv1|bn1|layer\d)\.", r"mask_encoder.features.body.\1."),
    (r"^mask_encoder\.fuser\.", "mask_encoder.fusion."),
    (r"^object_summarizer\.input_proj\.", "object_summarizer.project."),
    (r"^object_summarizer\.feature_pred\.", "object_summarizer.feature."),
    (r"^object_summarizer\.weights_pred\.", "object_summarizer.weight."),
    (r"^pixel_fuser\.sensory_compress\.", "pixel_fusion.sensory."),
    (r"^pixel_fuser\.fuser\.", "pixel_fusion.fusion."),
    *_FUSION,
    (r"^object_transformer\.query_init\.", "object_transformer.query."),
    (r"^object_transformer\.query_emb\.", "object_transformer.query_position."),
    (r"^object_transformer\.summary_to_query_init\.", "object_transformer.summary_to_query."),
    (r"^object_transformer\.summary_to_query_emb\.", "object_transformer.summary_to_position."),
    (r"^object_transformer\.pixel_init_proj\.", "object_transformer.pixel."),
    (r"^object_transformer\.pixel_emb_proj\.", "object_transformer.pixel_position."),
    (r"^object_transformer\.mask_pred\.(\d+)\.1\.", r"object_transformer.masks.\1."),
    (_BLOCK + r"read_from_pixel\.cross_attn\.", r"\1.read_pixels."),
    (_BLOCK + r"read_from_pixel\.norm\.", r"\1.read_pixels_norm."),
    (_BLOCK + r"self_attn\.self_attn\.", r"\1.self_attention."),
    (_BLOCK + r"self_attn\.norm\.", r"\1.self_attention_norm."),
    (_BLOCK + r"ffn\.linear1\.", r"\1.feedforward.0."),
    (_BLOCK + r"ffn\.linear2\.", r"\1.feedforward.2."),
    (_BLOCK + r"ffn\.norm\.", r"\1.feedforward_norm."),
    (_BLOCK + r"read_from_query\.cross_attn\.", r"\1.read_queries."),
    (_BLOCK + r"pixel_ffn\.conv\.conv\.", r"\1.pixels.gate."),
    (_BLOCK + r"pixel_ffn\.conv\.", r"\1.pixels."),
    (r"^mask_decoder\.decoder_feat_proc\.transforms\.0\.", "decoder.skip8."),
    (r"^mask_decoder\.decoder_feat_proc\.transforms\.1\.", "decoder.skip4."),
    (r"^mask_decoder\.up_16_8\.out_conv\.", "decoder.up8."),
    (r"^mask_decoder\.up_8_4\.out_conv\.", "decoder.up4."),
    (r"^(decoder\.up[48])\.downsample\.", r"\1.shortcut."),
    (r"^mask_decoder\.pred\.", "decoder.predict."),
    (r"^mask_decoder\.sensory_update\.g(16|8|4)_conv\.", r"decoder.sensory\1."),
    (r"^mask_decoder\.sensory_update\.transform\.", "decoder.sensory_update.transform."),
    (r"^aux_computer\.sensory_aux\.projection\.", "sensory_head."),
]
"""Official Cutie names and ours; every pattern that matches is applied, in order. Names of ours pass unchanged."""

COMPUTED = ("object_transformer.spatial_pe.inv_freq", "object_summarizer.pos_enc.inv_freq")
"""Entries of official files that follow from the configuration: checked, not kept."""

WIDENED = ("mask_encoder.features.body.conv1.weight", "pixel_fusion.sensory.weight")
"""What a multi-object network has one more input channel of than a single-object one."""


def our_name(name: str) -> str:
    """Our name of an official entry; our own names come back as they are."""
    for pattern, replacement in OFFICIAL_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


# ------------------------------------------------------------------------------------------------------- reading
def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors or PyTorch file, by name, on the CPU. Code in the file is never run.

    Understands files wrapped as {"model": ...}, {"state_dict": ...} or {"network": ...}, and names behind `module.`.
    Raises ValueError that names the file if it is missing, damaged or holds anything but tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such weights file")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in ("model", "state_dict", "network"):
        inner = content.get(wrapper) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping):
            content = inner
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: holds something else than named tensors, wanted a state dict")
    plain = {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
    if len(plain) < len(content):
        raise ValueError(f"{path}: holds entries both with and without `module.`, wanted one of each name")
    return plain


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or not a safetensors file ({_first_line(error)})") from None


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its reader stumbles over: pickle, zip, key, runtime errors
        # its own text advises loading without protection, which is the one thing not to do here
        refused = re.search(r"GLOBAL|[Uu]nsupported (global|class)|unrecognized function", str(error))
        reason = "holds pickled code or objects, refused; wanted tensors only" if refused else "damaged or no weights"
        raise ValueError(f"{path}: {reason} ({type(error).__name__})") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


# ------------------------------------------------------------------------------------------------------- loading
def load_weights(model: CutieGeo, path: Path) -> int:
    """Fill `model` from an official Cutie file or one of ours; return how many entries were loaded.

    Strict: raises ValueError listing every entry that is missing, extra or of another shape, or not finite. Only what
    single- and multi-object networks differ in is converted (Cutie specification, section 3.10).
    """
    tensors = read_tensors(path)
    given = {our_name(name): tensor for name, tensor in tensors.items() if name not in COMPUTED}
    wanted = model.state_dict()
    problems = [_computed_problem(model, name, tensors[name]) for name in COMPUTED if name in tensors]
    given = {name: _converted(model, name, tensor, wanted) for name, tensor in given.items()}
    for name, tensor in wanted.items():
        # derived counts, which nothing reads; some exporters leave them out
        if name.endswith(".num_batches_tracked"):
            given.setdefault(name, tensor)
    problems += [f"missing {name}" for name in wanted if name not in given]
    problems += [f"extra {name}" for name in given if name not in wanted]
    for name in wanted:
        if name in given:
            problems.append(_tensor_problem(name, given[name], wanted[name]))
    problems = [problem for problem in problems if problem]
    if problems:
        shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise ValueError(f"{path}: {len(problems)} entries don't fit {_description(model)}{_hint(given)}: {shown}")
    model.load_state_dict(given, strict=True)
    return len(tensors)


def _tensor_problem(name: str, given: Tensor, wanted: Tensor) -> str:
    if given.is_meta or given.layout != torch.strided:
        return f"{name} without plain numbers ({'meta' if given.is_meta else given.layout})"
    if given.shape != wanted.shape:
        return f"shape of {name}: got {tuple(given.shape)}, wanted {tuple(wanted.shape)}"
    if given.is_floating_point() != wanted.is_floating_point():
        return f"type of {name}: got {given.dtype}, wanted {wanted.dtype}"
    return "" if bool(torch.isfinite(given).all()) else f"numbers that are not finite in {name}"


def _computed_problem(model: CutieGeo, name: str, given: Tensor) -> str:
    wanted = inverse_frequencies(model.config.value_dim // 2, model.config.position_temperature)
    same = given.shape == wanted.shape and torch.allclose(given.float(), wanted, rtol=1e-4, atol=0)
    return "" if same else f"position frequencies {name} of another model"


def _converted(model: CutieGeo, name: str, given: Tensor, wanted: Mapping[str, Tensor]) -> Tensor:
    """A weight of the other of the two networks, for one or for several objects, made to fit this one."""
    if name not in WIDENED or given.ndim != 4 or given.is_meta or given.layout != torch.strided:
        return given
    channels = wanted[name].shape[1]
    other = channels + (1 if model.config.single_object else -1)
    return with_extra_channel(given, channels) if given.shape[1] == other else given


def _description(model: CutieGeo) -> str:
    return f"a model with {model.config.encoder.vision} pixel encoder"


def _hint(given: Mapping[str, Tensor]) -> str:
    """What the file seems to be, where that can be told."""
    widths = {1024: "cutie-base", 256: "cutie-small"}
    weight = given.get("pixel_projection.weight")
    name = widths.get(weight.shape[1]) if weight is not None and weight.ndim == 4 else None
    return f" (the file looks like {name})" if name else ""
