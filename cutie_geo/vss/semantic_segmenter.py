"""Classification of masklets by the features of an image encoder, SAM 2's own or another.

- A masklet's feature is the mean over its pixels in all frames of the window. With `scope="frame"`, each frame's mask
  has its own feature and class.
- A classifier predicts the class of each masklet. Masklets are painted as in the vote.
- The training label of a masklet is the class of most true pixels inside it; of equals, the smallest. Masklets on void
  alone are left out.
- Pixels that no masklet covers keep the base prediction; without one they have no label.

Source: equation 3 of "Evaluating SAM2 for Video Semantic Segmentation", section 3.1.2, which leaves the frames open.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cutie_geo.data.video import to_tensor
from cutie_geo.ops import strongest
from cutie_geo.vss.classifier import MaskletClassifier
from cutie_geo.vss.frame_features import FrameEncoder, sam2_map
from cutie_geo.vss.index import CLASSES
from cutie_geo.vss.masklet_files import MaskletTable
from cutie_geo.vss.masklet_tracking import Finder, Image, Masks, Propagator, SeenFrame, propagate_windows
from cutie_geo.vss.pooling import pool_masks
from cutie_geo.vss.voting import Labels, Scope, Window

Encode = Callable[[Image], Float[Tensor, "C h w"]]
"""Returns an image encoder's feature map of an RGB image."""


def encode_with(encoder: FrameEncoder) -> Encode:
    """Return the function that computes features with an encoder of `transformers`."""
    return lambda image: encoder(to_tensor(image))


def encode_with_sam2(seen: SeenFrame, level: int = -1) -> Encode:
    """Return the function that takes SAM 2's features from the cache that it shares with the propagator."""
    return lambda image: sam2_map(seen(image), level)


class SemanticSegmenter(NamedTuple):
    """Image encoder and classifier of masklets."""

    encode: Encode
    classifier: MaskletClassifier

    @torch.inference_mode()
    def classes(self, features: Float[Tensor, "K C"]) -> UInt8[np.ndarray, "K"]:
        """Return the most probable class of each masklet."""
        logits = self.classifier(features.to(self.classifier.device))
        return strongest(logits, dim=1).to("cpu", torch.uint8).numpy()


class WindowFeatures:
    """Mean features of one window's masklets, accumulated frame by frame.

    It holds K x C numbers, or with `scope="frame"` as many for each frame.
    """

    def __init__(self, encode: Encode, scope: Scope = "window") -> None:
        self.encode, self.scope = encode, scope
        self._sums: list[Float[Tensor, "K C"]] = []
        self._sizes: list[Float[Tensor, "K 1"]] = []

    def add(self, image: Image, masks: Masks) -> None:
        """Add the next frame and its masks; the mask of an invisible masklet is empty."""
        features = self.encode(image)
        means = pool_masks(features, torch.from_numpy(masks).to(features.device))
        sizes = torch.from_numpy(np.count_nonzero(masks, axis=(1, 2))).to(means)[:, None]
        if self.scope == "window" and self._sums:
            self._sums, self._sizes = [self._sums[0] + means * sizes], [self._sizes[0] + sizes]
        else:
            self._sums.append(means * sizes)
            self._sizes.append(sizes)

    def means(self) -> list[Float[Tensor, "K C"]]:
        """Return the masklets' features, zeros for empty ones: one set for the window, or one for each frame."""
        return [total / size.clamp(min=1) for total, size in zip(self._sums, self._sizes)]


# ---------------------------------------------------------------------------------------------------------- training
def labelled_masklets(
    frames: Iterable[tuple[str, Image]],
    truth: Callable[[str, Image], Labels],
    find: Finder,
    propagator: Propagator,
    encode: Encode,
    window: int,
    scope: Scope,
) -> MaskletTable:
    """Return the features and true pixels of a video's masklets, for training.

    Args:
        frames: names and RGB images.
        truth: returns the true map of a frame.
        find: finds the masks of a window's first frame.
        propagator: propagates them.
        encode: computes feature maps.
        window: number of frames in a window.
        scope: one feature for a masklet, or for its mask on each frame.

    Returns:
        The table, on the CPU, without masklets on void alone.

    Raises:
        ValueError: if a true map is missing or invalid.
    """
    rows: list[MaskletTable] = []
    for _, _, frames_of_window in propagate_windows(frames, find, propagator, window, "size"):
        true_labels, features = Window(CLASSES), WindowFeatures(encode, scope)
        for name, image, masks in frames_of_window:
            true_labels.add(truth(name, image), masks)
            features.add(image, masks)
        for means, counts in zip(features.means(), true_labels.votes(scope), strict=True):
            votes = torch.from_numpy(counts)
            known = votes.any(dim=1)
            rows.append(MaskletTable(means.cpu()[known], votes[known]))
    return MaskletTable.joined(rows)
