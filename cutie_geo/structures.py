"""The nouns: what is passed between the parts, under one legend of letters.

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

ObjectId = int
"""A caller's name for an object, from 1 to 2**31 - 1; the value painted into label maps."""

MAX_OBJECT_ID = 2**31 - 1


class FrozenFile(NamedTuple):
    """The file that a frozen encoder was loaded from: a checkpoint names it instead of holding the same tensors."""

    name: str
    sha256: str


class GivenMask(NamedTuple):
    """What a user says about one frame: which pixels belong to which object."""

    labels: Int[np.ndarray, "H W"]
    """Ids, 0 for background."""
    ids: tuple[ObjectId, ...]
    """The objects meant; an id without a pixel is an object said to be invisible."""


class Prompt(NamedTuple):
    """Where an object is on a frame, as users point at it: in pixels of the file's frame, x to the right, y down."""

    points: tuple[tuple[float, float, int], ...] = ()
    """x, y, and 1 on the object or 0 beside it."""
    box: tuple[float, float, float, float] | None = None
    """Around it: x0, y0, x1, y1."""


class Frame(NamedTuple):
    """One frame of a video as read from disk or from a camera."""

    name: str
    """Stem of the file to write for it, unique in its video."""
    image: Float[Tensor, "3 H W"]
    """RGB in [0, 1], perhaps resized from the file."""
    size: tuple[int, int] | None = None
    """Height and width of the file's own frame, at which results are written. None: the image's."""
    given: GivenMask | Int[Tensor, "H W"] | Int[np.ndarray, "H W"] | None = None
    """The mask given for this frame, at `image`'s size; of a bare label map all ids count."""
    source: UInt8[np.ndarray, "H0 W0 3"] | None = None
    """The undistorted file's pixels, where a picture is drawn over them."""
    prompts: Mapping[ObjectId, Prompt] | None = None
    """What is pointed at on this frame, beside the mask that is given."""


class FrameFeatures(NamedTuple):
    """All that the network needs of one frame. Depends on nothing but the frame: it may be computed ahead."""

    image: Float[Tensor, "B 3 H W"]
    """Padded, not normalised."""
    f16: Float[Tensor, "B C16 h w"]
    f8: Float[Tensor, "B C8 h8 w8"]
    f4: Float[Tensor, "B C4 h4 w4"]
    pixel: Float[Tensor, "B C h w"]
    """The stride-16 features projected to the width of the mask values."""
    key: Float[Tensor, "B P CK"]
    shrinkage: Float[Tensor, "B P 1"]
    """At least 1: how sharply a token of this frame is matched once it is in memory."""
    selection: Float[Tensor, "B P CK"]
    """In [0, 1]: which key channels matter when this frame asks."""
    depth: Float[Tensor, "B H1 W1"] | None = None
    """Relative inverse depth, larger is nearer, at the geometry encoder's own size; None unless it was asked for."""

    def frames(self) -> "list[FrameFeatures]":
        """One by one, as views."""
        parts = [(None,) * len(self.image) if field is None else field.split(1) for field in self]
        return [FrameFeatures(*fields) for fields in zip(*parts)]

    @staticmethod
    def batch(frames: "Sequence[FrameFeatures]") -> "FrameFeatures":
        """Frames of one size as one batch; depth, of which sizes may differ, is left out."""
        if len(frames) == 1:
            return frames[0]
        return FrameFeatures(*(torch.cat(fields) for fields in zip(*(frame[:-1] for frame in frames))))


class ClipKey(NamedTuple):
    """Which training sample: together with the run's seed it decides every number in it."""

    epoch: int
    index: int
    """Of the epoch's list of items."""
    progress: float
    """Share of the stage's steps done before it, which decides the largest skip."""


class ClipBatch(NamedTuple):
    """Clips to train on."""

    images: UInt8[Tensor, "B T 3 H W"] | Float[Tensor, "B T 3 H W"]
    """RGB, 0 to 255 in bytes or 0 to 1 in floats."""
    labels: UInt8[Tensor, "B T H W"] | Int[Tensor, "B T H W"]
    """Slots 1 to n of the objects that the first frame shows; 0 is all else."""
    num_objects: Int[Tensor, "B"]
    """n of each clip, at least 1: a clip without any object has an empty one."""
    seeds: Int[Tensor, "B"]
    """What each clip's random draws in training begin from."""
    names: tuple[str, ...]
    """Where each clip came from: enough to find its files."""
    problems: tuple[str, ...] = ()
    """Files that could not be read, and were replaced by another draw; each says which and why."""
    distance: Float[Tensor, "B T H W"] | None = None
    """From the camera to what each pixel shows, in a unit of its own for each clip; NaN where it isn't known. None if
    no clip knows any."""


