"""Protocols of frame-by-frame video segmenters."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.structures import Frame, GivenMask, ObjectId


@runtime_checkable
class Segmenter(Protocol):
    """Protocol of a segmenter of one video: `Tracker`, `Ensemble`, SAM 2's tracker or a baseline.

    Features depend on a single frame only; their type is private to each segmenter.
    """

    @property
    def object_ids(self) -> list[ObjectId]:
        """Ids of the channels of probabilities after the first."""
        ...

    def encode_ahead(self, images: Sequence[Any], with_depth: bool = False) -> Sequence[Any]:
        """Encode the next frames, up to the first that `step` would refuse, without changing the state."""
        ...

    def step(
        self,
        image: Any,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[Any] | None = None,
        permanent: bool = False,
        last: bool = False,
        features: Any = None,
        correction: bool = False,
        color: str = "rgb",
    ) -> Float[Tensor, "N1 H W"]:
        """Segment the next frame; return its probabilities at its own size, background first.

        Args:
            image: Array (H, W, 3) of uint8, PIL image, or tensor (3, H, W) of floats in [0, 1] or uint8; grey and RGBA
                are accepted.
            correction: Treat the mask as a correction of the predictions of tracked objects.
            color: Order of the channels of arrays and tensors: "rgb", or "bgr" for OpenCV's.

        Raises:
            ValueError: If the image, the mask or the ids do not fit the video.
        """
        ...

    def restore_depth(self, features: Any) -> Float[Tensor, "H W"]:
        """Return the frame's depth at its own size, from features that were encoded with it."""
        ...

    def labels(self, probs: Float[Tensor, "N1 H W"], objects: Sequence[ObjectId] | None = None) -> Int[Tensor, "H W"]:
        """Return the label map of probabilities, with object ids as values.

        Args:
            objects: Ids of the channels after the first. None uses the ids that `step` returned the probabilities for.
        """
        ...


@runtime_checkable
class Method(Segmenter, Protocol):
    """Protocol of a segmenter that can be reset and reports its memory, for runs and ensembles."""

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """(H, W) of the video's frames; None before the first."""
        ...

    @property
    def gives_depth(self) -> bool:
        """True if `restore_depth` is supported."""
        ...

    def remove(self, ids: Any) -> None:
        """Remove objects. Raises ValueError if an id is not tracked."""
        ...

    def reset(self) -> None:
        """Reset the state for the next video."""
        ...

    def memory_report(self) -> dict[str, int]:
        """Return the bytes held between two frames, by kind."""
        ...


@runtime_checkable
class PromptMasks(Protocol):
    """Protocol of a converter from point and box prompts to masks."""

    def given(self, method: Segmenter, frame: Frame, with_depth: bool = False) -> tuple[GivenMask, Any]:
        """Return one mask from all prompts and masks of a frame, and the frame's features."""
        ...
