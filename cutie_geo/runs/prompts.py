"""Loading of predictors of masks from prompts, and masks of prompts without tracking."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeGuard

import torch
from PIL import Image

from cutie_geo.checkpoints.catalogue import digest
from cutie_geo.config import TrackerConfig, require
from cutie_geo.config.choices import DEFAULT_MODEL, PROMPT_MODEL
from cutie_geo.data.index import OWN_VIDEOS
from cutie_geo.data.io_threads import atomic_write
from cutie_geo.data.masks import MAX_PALETTE_ID, write_labels
from cutie_geo.data.overlay import draw, draw_prompts
from cutie_geo.data.prompts import FramePrompts
from cutie_geo.data.video import open_source, read_frames
from cutie_geo.inference.factory import reading_size
from cutie_geo.inference.head_prompter import HeadPrompter
from cutie_geo.inference.onnx_family import OnnxNetwork, OnnxPrompter
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.prompting import FramePrompter
from cutie_geo.inference.results import Report, refuse_output
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import nearest_labels
from cutie_geo.runs.models import VideoModel, family_of, load_any
from cutie_geo.sam2.networks import Sam2Model, load_sam2
from cutie_geo.sam2.prompt_decoder import PromptHead
from cutie_geo.sam2.prompter import Prompter, Sam2FramePrompter, shared_prompts
from cutie_geo.structures import Frame, ObjectId

PICTURES = "pictures"
"""Subfolder of overlay images with masks and prompts."""
HEAD = "prompt head"
"""Name of a model's own prompt head in run.json."""


def load_prompter(
    models: Sequence[VideoModel], name: str | None = None, weights: str = "auto", max_internal_size: int | None = None
) -> tuple[Prompter | HeadPrompter | OnnxPrompter, Report]:
    """Load the predictor of masks from prompts: the trained prompt head of a model, or else a SAM 2.

    Args:
        models: models of the run. The first one with a trained prompt head is used. Without one, a SAM 2 among them is
            used, or the SAM 2 whose trunk a single model has and shares.
        name: name of a SAM 2 to use instead.
        weights: its weights, as for `load_model`.
        max_internal_size: size at which a prompt head sees a frame that the tracker has not encoded. None: the model's.

    Returns:
        The prompter, and its description for run.json.
    """
    if name is None and weights == "auto":
        for model in models:
            if has_prompt_head(model):
                return HeadPrompter(model, max_internal_size), _describe(HEAD, model.loaded_from, True)
            if has_exported_head(model):
                return OnnxPrompter(model), _describe(HEAD, model.loaded_from, True)
    segments = _sam2_of(models)
    shared = shared_prompts(models[0]) if len(models) == 1 else None
    chosen = name or shared or (PROMPT_MODEL if segments is None else segments.name)
    if segments is None or name is not None or weights != "auto":
        sam2 = load_sam2(chosen, weights, models[0].device, "fp32")
    else:
        sam2 = segments
    own_trunk = chosen != shared
    return Prompter(PromptHead(sam2, own_trunk)), _describe(chosen, sam2.loaded_from, not own_trunk)


def turns_prompts_into_masks(model: VideoModel) -> bool:
    """Return True if a model predicts masks from prompts itself: a SAM 2, or a model with a trained prompt head."""
    return has_prompt_head(model) or _sam2_of([model]) is not None


def _sam2_of(models: Sequence[VideoModel]) -> Sam2Model | None:
    return next((model for model in models if isinstance(model, Sam2Model)), None)


def has_prompt_head(model: VideoModel) -> TypeGuard[CutieGeo]:
    """Return True if a model has a prompt head with trained weights."""
    return isinstance(model, CutieGeo) and model.prompt_head is not None and model.prompt_head.trained


def has_exported_head(model: VideoModel) -> TypeGuard[OnnxNetwork]:
    """Return True for exported graphs with a prompt head."""
    return isinstance(model, OnnxNetwork) and model.exported.description.prompt_points > 0


