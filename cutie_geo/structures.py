"""Data structures that the parts exchange, with one legend of dimensions.

B batch   T frames of a clip   N objects (slots)   Q object queries   C, CK, CV channels, of keys, of values
H W image pixels   h w = H/16, W/16   P = h*w query positions   M memory tokens   K kept tokens
image: RGB, float32 in [0, 1] until the encoder normalises      labels: integer ids, 0 background
logits: before the sigmoid, (N, ...)      probs: after soft aggregation, (N+1, ...), background first, sum 1
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from cutie_geo.regions import Prompt

ObjectId = int
"""Object id of the caller, from 1 to 2**31 - 1; the value in label maps."""

MAX_OBJECT_ID = 2**31 - 1

VOID = 255
"""Label of pixels without a known object: excluded from the training loss, background in evaluation."""


class FrozenFile(NamedTuple):
    """Source file of a frozen encoder; checkpoints store this reference instead of the tensors."""

    name: str
    sha256: str


class GivenMask(NamedTuple):
    """Input mask of one frame.

    >>> import cutie_geo, numpy
    >>> labels = numpy.array([[0, 4], [4, 7]])
    >>> cutie_geo.GivenMask(labels, ids=(4, 7)).ids
    (4, 7)
    """

    labels: Int[np.ndarray, "H W"]
    """Object ids, 0 for background."""
    ids: tuple[ObjectId, ...]
    """Ids of the annotated objects; an id without pixels marks an invisible object."""


class Frame(NamedTuple):
    """One frame of a video, read from disk or from a camera.

    >>> import cutie_geo, torch
    >>> frame = cutie_geo.Frame("00000", torch.zeros(3, 48, 64), given=torch.ones(48, 64, dtype=torch.long))
    >>> tracker = cutie_geo.Tracker(cutie_geo.load_model("cutie-geo-tiny"))
    >>> [(name, labels.unique().tolist()) for name, labels in cutie_geo.segment_video(tracker, [frame])]
    [('00000', [1])]
    """

    name: str
    """Stem of the output file, unique in the video."""
    image: Float[Tensor, "3 H W"]
    """RGB in [0, 1]; may be resized from the file."""
    size: tuple[int, int] | None = None
    """Original height and width, at which results are written. None means the size of `image`."""
    given: GivenMask | Int[Tensor, "H W"] | Int[np.ndarray, "H W"] | None = None
    """Input mask of this frame, at the size of `image`; a plain label map annotates all ids that it contains."""
    source: UInt8[np.ndarray, "H0 W0 3"] | None = None
    """Pixels of the original file, for overlays."""
    prompts: Mapping[ObjectId, Prompt] | None = None
    """Point and box prompts on this frame, in addition to the input mask."""


class FrameFeatures(NamedTuple):
    """Features of one frame. They depend on the frame only, so they can be computed in advance."""

    image: Float[Tensor, "B 3 H W"]
    """Padded image, not normalised."""
    f16: Float[Tensor, "B C16 h w"]
    f8: Float[Tensor, "B C8 h8 w8"]
    f4: Float[Tensor, "B C4 h4 w4"]
    pixel: Float[Tensor, "B C h w"]
    """Stride-16 features projected to the number of value channels."""
    key: Float[Tensor, "B P CK"]
    shrinkage: Float[Tensor, "B P 1"]
    """Sharpness of matching to each token of this frame in memory; at least 1."""
    selection: Float[Tensor, "B P CK"]
    """Weights in [0, 1] of the key channels when this frame queries memory."""
    depth: Float[Tensor, "B H1 W1"] | None = None
    """Relative inverse depth, larger is nearer, at the output size of the geometry encoder; None unless requested."""

    def frames(self) -> "list[FrameFeatures]":
        """Split the batch into single frames, as views."""
        parts = [(None,) * len(self.image) if field is None else field.split(1) for field in self]
        return [FrameFeatures(*fields) for fields in zip(*parts)]

    @staticmethod
    def batch(frames: "Sequence[FrameFeatures]") -> "FrameFeatures":
        """Concatenate frames of one size to a batch; depth is dropped, because its sizes may differ."""
        if len(frames) == 1:
            return frames[0]
        return FrameFeatures(*(torch.cat(fields) for fields in zip(*(frame[:-1] for frame in frames))))


class ClipKey(NamedTuple):
    """Index of a training sample; with the run's seed it determines the sample completely."""

    epoch: int
    index: int
    """Index in the epoch's list of items."""
    progress: float
    """Fraction of the stage's steps done before this sample; determines the largest frame skip."""


