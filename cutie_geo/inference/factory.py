"""Construction of a run's segmenter from its models and options."""

from collections.abc import Sequence
from dataclasses import replace

from cutie_geo.inference.families import VideoModel, family_of
from cutie_geo.inference.model_ensemble import ModelEnsemble
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.segmenter import Method


def internal_size(model: VideoModel, options: RunOptions) -> int:
    """Return the shorter side, in pixels, to which `model`'s frames are resized; -1 disables resizing.

    The user's option takes precedence over the model's size, and that over the default of the run.
    """
    if options.tracker.max_internal_size is not None:
        return options.tracker.max_internal_size
    own = family_of(model).internal_size(model)
    return options.default_size if own is None else own


def resolve_options(models: Sequence[VideoModel], options: RunOptions) -> RunOptions:
    """Fill in the tracker's options of a run with a single model. Several models keep their own defaults."""
    if len(models) > 1:
        return options
    tracker = replace(options.tracker, max_internal_size=internal_size(models[0], options))
    return replace(options, tracker=family_of(models[0]).tracker_config(models[0], tracker))


def reading_size(models: Sequence[VideoModel], options: RunOptions) -> int:
    """Return the shorter side at which frames are read: that of all `models`, or -1 if they differ."""
    sizes = {internal_size(model, options) for model in models}
    return sizes.pop() if len(sizes) == 1 else -1


def method_for(models: Sequence[VideoModel], options: RunOptions, num_frames: int | None = None) -> Method:
    """Build the tracker, the ensemble of views, or the ensemble of models for one video.

    Args:
        models: Networks, each on its device.
        options: Options of the run; `options.devices` applies to the views of a single model.
        num_frames: Length of the video, if known.
    """
    if len(models) == 1:
        family = family_of(models[0])
        return family.segmenter(models[0], options, num_frames, options.devices, options.view_workers)
    read_at = reading_size(models, options)
    members = []
    for model in models:
        size = internal_size(model, options)
        members.append(family_of(model).segmenter(model, options, num_frames, size=-1 if size == read_at else size))
    workers = options.view_workers or len({model.device for model in models})
    return ModelEnsemble(members, options.coefficients, workers)