def _describe(name: str, file: Path | None, shares_trunk: bool) -> Report:
    source = "none" if file is None else f"sha256 {digest(file, 'sha256')}"
    return {"model": name, "weights": source, "shares_trunk": shares_trunk}


def load_frame_prompter(
    model: VideoModel, name: str | None = None, weights: str = "auto", max_internal_size: int | None = None
) -> FramePrompter:
    """Load the predictor of masks from clicks and boxes: the trained prompt head of the model, or a SAM 2.

    Args:
        model: model that segments the video. If it is a SAM 2, it is used.
        name: name of a SAM 2 to use instead.
        weights: its weights, as for `load_model`.
        max_internal_size: size at which a prompt head sees frames. None: the model's.
    """
    if name is None and weights == "auto":
        if has_prompt_head(model):
            return HeadPrompter(model, max_internal_size)
        if has_exported_head(model):
            return OnnxPrompter(model)
        if (own := _sam2_of([model])) is not None:
            return Sam2FramePrompter(PromptHead(own, own_trunk=True))
    sam2 = load_sam2(name or shared_prompts(model) or PROMPT_MODEL, weights, model.device, "fp32")
    return Sam2FramePrompter(PromptHead(sam2, own_trunk=True))


@dataclass(frozen=True)
class PromptOptions:
    """Prompts whose masks are written for inspection."""

    video: Path
    prompts: Mapping[str, FramePrompts]
    """Points and boxes, by frame and object."""
    output: Path
    model: str = DEFAULT_MODEL
    """Model that will segment the video."""
    weights: str = "auto"
    prompt_model: str | None = None
    prompt_weights: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    max_internal_size: int | None = None


class PromptMask(NamedTuple):
    """The mask of one frame."""

    path: Path
    areas: dict[ObjectId, int]
    """Number of pixels of each object."""
    described: Report
    """Prompter settings, as in run.json."""


def write_prompt_masks(options: PromptOptions) -> Iterator[PromptMask]:
    """Write a mask for each frame with prompts, and an image of it; yield each as it is written.

    Raises:
        ValueError: for missing or invalid prompts, videos or models.
    """
    require(bool(options.prompts), "prompt: got no prompts, expected --point, --box or --prompts")
    refuse_output(options.output, [options.video])
    run = RunOptions(TrackerConfig(max_internal_size=options.max_internal_size), default_size=OWN_VIDEOS.size)
    next(_prompted_frames(options, -1))  # invalid prompts are reported before a model is loaded
    model = load_any(options.model, options.weights, options.device, options.precision)
    prompter, described = load_prompter(
        [model], options.prompt_model, options.prompt_weights, options.max_internal_size
    )
    method = family_of(model).tracker(model)
    long_ids = any(i > MAX_PALETTE_ID for objects in options.prompts.values() for i in objects)
    for frame in _prompted_frames(options, reading_size([model], run)):
        with torch.inference_mode():
            mask, _ = prompter.given(method, frame)
        assert frame.size is not None, "frames of files have the file's size"
        assert frame.source is not None, "requested by _prompted_frames"
        labels = nearest_labels(torch.from_numpy(mask.labels), frame.size).numpy()
        path = options.output / f"{frame.name}.png"
        write_labels(path, labels, long_ids=long_ids)
        image = draw_prompts(draw(frame.source, labels), frame.prompts or {})
        with atomic_write(options.output / PICTURES / f"{frame.name}.jpg") as part:
            Image.fromarray(image).save(part, format="JPEG", quality=92)
        yield PromptMask(path, {i: int((labels == i).sum()) for i in mask.ids}, described)


def _prompted_frames(options: PromptOptions, size: int) -> Iterator[Frame]:
    """Yield the frames with prompts, resized to the shorter side `size`."""
    source = open_source(options.video)
    for frame in read_frames(source, size=size, keep_source=True, prompts=options.prompts):
        if frame.prompts:
            yield frame