class MemoryTokens(NamedTuple):
    """M memory tokens shared by N objects: a table with one column each, the token axis second to last in every one.

    Tokens are rows, so that reading K of them copies K short rows and not a dense matrix.
    """

    key: Float[Tensor, "B M CK"]
    shrinkage: Float[Tensor, "B M 1"]
    selection: Float[Tensor, "B M CK"]
    use: Float[Tensor, "B M 1"]
    """Affinity received so far, summed over frames and query positions."""
    life: Float[Tensor, "B M 1"]
    """Frames that could have read the token."""
    value: Float[Tensor, "B N M CV"]

    @property
    def count(self) -> int:
        """M."""
        return self.key.shape[-2]

    def map(self, fn: Callable[[Tensor], Tensor]) -> "MemoryTokens":
        """`fn` of every column."""
        return MemoryTokens(*(fn(column) for column in self))

    def rows(self, start: int, stop: int) -> "MemoryTokens":
        """Tokens `start` to `stop`, as views."""
        return self.map(lambda column: column[..., start:stop, :])

    def take(self, index: Int[Tensor, "K"]) -> "MemoryTokens":
        """Tokens `index`, in that order."""
        return self.map(lambda column: column.index_select(-2, index))

    def objects(self, slots: Int[Tensor, "n"]) -> "MemoryTokens":
        """The same tokens for the objects `slots` of the N axis."""
        return self._replace(value=self.value.index_select(1, slots))


class MemoryView(NamedTuple):
    """What N objects that share tokens remember: all that `CutieGeo.read` needs beside the frame itself."""

    key: Float[Tensor, "B M CK"]
    shrinkage: Float[Tensor, "B M 1"]
    value: Float[Tensor, "B N M CV"]
    sensory: Float[Tensor, "B N C h w"]
    summary: Float[Tensor, "B N Q S"]
    """Object memory: sums of features and, in the last channel, their weights; summed over memory frames."""
    mask: Float[Tensor, "B N H W"]
    """Each object's probability on the frame before, padded size."""


class RecentPast(NamedTuple):
    """What N objects remember beside tokens; the last three fields of `MemoryView`."""

    sensory: Float[Tensor, "B N C h w"]
    summary: Float[Tensor, "B N Q S"]
    mask: Float[Tensor, "B N H W"]


class Readout(NamedTuple):
    """What the memory says about one frame."""

    features: Float[Tensor, "B N C h w"]
    query_logits: Float[Tensor, "B N L h w"]
    """The object transformer's own masks: before its first block and after each."""
    usage: Float[Tensor, "B M"]
    """Affinity that each memory token received, summed over query positions; sums to P."""


class Decoded(NamedTuple):
    """One frame's masks."""

    logits: Float[Tensor, "B N1 H W"]
    """After soft aggregation and upsampling, background first; softmax gives the probabilities."""
    sensory: Float[Tensor, "B N C h w"] | None
    """Updated by this frame; None where no update was asked for."""


class Memorised(NamedTuple):
    """What one frame with masks leaves in memory."""

    value: Float[Tensor, "B N P CV"]
    sensory: Float[Tensor, "B N C h w"]
    summary: Float[Tensor, "B N Q S"]
    summary_logits: Float[Tensor, "B N h w Q"]


class Prediction(NamedTuple):
    """A tracker's answer for one frame; committing it is another step."""

    probs: Float[Tensor, "N1 H W"]
    """At the padded size, background first, then `ids` in order."""
    ids: tuple[ObjectId, ...]
    sensory: Float[Tensor, "1 N C h w"] | None = None
    """The decoder's update of sensory memory, where this frame is due for one."""
    usage: tuple[Float[Tensor, "1 _"], ...] = ()
    """Of each group of objects that share tokens, in memory's order."""
    given: bool = False
    """A mask was given for this frame, so it goes to memory."""


StateDict = dict[str, Any]
"""Tensors, numbers, strings, lists and dictionaries of these: loads without executing pickles."""


def as_labels(mask: np.ndarray | Tensor) -> Tensor:
    """A label map as int64. Raises ValueError if it isn't (H, W) of whole numbers."""
    labels = torch.as_tensor(mask)
    if labels.ndim != 2 or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"label map: got {tuple(labels.shape)} of {labels.dtype}, wanted (H, W) of integers")
    return labels.long()


class MaskletTable(NamedTuple):
    """Masklets to learn classes from, one in each row."""

    features: Float[Tensor, "K C"]
    """Mean feature of what a masklet covers."""
    votes: Int[Tensor, "K classes"]
    """True pixels of each class inside it, one at least in each row."""

    def labels(self) -> Int[Tensor, "K"]:
        """The class that most of each masklet's true pixels have, the smallest of equals."""
        return self.votes.argmax(dim=1)

    @classmethod
    def joined(cls, tables: Sequence["MaskletTable"]) -> "MaskletTable":
        """Rows of several, of which there must be one, in order."""
        return cls(*(torch.cat(column) for column in zip(*tables)))
