"""Video object segmentation with long-term memory, for egocentric and other long videos.

>>> import cutie_geo
>>> first_mask = cutie_geo.example_masks() / "00000.png"
>>> for result in cutie_geo.track(cutie_geo.example_frames(), mask=first_mask, max_internal_size=96):
...     break
>>> result.name, result.labels.shape, list(result.masks), result.boxes[3]
('00000', (180, 320), [1, 2, 3], (154, 66, 218, 109))
"""

# nothing is imported here, not even typing, so that programs handle Ctrl-C from their first line
TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutie_geo.config import ModelConfig, TrackerConfig
    from cutie_geo.data.example import example_frames, example_masks
    from cutie_geo.data.masks import read_probs
    from cutie_geo.data.video import read_video
    from cutie_geo.inference.ensemble import Ensemble
    from cutie_geo.inference.model_ensemble import ModelEnsemble
    from cutie_geo.inference.tracker import Tracker
    from cutie_geo.model.network import CutieGeo
    from cutie_geo.runs.calls import make_segmenter, segment, segment_video, track
    from cutie_geo.runs.frame_result import FrameResult
    from cutie_geo.runs.models import load_model
    from cutie_geo.runs.session import Session
    from cutie_geo.sam2.prompter import Prompter
    from cutie_geo.structures import Frame, GivenMask

if TYPE_CHECKING:
    from typing import Any

__version__ = "0.2.0"

__all__ = [
    "CutieGeo",
    "Ensemble",
    "Frame",
    "FrameResult",
    "GivenMask",
    "ModelConfig",
    "ModelEnsemble",
    "Prompter",
    "Session",
    "Tracker",
    "TrackerConfig",
    "example_frames",
    "example_masks",
    "load_model",
    "make_segmenter",
    "read_probs",
    "read_video",
    "segment",
    "segment_video",
    "track",
]

_HOMES = {
    "CutieGeo": "model.network",
    "Ensemble": "inference.ensemble",
    "Frame": "structures",
    "FrameResult": "runs.frame_result",
    "GivenMask": "structures",
    "ModelConfig": "config",
    "ModelEnsemble": "inference.model_ensemble",
    "Prompter": "sam2.prompter",
    "Session": "runs.session",
    "Tracker": "inference.tracker",
    "TrackerConfig": "config",
    "example_frames": "data.example",
    "example_masks": "data.example",
    "load_model": "runs.models",
    "make_segmenter": "runs.calls",
    "read_probs": "data.masks",
    "read_video": "data.video",
    "segment": "runs.calls",
    "segment_video": "runs.calls",
    "track": "runs.calls",
}
"""Module of each public name, imported on first access: commands and workers start without unused networks."""
_PACKAGES = ("config", "data", "inference", "memory", "model", "ops", "structures")
"""Subpackages that are available as attributes, as in `cutie_geo.data.masks`, without an explicit import."""


def __getattr__(name: str) -> "Any":
    from importlib import import_module

    if name in _PACKAGES:
        for home in set(_HOMES.values()):
            import_module(f"{__name__}.{home}")
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names, and those that every module has."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__") and name.endswith("__"))])
