"""Which method segments a video, given the models and what a run wants of them."""

from collections.abc import Sequence

from cutie_geo.config import to_dict
from cutie_geo.inference.ensemble import Ensemble, views_of
from cutie_geo.inference.model_ensemble import ModelEnsemble
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.sam2_tracker import Sam2Tracker
from cutie_geo.inference.segment import Method
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.sam2 import Sam2Model

VideoModel = CutieGeo | Sam2Model
"""What a video can be segmented with."""


def method_for(models: Sequence[VideoModel], options: RunOptions, num_frames: int | None = None) -> Method:
    """A tracker, an ensemble of views, or one of several models, for one video of `num_frames`, if that is known.

    Several models are on their devices already; `options.devices` are for the views of a single one.
    """
    if len(models) == 1:
        return _method(models[0], options, num_frames, options.devices, options.view_workers)
    sizes = options.model_sizes or (-1,) * len(models)
    members = [_method(model, options, num_frames, shorter=shorter) for model, shorter in zip(models, sizes)]
    workers = options.view_workers or len({model.device for model in models})
    return ModelEnsemble(members, options.model_weights, workers)


def _method(
    model: VideoModel,
    options: RunOptions,
    num_frames: int | None,
    devices: Sequence[str] = (),
    workers: int | None = None,
    shorter: int = -1,
) -> Method:
    """What one model segments with, on frames that are shrunk for it to the side `shorter`. SAM 2, which stretches
    frames to its own square, sees them whole and in one view."""
    if isinstance(model, Sam2Model):
        chunk_size = options.tracker.chunk_size if options.tracker.chunk_size != -1 else 1
        return Sam2Tracker(model, chunk_size, num_frames)
    config = to_dict(options.tracker.at_given_size())  # `options.size` has seen to it
    if not options.is_ensemble and shorter == -1:
        return Tracker(model, **config)
    views = views_of(options.scales, options.flip, shorter=shorter)
    return Ensemble(model, feedback=options.feedback, views=views, devices=devices, workers=workers, **config)
