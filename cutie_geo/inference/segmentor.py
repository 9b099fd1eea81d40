"""Classes of masklets from an image encoder's features: SAM 2 as a segmentor of its own, and any other encoder so.

- A masklet's feature is the mean over the pixels that it covers, in all frames of the window; with `scope="frame"` each
  frame's mask has its own, and its own class.
- A classifier gives each masklet a class; they are painted as the vote's are.
- To learn from, a masklet has the class that most of the true pixels inside it have, the smallest of equals. Void is no
  class: a masklet on nothing else is left out.
- Pixels that no masklet covers keep the base prediction; without one they have no label.

Source: equation 3 of "Evaluating SAM2 for Video Semantic Segmentation", section 3.1.2, which leaves the frames open.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cutie_geo.data.index.labelled import CLASSES
from cutie_geo.data.video import to_tensor
from cutie_geo.inference.masklets import Finder, Image, Masks, Propagator, SeenFrame, follow_windows
from cutie_geo.inference.voting import Labels, Scope, Window
from cutie_geo.model.frame_features import FrameEncoder, sam2_map
from cutie_geo.model.masklet_classifier import MaskletClassifier
from cutie_geo.model.pooling import pool_masks
from cutie_geo.ops import strongest
from cutie_geo.structures import MaskletTable

Encode = Callable[[Image], Float[Tensor, "C h w"]]
"""An image encoder's features of an RGB picture."""


def encode_with(encoder: FrameEncoder) -> Encode:
    """The features of an encoder of `transformers`."""
    return lambda image: encoder(to_tensor(image))


def encode_with_sam2(seen: SeenFrame, level: int = -1) -> Encode:
    """SAM 2's own features, those that whoever follows masks has `seen` already."""
    return lambda image: sam2_map(seen(image), level)


class Segmentor(NamedTuple):
    """What tells the classes of masklets."""

    encode: Encode
    classifier: MaskletClassifier

    @torch.inference_mode()
    def classes(self, features: Float[Tensor, "K C"]) -> UInt8[np.ndarray, "K"]:
        """The most probable class of each masklet."""
        logits = self.classifier(features.to(self.classifier.device))
        return strongest(logits, dim=1).to("cpu", torch.uint8).numpy()


class WindowFeatures:
    """The mean features of one window's masklets, handed over frame by frame. It holds K C numbers; with
    `scope="frame"` as many for each frame."""

    def __init__(self, encode: Encode, scope: Scope = "window") -> None:
        self.encode, self.scope = encode, scope
        self._sums: list[Float[Tensor, "K C"]] = []
        self._sizes: list[Float[Tensor, "K 1"]] = []

    def add(self, image: Image, masks: Masks) -> None:
        """The next frame and its masklets, all empty where a masklet isn't seen."""
        features = self.encode(image)
        means = pool_masks(features, torch.from_numpy(masks).to(features.device))
        sizes = torch.from_numpy(np.count_nonzero(masks, axis=(1, 2))).to(means)[:, None]
        if self.scope == "window" and self._sums:
            self._sums, self._sizes = [self._sums[0] + means * sizes], [self._sizes[0] + sizes]
        else:
            self._sums.append(means * sizes)
            self._sizes.append(sizes)

    def means(self) -> list[Float[Tensor, "K C"]]:
        """The masklets' features, zeros for one that is empty: one set for all frames, or one for each."""
        return [total / size.clamp(min=1) for total, size in zip(self._sums, self._sizes)]


# ----------------------------------------------------------------------------------------------------- to learn from
def labelled_masklets(
    frames: Iterable[tuple[str, Image]],
    truth: Callable[[str, Image], Labels],
    find: Finder,
    propagator: Propagator,
    encode: Encode,
    window: int,
    scope: Scope,
) -> MaskletTable:
    """The features and true pixels of all masklets of a video, but of those on void alone, on the CPU.

    truth: gives the true map of a frame. Raises ValueError where that has none.
    """
    rows: list[MaskletTable] = []
    for _, _, followed in follow_windows(frames, find, propagator, window, "size"):
        true_labels, features = Window(CLASSES), WindowFeatures(encode, scope)
        for name, image, masks in followed:
            true_labels.add(truth(name, image), masks)
            features.add(image, masks)
        for means, counts in zip(features.means(), true_labels.votes(scope), strict=True):
            votes = torch.from_numpy(counts)
            known = votes.any(dim=1)
            rows.append(MaskletTable(means.cpu()[known], votes[known]))
    return MaskletTable.joined(rows)
