"""Validation of a network during training on held-out videos."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int32, UInt8

from cutie_geo.config import SourceConfig, ValidationConfig, build, parse_overrides, require
from cutie_geo.data.clips import selected, source_root
from cutie_geo.data.index import LabelledVideo, labelled, labelled_spec, masked_span
from cutie_geo.data.masks import object_ids, read_labels
from cutie_geo.data.render import SceneConfig, render_clip
from cutie_geo.data.video import read_image, resize_shorter, to_tensor
from cutie_geo.evaluation.metrics import Score, mean_score, score_frames
from cutie_geo.inference.baselines import CopyMask, FlowMask
from cutie_geo.inference.segmenter import Segmenter
from cutie_geo.ops import bilinear, nearest_labels
from cutie_geo.runs.models import VideoModel, family_of

SAMPLES = 3
"""Number of frames of a video that are kept for figures."""


class TruthVideo(NamedTuple):
    """A video with the masks of some or all frames; the first frame has one."""

    name: str
    images: Callable[[], Iterable[UInt8[np.ndarray, "H W 3"]]]
    """Return the frames, read one at a time."""
    labels: list[Int32[np.ndarray, "H W"] | None]
    """Mask of each frame. None: it has none and is not scored."""


class Sample(NamedTuple):
    """One frame of a validation video with its masks, for figures."""

    image: UInt8[np.ndarray, "H W 3"]
    truth: Int32[np.ndarray, "H W"]
    found: Int32[np.ndarray, "H W"]


class ValidationScore(NamedTuple):
    """Mean scores over videos, in percent."""

    j_and_f: float
    j: float
    f: float
    copied: float
    """J&F of copying the first mask to every frame, a lower bound for networks."""
    flow: float
    """J&F of propagating the first mask by optical flow."""
    videos: dict[str, float]
    """J&F by video."""


class Validation:
    """Videos of a stage's validation; files are read and scenes rendered at each use."""

    def __init__(self, config: ValidationConfig, data_root: Path | None) -> None:
        """Initialise. Raises ValueError for missing data."""
        self.config = config
        self._files = [(source, _videos(source, data_root)) for source in config.data if source.name != "rendered"]
        self._rendered = [(source, _scene(source, config)) for source in config.data if source.name == "rendered"]
        self._floors: dict[str, tuple[float, float]] = {}
        """J&F of the two baselines, by video."""
        self.samples: dict[str, list[Sample]] = {}
        """Some frames of each video that this process scored last, if `config.keep_best` is set."""

    @property
    def names(self) -> list[str]:
        """Names of all videos, in order."""
        files = [f"{source.name}/{video.name}" for source, videos in self._files for video in videos]
        return files + [f"rendered/{seed}" for source, _ in self._rendered for seed in range(source.clips)]

    def __iter__(self) -> Iterator[TruthVideo]:
        for source, videos in self._files:
            yield from (_read(source, video, self.config.max_frames) for video in videos)
        for source, scene in self._rendered:
            for seed in range(source.clips):  # small seeds, which training never draws
                clip = render_clip(seed, scene)
                images = partial(list, clip.images)
                yield TruthVideo(f"rendered/{seed}", images, [x.astype(np.int32) for x in clip.labels])

    def score(self, model: VideoModel, share: slice = slice(None)) -> dict[str, tuple[float, ...]]:
        """Score the videos in the slice `share` of the order.

        Returns:
            J, F, and J&F of the two baselines by name, from 0 to 1.
        """
        wanted = set(self.names[share])
        scores = {}
        was_training = model.training
        model.train(False)
        try:
            for video in self:
                if video.name in wanted:
                    score = self._score(family_of(model).tracker(model), video, sample=self.config.keep_best)
                    if video.name not in self._floors:
                        floors = (self._score(floor, video).j_and_f for floor in (CopyMask(), FlowMask()))
                        self._floors[video.name] = (next(floors), next(floors))
                    scores[video.name] = (score.j, score.f, *self._floors[video.name])
        finally:
            model.train(was_training)
        return scores

    def _score(self, segmenter: Segmenter, video: TruthVideo, sample: bool = False) -> Score:
        found = segment(segmenter, video, self.config.size)
        scored = [(truth, labels) for truth, labels in zip(video.labels, found, strict=True) if truth is not None]
        if sample:
            self.samples[video.name] = _samples(video, found)
        truths, masks = zip(*scored)
        return mean_score(score_frames(truths, masks))


