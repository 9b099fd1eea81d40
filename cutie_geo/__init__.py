"""Video object segmentation with long-term memory, for long egocentric video and anywhere else.

>>> import cutie_geo
>>> model = cutie_geo.load_model("cutie-small", weights="none")
>>> tracker = cutie_geo.Tracker(model)
>>> frames = cutie_geo.read_video(cutie_geo.example_frames(), first_mask=cutie_geo.example_masks() / "00000.png")
>>> name, labels = next(cutie_geo.segment_video(tracker, frames))
>>> name, tuple(labels.shape), labels.unique().tolist()
('00000', (180, 320), [0, 1, 2, 3])
"""

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
