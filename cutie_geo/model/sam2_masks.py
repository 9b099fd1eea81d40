"""Masks of everything in a picture: the automatic mask generator of SAM 2's package, on a network that tracks too."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

from cutie_geo.config import GridOptions
from cutie_geo.model.sam2 import Sam2Model

DEFAULTS = GridOptions()
STRIDES = (4, 8, 16)
"""Of the feature maps that the mask decoder looks at."""


class FoundMasks(NamedTuple):
    """The masks of one picture, which may overlap; none is empty."""

    masks: Bool[np.ndarray, "K H W"]
    scores: tuple[float, ...]
    """IoU with the truth that SAM 2 predicts for each."""


class AutomaticMasks:
    """Finds the masks of a picture with a grid of points; of those that nearly coincide the package keeps the best.

    It has no weights of its own: the network is that of `model`, which a `Sam2Tracker` may run at the same time.
    """

    def __init__(self, model: Sam2Model, options: GridOptions = DEFAULTS) -> None:
        self.model, self.options = model, options
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)  # the package's transforms
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)  # with an older torch
            self._generator = SAM2AutomaticMaskGenerator(
                model.network,
                points_per_side=options.points,
                points_per_batch=options.batch,
                pred_iou_thresh=options.predicted_iou,
                stability_score_thresh=options.stability,
                stability_score_offset=options.stability_offset,
            )
        # the package has those of the published networks there, whatever the square
        self._generator.predictor._bb_feat_sizes = [(model.side // stride, model.side // stride) for stride in STRIDES]

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> FoundMasks:
        """The masks of an RGB picture, at its size."""
        with self.model.autocast():
            found = [one for one in self._generator.generate(image) if one["area"] > 0]
        masks = np.zeros((len(found), *image.shape[:2]), bool)
        for mask, one in zip(masks, found):
            mask[:] = one["segmentation"]
        return FoundMasks(masks, tuple(float(one["predicted_iou"]) for one in found))
