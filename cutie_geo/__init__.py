"""Video object segmentation with long-term memory, for long egocentric video and anywhere else.

>>> import cutie_geo
>>> model = cutie_geo.load_model("cutie-small", weights="none")
>>> tracker = cutie_geo.Tracker(model)
>>> frames = cutie_geo.read_video(cutie_geo.example_frames(), first_mask=cutie_geo.example_masks() / "00000.png")
>>> name, labels = next(cutie_geo.segment_video(tracker, frames))
>>> name, tuple(labels.shape), labels.unique().tolist()
('00000', (180, 320), [0, 1, 2, 3])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutie_geo.config import ModelConfig, TrackerConfig
    from cutie_geo.data.example import example_frames, example_masks
    from cutie_geo.data.masks import read_probs
    from cutie_geo.data.video import read_video
    from cutie_geo.inference.ensemble import Ensemble
    from cutie_geo.inference.model_ensemble import ModelEnsemble
    from cutie_geo.inference.segment import segment_video
    from cutie_geo.inference.tracker import Tracker
    from cutie_geo.model.load import load_model
    from cutie_geo.structures import Frame, GivenMask

__version__ = "0.1.0"

__all__ = [
    "Ensemble",
    "Frame",
    "GivenMask",
    "ModelConfig",
    "ModelEnsemble",
    "Tracker",
    "TrackerConfig",
    "example_frames",
    "example_masks",
    "load_model",
    "read_probs",
    "read_video",
    "segment_video",
]

_HOMES = {
    "Ensemble": "inference.ensemble",
    "Frame": "structures",
    "GivenMask": "structures",
    "ModelConfig": "config",
    "ModelEnsemble": "inference.model_ensemble",
    "Tracker": "inference.tracker",
    "TrackerConfig": "config",
    "example_frames": "data.example",
    "example_masks": "data.example",
    "load_model": "model.load",
    "read_probs": "data.masks",
    "read_video": "data.video",
    "segment_video": "inference.segment",
}
"""Where each of these is, imported when it is first asked for: commands and workers start without the networks that
they don't use."""
_PACKAGES = ("config", "data", "inference", "memory", "model", "ops", "structures")
"""Named like `cutie_geo.data.masks`, without an import of their own."""


def __getattr__(name: str) -> Any:
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
    return sorted({*globals(), *__all__})
