"""Strict loading of official Cutie checkpoints and of this package's, with a table of tensor names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cutie_geo.checkpoints.tensor_files import fill, read_tensors
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
"""Patterns of official Cutie names and their replacements, applied in order. Names of this package do not match."""

COMPUTED = ("object_transformer.spatial_pe.inv_freq", "object_summarizer.pos_enc.inv_freq")
"""Entries of official files that the configuration determines; they are checked, but not loaded."""

WIDENED = ("mask_encoder.features.body.conv1.weight", "pixel_fusion.sensory.weight")
"""Weights with one more input channel in multi-object than in single-object networks."""

PROMPT_HEAD = "prompt_head."
"""Prefix of the prompt head's weights, which a checkpoint may lack."""


def our_name(name: str) -> str:
    """Return this package's name of an official entry; other names are returned unchanged."""
    for pattern, replacement in OFFICIAL_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


# ------------------------------------------------------------------------------------------------------- loading
def load_weights(model: CutieGeo, path: Path) -> int:
    """Load an official Cutie checkpoint or one of this package; return the number of loaded entries.

    Frozen encoders with separate files are unchanged, and must not be in the checkpoint. A prompt head is unchanged if
    the checkpoint has none. Only the weights in which single- and multi-object networks differ are converted (Cutie
    specification, section 3.10).

    Raises:
        ValueError: If any entry is missing, extra, of another shape or not finite.
    """
    tensors = read_tensors(path)
    given, problems = _ours(model, tensors)
    elsewhere = [f"encoder.{part}." for part in model.frozen_files]
    if model.prompt_head is not None:
        model.prompt_head.trained = any(name.startswith(PROMPT_HEAD) for name in given)
        elsewhere += [] if model.prompt_head.trained else [PROMPT_HEAD]
    advice = "; weights.warm_start takes it for all behind the encoder" if model.config.encoder.is_fused else ""
    fill(model, given, str(path), _description(model) + _hint(given, advice), elsewhere, problems)
    return len(tensors)


def load_prompt_head(model: CutieGeo, path: Path) -> int:
    """Load the prompt head of a checkpoint; return the number of loaded entries.

    Raises:
        ValueError: If the model or the checkpoint has no prompt head, or if an entry does not fit.
    """
    if model.prompt_head is None:
        raise ValueError(f"weights.prompt_head: got {path} for a model without a prompt head, expected prompt_channels")
    own = {name: tensor for name, tensor in read_tensors(path).items() if name.startswith(PROMPT_HEAD)}
    if not own:
        raise ValueError(f"{path}: has no prompt head, expected a checkpoint of its training")
    head = {name.removeprefix(PROMPT_HEAD): tensor for name, tensor in own.items()}
    model.prompt_head.trained = True
    return fill(model.prompt_head, head, str(path), f"a prompt head of {model.config.prompt_channels} channels")


class WarmStart(NamedTuple):
    """Result of a warm start, in numbers of tensors."""

    loaded: int
    """Number of loaded tensors, those of all parts after the encoder."""
    aside: int
    """Number of unused tensors, those of the file's pixel encoder."""
    fresh: int
    """Number of tensors of the model's encoder, which are not in the file."""

    def __str__(self) -> str:
        return (
            f"{self.loaded} tensors behind the encoder loaded, {self.aside} of the file's own pixel encoder left aside"
        )


def warm_start(model: CutieGeo, path: Path) -> WarmStart:
    """Load all parts after the encoder from a Cutie checkpoint; the encoder is unchanged.

    Raises:
        ValueError: For invalid entries, as in `load_weights`, or if the fused features have other numbers of channels
            than the checkpoint's.
    """
    tensors = read_tensors(path)
    given, problems = _ours(model, tensors)
    behind = {name: tensor for name, tensor in given.items() if not name.startswith(("encoder.", PROMPT_HEAD))}
    fill(model, behind, str(path), f"what lies behind the encoder{_hint(given)}", ["encoder.", PROMPT_HEAD], problems)
    fresh = sum(name.startswith("encoder.") for name in model.state_dict())
    computed = sum(name in COMPUTED for name in tensors)
    return WarmStart(len(behind) + computed, len(given) - len(behind), fresh)


def _ours(model: CutieGeo, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return a file's tensors under this package's names, and problems of its computed and duplicate entries."""
    wanted = model.state_dict()
    problems = [_computed_problem(model, name, tensors[name]) for name in COMPUTED if name in tensors]
    given = {our_name(name): tensor for name, tensor in tensors.items() if name not in COMPUTED}
    if len(given) + sum(name in COMPUTED for name in tensors) < len(tensors):
        problems.append("entries under both an official name and ours")
    return {name: _converted(model, name, tensor, wanted) for name, tensor in given.items()}, problems


def _computed_problem(model: CutieGeo, name: str, given: Tensor) -> str:
    wanted = inverse_frequencies(model.config.value_dim // 2, model.config.position_temperature)
    same = given.shape == wanted.shape and torch.allclose(given.float(), wanted, rtol=1e-4, atol=0)
    return "" if same else f"position frequencies {name} of another model"


def _converted(model: CutieGeo, name: str, given: Tensor, wanted: Mapping[str, Tensor]) -> Tensor:
    """Convert a weight between single-object and multi-object networks, if needed."""
    if name not in WIDENED or given.ndim != 4 or given.is_meta or given.layout != torch.strided:
        return given
    channels = wanted[name].shape[1]
    other = channels + (1 if model.config.single_object else -1)
    return with_extra_channel(given, channels) if given.shape[1] == other else given


def _description(model: CutieGeo) -> str:
    return f"a model with {model.config.encoder.vision} pixel encoder"


def _hint(given: Mapping[str, Tensor], advice: str = "") -> str:
    """Return a hint about a Cutie checkpoint for error messages; empty for other files."""
    if not any(name.startswith("encoder.features.") for name in given):
        return ""
    widths = {1024: "cutie-base", 256: "cutie-small"}
    weight = given.get("pixel_projection.weight")
    name = widths.get(weight.shape[1]) if weight is not None and weight.ndim == 4 else None
    return f" (the file looks like {name or 'a Cutie checkpoint'}{advice})"