class ClipBatch(NamedTuple):
    """Batch of training clips."""

    images: UInt8[Tensor, "B T 3 H W"] | Float[Tensor, "B T 3 H W"]
    """RGB, uint8 in [0, 255] or float in [0, 1]."""
    labels: UInt8[Tensor, "B T H W"] | Int[Tensor, "B T H W"]
    """Slots 1 to n of the objects in the first frame; 0 for everything else."""
    num_objects: Int[Tensor, "B"]
    """Number n of objects in each clip, at least 1: a clip without objects has one empty object."""
    seeds: Int[Tensor, "B"]
    """Random seed of each clip in training."""
    names: tuple[str, ...]
    """Source of each clip, sufficient to locate its files."""
    problems: tuple[str, ...] = ()
    """Messages about unreadable files, which were replaced by another sample."""
    distance: Float[Tensor, "B T H W"] | None = None
    """Distance of each pixel from the camera, in an arbitrary unit per clip; NaN where unknown. None if no clip has
    distances."""


class MemoryTokens(NamedTuple):
    """M memory tokens of N objects; the token axis is second to last in every field.

    Tokens are rows, so that reading K of them copies K short rows instead of a dense matrix.
    """

    key: Float[Tensor, "B M CK"]
    shrinkage: Float[Tensor, "B M 1"]
    selection: Float[Tensor, "B M CK"]
    use: Float[Tensor, "B M 1"]
    """Accumulated affinity, summed over frames and query positions."""
    life: Float[Tensor, "B M 1"]
    """Number of frames on which the token could be read."""
    value: Float[Tensor, "B N M CV"]

    @property
    def count(self) -> int:
        return self.key.shape[-2]

    def map(self, fn: Callable[[Tensor], Tensor]) -> "MemoryTokens":
        """Apply `fn` to every field."""
        return MemoryTokens(*(fn(column) for column in self))

    def rows(self, start: int, stop: int) -> "MemoryTokens":
        """Return tokens `start` to `stop`, as views."""
        return self.map(lambda column: column[..., start:stop, :])

    def take(self, index: Int[Tensor, "K"]) -> "MemoryTokens":
        """Return the tokens at `index`, in that order."""
        return self.map(lambda column: column.index_select(-2, index))

    def objects(self, slots: Int[Tensor, "n"]) -> "MemoryTokens":
        """Return the same tokens for the objects `slots` of the N axis."""
        return self._replace(value=self.value.index_select(1, slots))


class MemoryView(NamedTuple):
    """Memory of N objects that share tokens: the input of `CutieGeo.read` besides the frame's features."""

    key: Float[Tensor, "B M CK"]
    shrinkage: Float[Tensor, "B M 1"]
    value: Float[Tensor, "B N M CV"]
    sensory: Float[Tensor, "B N C h w"]
    summary: Float[Tensor, "B N Q S"]
    """Object memory: weighted sums of features over memory frames, with the sum of weights in the last channel."""
    mask: Float[Tensor, "B N H W"]
    """Object probabilities of the previous frame, at the padded size."""


class RecentPast(NamedTuple):
    """Memory of N objects without tokens: the last three fields of `MemoryView`."""

    sensory: Float[Tensor, "B N C h w"]
    summary: Float[Tensor, "B N Q S"]
    mask: Float[Tensor, "B N H W"]


class Readout(NamedTuple):
    """Result of reading memory for one frame."""

    features: Float[Tensor, "B N C h w"]
    query_logits: Float[Tensor, "B N L h w"]
    """Mask logits of the object transformer, before its first block and after each block."""
    usage: Float[Tensor, "B M"]
    """Affinity of each memory token, summed over query positions; the total is P."""


class Decoded(NamedTuple):
    """Decoded masks of one frame."""

    logits: Float[Tensor, "B N1 H W"]
    """Logits after soft aggregation and upsampling, background first; softmax gives the probabilities."""
    sensory: Float[Tensor, "B N C h w"] | None
    """Updated sensory memory; None if no update was requested."""


class Memorised(NamedTuple):
    """Memory entries of one frame with masks."""

    value: Float[Tensor, "B N P CV"]
    sensory: Float[Tensor, "B N C h w"]
    summary: Float[Tensor, "B N Q S"]
    summary_logits: Float[Tensor, "B N h w Q"]


class Prediction(NamedTuple):
    """Prediction of a tracker for one frame, not yet committed to memory."""

    probs: Float[Tensor, "N1 H W"]
    """Probabilities at the padded size: background, then `ids` in order."""
    ids: tuple[ObjectId, ...]
    sensory: Float[Tensor, "1 N C h w"] | None = None
    """Sensory memory updated by the decoder, if an update is due on this frame."""
    usage: tuple[Float[Tensor, "1 _"], ...] = ()
    """Token usage of each object group that shares tokens, in the order of the memory."""
    given: bool = False
    """True if this frame has an input mask and is therefore added to memory."""


StateDict = dict[str, Any]
"""Dictionary of tensors, numbers, strings, lists and dictionaries, which loads without executing pickles."""


def as_labels(mask: np.ndarray | Tensor) -> Tensor:
    """Return a label map as an int64 tensor.

    Raises:
        ValueError: If it is not an integer array of shape (H, W).
    """
    labels = torch.as_tensor(mask)
    if labels.ndim != 2 or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"label map: got {tuple(labels.shape)} of {labels.dtype}, expected (H, W) of integers")
    return labels.long()