def require_known(config: ValidationConfig) -> None:
    """Raise ValueError for unknown data sets and invalid options, without reading any files."""
    if not config.every:
        return
    for source in config.data:
        if source.name == "rendered":
            _scene(source, config)
        else:
            labelled_spec(source.name)


def summary(scores: dict[str, tuple[float, ...]]) -> ValidationScore:
    """Return the means over videos of the scores of all processes."""
    table = 100 * np.array([scores[name] for name in sorted(scores)])
    j, f, copied, flow = (float(value) for value in table.mean(axis=0))
    return ValidationScore(
        (j + f) / 2, j, f, copied, flow, {name: 50 * (s[0] + s[1]) for name, s in sorted(scores.items())}
    )


def segment(segmenter: Segmenter, video: TruthVideo, size: int) -> list[Int32[np.ndarray, "H W"]]:
    """Return the label maps of all frames, with the first ground truth as input mask."""
    first, found = video.labels[0], []
    assert first is not None
    shape = first.shape
    for t, image in enumerate(video.images()):
        frame = resize_shorter(to_tensor(image), size)
        mask = None
        if t == 0:
            mask = torch.from_numpy(first)
            if frame.shape[-2:] != shape:
                mask = nearest_labels(mask, (frame.shape[1], frame.shape[2]))
        probs = segmenter.step(frame, mask)
        labels = segmenter.labels(bilinear(probs[None], (shape[0], shape[1]))[0], segmenter.object_ids)
        found.append(labels.to("cpu", torch.int32).numpy())
    return found


def _samples(video: TruthVideo, found: list[Int32[np.ndarray, "H W"]]) -> list[Sample]:
    """Return frames at even intervals among those with masks, without the first."""
    masked = [t for t, truth in enumerate(video.labels) if truth is not None][1:]
    wanted = {masked[i] for i in np.linspace(0, len(masked) - 1, SAMPLES + 1).round().astype(int)[1:]}
    samples = []
    for t, image in enumerate(video.images()):
        truth = video.labels[t]
        if t in wanted and truth is not None:
            samples.append(Sample(image, truth, found[t]))
    return samples


def _videos(source: SourceConfig, data_root: Path | None) -> list[LabelledVideo]:
    """Return the videos of a source. Raises ValueError for unknown or unusable ones."""
    videos = labelled(source.name, source_root(source, data_root))
    chosen = selected(videos, lambda video: video.name, source)
    for video in chosen:
        require(video.problem is None, f"validation: {source.name}/{video.name}: {video.problem}")
        require(len(video.masks) >= 3, f"validation: {source.name}/{video.name}: fewer than 3 frames with masks")
    require(bool(chosen), f"validation: {source.name}: no videos")
    return chosen


def _scene(source: SourceConfig, config: ValidationConfig) -> SceneConfig:
    given = parse_overrides(source.scene)
    shape = {"height": config.size, "width": config.size, "frames": config.length, "late_probability": 0.0}
    return build(SceneConfig, shape | given, "validation: rendered: scene")


def _read(source: SourceConfig, video: LabelledVideo, max_frames: int = 0) -> TruthVideo:
    """Read the masks of a video from the first one that shows an object on.

    Frames without masks are left out, but for own videos, whose masks may be far apart.
    """
    name = f"{source.name}/{video.name}"
    labels = {stem: read_labels(path, video.long_ids).labels for stem, path in video.masks.items()}
    if video.single_object:
        labels = {stem: (x > 0).astype(np.int32) for stem, x in labels.items()}
    blank = list(takewhile(lambda stem: not object_ids(labels[stem]), labels))
    labels = {stem: x for stem, x in labels.items() if stem not in blank}
    require(len(labels) >= 3, f"{name}: fewer than 3 masks from the first one with an object on")
    if video.source is None:
        kept = list(labels)[: max(max_frames, 3) if max_frames else None]
        return TruthVideo(name, lambda: (read_image(video.frames[stem]) for stem in kept), [labels[s] for s in kept])
    shown = replace(video, masks={stem: video.masks[stem] for stem in labels})
    stems = [stem for stem, _ in masked_span(shown, max_frames)]
    return TruthVideo(
        name,
        lambda: (image for _, image in masked_span(shown, max_frames)),
        [labels.get(stem) for stem in stems],
    )
