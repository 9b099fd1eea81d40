"""SAM 2's automatic mask generator, with the network of a tracker."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

from cutie_geo.sam2.grid import GridOptions
from cutie_geo.sam2.networks import Sam2Model

DEFAULTS = GridOptions()
STRIDES = (4, 8, 16)
"""Strides of the feature maps of the mask decoder."""


class FoundMasks(NamedTuple):
    """Non-empty masks of one image, which may overlap."""

    masks: Bool[np.ndarray, "K H W"]
    scores: tuple[float, ...]
    """Predicted IoU of each mask."""


class AutomaticMasks:
    """Automatic mask generator with a grid of point prompts and non-maximum suppression.

    It uses the network of `model`, which a `Sam2Tracker` may use at the same time.
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
        # the package assumes the input size of the published networks
        self._generator.predictor._bb_feat_sizes = [(model.side // stride, model.side // stride) for stride in STRIDES]

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> FoundMasks:
        """Return the masks of an RGB image, at its size."""
        with self.model.autocast():
            found = [one for one in self._generator.generate(image) if one["area"] > 0]
        masks = np.zeros((len(found), *image.shape[:2]), bool)
        for mask, one in zip(masks, found):
            mask[:] = one["segmentation"]
        return FoundMasks(masks, tuple(float(one["predicted_iou"]) for one in found))
