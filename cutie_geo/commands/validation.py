"""Scores of a network that is being trained, on videos that it is not trained on."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int32, UInt8

from cutie_geo.baselines import CopyMask, FlowMask
from cutie_geo.config import SourceConfig, ValidationConfig, build, parse_overrides, require
from cutie_geo.data.clips import selected, source_root
from cutie_geo.data.index import LabelledVideo, labelled
from cutie_geo.data.masks import object_ids, read_labels
from cutie_geo.data.render import SceneConfig, render_clip
from cutie_geo.data.video import read_image, resize_shorter, to_tensor
from cutie_geo.evaluation.metrics import Score, mean_score, score_frames
from cutie_geo.inference.methods import VideoModel
from cutie_geo.inference.sam2_tracker import Sam2Tracker
from cutie_geo.inference.segment import Segmenter
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.sam2 import Sam2Model
from cutie_geo.ops import bilinear, nearest_labels


class TruthVideo(NamedTuple):
    """A short video with all its masks."""

    name: str
    images: list[UInt8[np.ndarray, "H W 3"]]
    labels: list[Int32[np.ndarray, "H W"]]


class ValidationScore(NamedTuple):
    """Means over videos, in percent."""

    j_and_f: float
    j: float
    f: float
    copied: float
    """J&F of the first mask on every frame: the least that a network must beat."""
    flow: float
    """J&F of the first mask carried along by optical flow."""
    videos: dict[str, float]
    """J&F by video."""


class Validation:
    """The videos of a stage's validation; rendered ones are made anew each time, files are read."""

    def __init__(self, config: ValidationConfig, data_root: Path | None) -> None:
        """Raises ValueError for data that isn't there, before any of it is needed."""
        self.config = config
        self._files = [(source, _videos(source, data_root)) for source in config.data if source.name != "rendered"]
        self._rendered = [(source, _scene(source, config)) for source in config.data if source.name == "rendered"]
        self._floors: dict[str, tuple[float, float]] = {}
        """By video, J&F of the methods that learn nothing."""

    @property
    def names(self) -> list[str]:
        """Of all videos, in order."""
        files = [f"{source.name}/{video.name}" for source, videos in self._files for video in videos]
        return files + [f"rendered/{seed}" for source, _ in self._rendered for seed in range(source.clips)]

    def __iter__(self) -> Iterator[TruthVideo]:
        for source, videos in self._files:
            yield from (_read(source, video) for video in videos)
        for source, scene in self._rendered:
            for seed in range(source.clips):  # small seeds, which training never draws
                clip = render_clip(seed, scene)
                yield TruthVideo(f"rendered/{seed}", list(clip.images), [x.astype(np.int32) for x in clip.labels])

    def score(self, model: VideoModel, share: slice = slice(None)) -> dict[str, tuple[float, ...]]:
        """(J, F, and J&F of the two floors) of the videos in `share` of the order, by name, from 0 to 1."""
        wanted = set(self.names[share])
        scores = {}
        was_training = model.training
        model.eval()
        try:
            for video in self:
                if video.name in wanted:
                    score = self._score(_tracker(model), video)
                    if video.name not in self._floors:
                        floors = (self._score(floor, video).j_and_f for floor in (CopyMask(), FlowMask()))
                        self._floors[video.name] = (next(floors), next(floors))
                    scores[video.name] = (score.j, score.f, *self._floors[video.name])
        finally:
            model.train(was_training)
        return scores

    def _score(self, segmenter: Segmenter, video: TruthVideo) -> Score:
        return mean_score(score_frames(video.labels, segment(segmenter, video, self.config.size)))


def _tracker(model: VideoModel) -> Segmenter:
    return Sam2Tracker(model) if isinstance(model, Sam2Model) else Tracker(model, max_internal_size=-1)


def summary(scores: dict[str, tuple[float, ...]]) -> ValidationScore:
    """Means over videos of what `Validation.score` gave, in every process's share."""
    table = 100 * np.array([scores[name] for name in sorted(scores)])
    j, f, copied, flow = (float(value) for value in table.mean(axis=0))
    return ValidationScore(
        (j + f) / 2, j, f, copied, flow, {name: 50 * (s[0] + s[1]) for name, s in sorted(scores.items())}
    )


def segment(segmenter: Segmenter, video: TruthVideo, size: int) -> list[Int32[np.ndarray, "H W"]]:
    """Label maps of every frame, given the first one's."""
    found = []
    shape = video.labels[0].shape
    for t, image in enumerate(video.images):
        frame = resize_shorter(to_tensor(image), size)
        given = None
        if t == 0:
            given = torch.from_numpy(video.labels[0])
            if frame.shape[-2:] != shape:
                given = nearest_labels(given, (frame.shape[1], frame.shape[2]))
        probs = segmenter.step(frame, given)
        labels = segmenter.labels(bilinear(probs[None], (shape[0], shape[1]))[0])
        found.append(labels.to("cpu", torch.int32).numpy())
    return found


def _videos(source: SourceConfig, data_root: Path | None) -> list[LabelledVideo]:
    """The videos of a source. Raises ValueError for unknown or unusable ones."""
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


def _read(source: SourceConfig, video: LabelledVideo) -> TruthVideo:
    """A video's frames that have masks."""
    images = [read_image(video.frames[stem]) for stem in video.masks]
    labels = [read_labels(path, video.long_ids).labels for path in video.masks.values()]
    if video.single_object:
        labels = [(x > 0).astype(np.int32) for x in labels]
    require(bool(object_ids(labels[0])), f"{source.name}/{video.name}: no object in the first frame")
    return TruthVideo(f"{source.name}/{video.name}", images, labels)
