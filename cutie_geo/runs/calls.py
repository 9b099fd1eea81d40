"""Segmentation from Python: frames in, results out; files in, files out; segmenters of any model."""

import json
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Int, Int32
from PIL import Image
from torch import Tensor

from cutie_geo.config import (
    LongTermConfig,
    TrackerConfig,
    TrackerOptions,
    build,
    flatten,
    merge,
    read_json,
    require,
    to_dict,
)
from cutie_geo.config.choices import DEFAULT_MODEL
from cutie_geo.data.annotations.read import is_annotations
from cutie_geo.data.frames import image_tensor
from cutie_geo.data.index import OWN_VIDEOS, VideoRecord, discover
from cutie_geo.data.io_threads import read_ahead
from cutie_geo.data.live import LiveOptions, LiveVideo
from cutie_geo.data.masks import MAX_PALETTE_ID, object_ids, resize_labels, write_labels
from cutie_geo.data.prompts import FramePrompts, first_frame_prompts
from cutie_geo.data.sources import MemoryFrames, Source, StreamAddress, open_any, parse_source
from cutie_geo.inference.factory import internal_size, method_for, reading_size, resolve_options
from cutie_geo.inference.families import VideoModel, family_of
from cutie_geo.inference.model_ensemble import ModelEnsemble
from cutie_geo.inference.one_video import READ_AHEAD, live_or_file, read_record
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.prefetch import Prefetch
from cutie_geo.inference.results import CONVERTED_MASKS, NOTES, SUMMARY, Report, Results, refuse_output
from cutie_geo.inference.segment import Segmented, segment_frames
from cutie_geo.inference.segmenter import Method, PromptMasks, Segmenter
from cutie_geo.runs.frame_result import FrameResult
from cutie_geo.runs.infer import InferOptions, infer
from cutie_geo.runs.models import load_any
from cutie_geo.runs.prompts import load_prompter
from cutie_geo.runs.threads import default_lookahead
from cutie_geo.structures import MAX_OBJECT_ID, Frame, GivenMask, ObjectId

Number = float | int
Points = Mapping[ObjectId, Any]
"""Points (x, y) or (x, y, label) of each object; label 1 is on the object, 0 beside it."""
Boxes = Mapping[ObjectId, Any]
"""Box (x0, y0, x1, y1) of each object."""


# ------------------------------------------------------------------------------------------------------ segmenters
def make_segmenter(
    model: str | VideoModel | Sequence[str | VideoModel] = DEFAULT_MODEL,
    *,
    weights: str | Path = "auto",
    device: str | torch.device = "auto",
    precision: str = "auto",
    scales: Sequence[Number] = (1.0,),
    flip: bool = False,
    feedback: str = "own",
    coefficients: Sequence[Number] | None = None,
    devices: Sequence[str] = (),
    num_frames: int | None = None,
    **options: Unpack[TrackerOptions],
) -> Method:
    """Build the segmenter of one video: a `Tracker`, an `Ensemble`, a `ModelEnsemble`, or SAM 2's tracker.

    It takes frames of the video's own size and has the settings that `cutie_geo.track` and the command line use.

    >>> import cutie_geo
    >>> segmenter = cutie_geo.make_segmenter("cutie-geo-tiny", flip=True, mem_every=3)
    >>> type(segmenter).__name__, segmenter.object_ids
    ('Ensemble', [])

    Args:
        model: Name of a model, as for `load_model`, a loaded model, or several for an ensemble of models.
        weights: Weights of models given by name; see `load_model`.
        device: Device of models given by name.
        precision: Precision of models given by name.
        scales: Scales of the frames; several make an ensemble of views.
        flip: Add the horizontal flip of each scale.
        feedback: Predictions that each view commits: "own" or "merged".
        coefficients: Coefficients of several models in their mean (default: equal).
        devices: Devices of the views.
        num_frames: Length of the video, if known; see `Sam2Tracker`.
        **options: Options of the tracker; see `TrackerConfig`.

    Raises:
        ValueError: For unknown models and options, and for invalid values.
    """
    given = [model] if isinstance(model, str) or not isinstance(model, Sequence) else list(model)
    models = [load_any(one, weights, device, precision) if isinstance(one, str) else one for one in given]
    run = _own_options(
        options,
        scales=tuple(map(float, scales)),
        flip=flip,
        feedback=feedback,
        devices=tuple(devices),
        coefficients=None if coefficients is None else tuple(map(float, coefficients)),
    )
    members = [_for_any_size(one, run, num_frames) for one in models]
    if len(members) == 1:
        return members[0]
    return ModelEnsemble(members, run.coefficients, len({one.device for one in models}))


def _for_any_size(model: VideoModel, options: RunOptions, num_frames: int | None) -> Method:
    """Build the segmenter of one model, which resizes frames itself."""
    run, family = resolve_options([model], options), family_of(model)
    return family.segmenter(model, run, num_frames, run.devices, size=internal_size(model, options))


def _own_options(options: Mapping[str, Any], **others: Any) -> RunOptions:
    """Return the options of a run on a user's own video, as the command line sets them."""
    defaults = {"use_long_term": OWN_VIDEOS.use_long_term, "mem_every": OWN_VIDEOS.mem_every}
    tracker = build(TrackerConfig, merge({k: v for k, v in defaults.items() if v is not None}, options), "options")
    return RunOptions(tracker, default_size=OWN_VIDEOS.size, corrections=True, **others)


# ---------------------------------------------------------------------------------------------------------- frames
def track(
    source: Any,
    mask: Any = None,
    points: Points | None = None,
    boxes: Boxes | None = None,
    model: str | VideoModel = DEFAULT_MODEL,
    *,
    color: str = "rgb",
    weights: str | Path = "auto",
    device: str | torch.device = "auto",
    precision: str = "auto",
    prompt_model: str | None = None,
    prompt_weights: str = "auto",
    scales: Sequence[Number] = (1.0,),
    flip: bool = False,
    long_ids: bool = False,
    raw: str | None = None,
    live: bool | None = None,
    drop_frames: bool = False,
    queue: int = LiveOptions.queue,
    reconnect: Number = LiveOptions.reconnect,
    **options: Unpack[TrackerOptions],
) -> Generator[FrameResult, None, None]:
    """Segment a video and yield the result of each frame. Nothing is written, and no frame is kept.

    >>> import cutie_geo
    >>> first_mask = cutie_geo.example_masks() / "00000.png"
    >>> for result in cutie_geo.track(cutie_geo.example_frames(), mask=first_mask, max_internal_size=96):
    ...     if result.index == 2:
    ...         break
    >>> result.name, sorted(result.boxes), result.probs.shape
    ('00002', [1, 2, 3], (4, 180, 320))

    Args:
        source: A video file, a folder of frames, a pattern such as `frames/*.jpg`, a list of image files, a camera's
            number, an rtsp:// or http(s):// URL, `-` for standard input, or any iterable of frames: numpy arrays
            (H, W, 3) of uint8, PIL images, or tensors (3, H, W), which are rounded to 8 bits.
        mask: Label map of the first frame: a PNG, an array or tensor (H, W) of ids, or a PIL image; or a folder of PNGs
            named after frames, or annotations (COCO, CVAT, YOLO) of the video.
        points: Points of each object on the first frame: `{1: [(x, y), (x, y, label)]}`, in pixels.
        boxes: Box of each object on the first frame: `{2: (x0, y0, x1, y1)}`.
        model: Name of a model, as for `load_model`, or a loaded model.
        color: Order of the channels of arrays and tensors: "rgb", or "bgr" for OpenCV's.
        weights: See `load_model`.
        device: See `load_model`.
        precision: See `load_model`.
        prompt_model: Model that makes masks of points and boxes (default: the command line's).
        prompt_weights: Weights of that model.
        scales: Scales of the frames; several make an ensemble.
        flip: Add the horizontal flip of each scale.
        long_ids: RGB masks hold ids R + 256 G + 65536 B.
        raw: Format of raw frames on standard input: WIDTHxHEIGHT[,PIXELS[,FPS]].
        live: Read without an end, through a bounded queue; a file plays at its frame rate (default: for cameras and
            RTSP).
        drop_frames: Drop the oldest of too many waiting frames of a live source; `index` counts them.
        queue: Maximum number of frames of a live source that wait.
        reconnect: Seconds for which a lost live source is tried again.
        **options: Options of the tracker; see `TrackerConfig`.

    Raises:
        ValueError: At the call, for a missing source or model, for invalid options, and without a mask or prompt; while
            iterating, for a damaged frame, and for masks that do not fit the video.
    """
    prompts, labels, given = first_frame_prompts(points, boxes), _label_map(mask), _source(source, color, raw)
    endless = isinstance(given, StreamAddress) and given.is_endless
    alive = LiveOptions(drop_frames, queue, float(reconnect)) if (endless if live is None else live) else None
    require(alive is not None or not drop_frames, "drop_frames: expected a live source with it")
    require(mask is not None or bool(prompts), "track: got no mask, points or boxes, expected at least one of them")
    run = _own_options(options, scales=tuple(map(float, scales)), flip=flip, live=alive)
    with ExitStack() as opened:
        record = _only_record(given, None if labels is not None else mask, long_ids, prompts, opened)
        network = load_any(model, weights, device, precision) if isinstance(model, str) else model
        run = resolve_options([network], run)
        largest = options.get("max_internal_size")
        prompter = load_prompter([network], prompt_model, prompt_weights, largest)[0] if prompts else None
        video = live_or_file(open_any(record.source, record.reader), record, run)
        frames = read_record(record, video, reading_size([network], run), keep_source=True)
        if labels is not None:
            frames = _with_mask(frames, labels)
        waits = alive is None and not record.is_stream
        lookahead = default_lookahead([network]) if waits else 1
        if waits:
            frames = read_ahead(frames, max(READ_AHEAD, lookahead))
        segmented = segment_frames(
            method_for([network], run), frames, Prefetch(lookahead), prompter, corrections=run.corrections
        )
        return _results(segmented, video if isinstance(video, LiveVideo) else None, opened.pop_all())
    raise AssertionError("no error is suppressed")


def _results(
    segmented: Generator[Segmented, None, None], live: LiveVideo | None, opened: ExitStack
) -> Generator[FrameResult, None, None]:
    """Yield the results of `track`; close its source and its files at the end."""
    with opened, closing(segmented):
        for index, result in enumerate(segmented):
            frame = result.frame
            assert frame.source is not None, "requested by track"
            labels = result.labels.to("cpu", torch.int32).numpy()
            latency = None if live is None else live.finished(frame.name)
            number = index if live is None else int(frame.name)
            yield FrameResult(number, frame.name, frame.source, labels, result.ids, result.probs, latency)


def _source(source: Any, color: str, raw: str | None) -> Path | list[Path] | Source:
    """Resolve a user's source to paths, a stream or frames. Raises ValueError for other types."""
    if isinstance(source, (StreamAddress, MemoryFrames)):
        return source
    if isinstance(source, bool) or source is None:
        raise ValueError(f"source: got {source}, expected a video, a folder, a camera's number, a URL, or frames")
    if isinstance(source, int):
        require(source >= 0, f"source: got {source}, expected the number of a camera, from 0")
        return StreamAddress(str(source))
    if isinstance(source, str):
        return parse_source(source, raw)
    if isinstance(source, Path):
        return source
    if isinstance(source, (list, tuple)) and source and all(isinstance(item, (str, Path)) for item in source):
        return [Path(item) for item in source]
    if isinstance(source, Image.Image) or not isinstance(source, Iterable):
        raise ValueError(f"source: got {type(source).__name__}, expected a path, a URL, or an iterable of frames")
    if isinstance(source, (np.ndarray, Tensor)):
        single = source.ndim < 3 or (source.ndim == 3 and (source.shape[-1] in (3, 4) or source.shape[0] in (1, 3, 4)))
        require(not single, f"source: got one frame, {tuple(source.shape)}, expected several; a list of one is fine")
    return MemoryFrames(source, color)


def _label_map(mask: Any) -> Int32[np.ndarray, "H W"] | None:
    """Return a mask in memory as a label map; None for a path. Raises ValueError for other things."""
    if mask is None or isinstance(mask, (str, Path)):
        require(mask != "", "mask: got an empty text, expected a path")
        return None
    array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    array = array.astype(np.uint8) if array.dtype == bool else array
    good = array.ndim == 2 and array.dtype.kind in "iu" and array.size > 0
    require(good, f"mask: got {array.shape} of {array.dtype}, expected a path or a label map (H, W) of integers")
    require(bool(array.any()), "mask: the mask has no objects; expected at least one non-zero id")
    low, high = int(array.min()), int(array.max())
    require(low >= 0 and high <= MAX_OBJECT_ID, f"mask: got ids from {low} to {high}, expected 0 to {MAX_OBJECT_ID}")
    return array.astype(np.int32)


def _only_record(
    source: Path | list[Path] | Source,
    mask: Any,
    long_ids: bool,
    prompts: Mapping[str, FramePrompts],
    opened: ExitStack,
) -> VideoRecord:
    """Return the record of a single video. Annotations of other programs are converted into a temporary folder."""
    path = None if mask is None else Path(mask)
    converted = None
    if path is not None and path.exists() and is_annotations(path, ""):
        converted = Path(opened.enter_context(tempfile.TemporaryDirectory()))
    records = discover(source, path, long_ids, prompts, converted)
    names = ", ".join(record.name for record in records[:5])
    require(len(records) == 1, f"source: got {len(records)} videos ({names}), expected one; segment() takes several")
    record = records[0]
    require(record.problem is None or mask is None, str(record.problem))
    return replace(record, problem=None)


def _with_mask(frames: Iterable[Frame], labels: Int32[np.ndarray, "H W"]) -> Iterator[Frame]:
    """Yield frames, the first with a label map of its own size. Raises ValueError if the sizes differ."""
    with closing(iter(frames)) as all_frames:  # type: ignore[type-var]
        for index, frame in enumerate(all_frames):
            if index == 0:
                size = frame.size
                require(labels.shape == size, f"mask: got (H, W) = {labels.shape}, expected the first frame's {size}")
                shown = resize_labels(labels, (frame.image.shape[-2], frame.image.shape[-1]))
                frame = frame._replace(given=GivenMask(shown, object_ids(shown)))
            yield frame


def segment_video(
    tracker: Segmenter,
    frames: Iterable[Any],
    lookahead: int = 1,
    prompter: PromptMasks | None = None,
    color: str = "rgb",
) -> Iterator[tuple[str, Int[Tensor, "H W"]]]:
    """Yield each frame's name and its label map at the frame's own size, with the ids of the input masks.

    >>> import cutie_geo
    >>> frames = cutie_geo.read_video(cutie_geo.example_frames(), cutie_geo.example_masks() / "00000.png", size=96)
    >>> tracker = cutie_geo.Tracker(cutie_geo.load_model("cutie-geo-tiny"))
    >>> name, labels = next(cutie_geo.segment_video(tracker, frames))
    >>> name, tuple(labels.shape), labels.unique().tolist()
    ('00000', (180, 320), [0, 1, 2, 3])

    Args:
        tracker: New `Tracker`, `Ensemble` or other segmenter.
        frames: Frames from `cutie_geo.read_video`, or any iterable of `Frame`, arrays, PIL images or tensors; the last
            three are named by their number.
        lookahead: Number of frames encoded as one batch, which is faster on a GPU.
        prompter: Maker of masks of frames with prompts (default: the command line's, loaded when a frame has prompts).
        color: Order of the channels of arrays and tensors: "rgb" or "bgr".

    Raises:
        ValueError: If a frame is invalid, or does not fit the others.
    """
    read = _as_frames(frames, color)
    for result in segment_frames(tracker, read, Prefetch(lookahead), prompter or _PrompterOf(tracker)):
        yield result.frame.name, result.labels


def _as_frames(frames: Iterable[Any], color: str) -> Iterator[Frame]:
    for index, frame in enumerate(frames):
        yield frame if isinstance(frame, Frame) else Frame(f"{index:05d}", image_tensor(frame, color))


class _PrompterOf:
    """Prompter of a segmenter's models, loaded when it is first needed."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._prompter: PromptMasks | None = None

    def given(self, method: Segmenter, frame: Frame, with_depth: bool = False) -> tuple[GivenMask, Any]:
        """Return one mask from all prompts and masks of a frame, and the frame's features."""
        if self._prompter is None:
            members = getattr(self.segmenter, "members", [self.segmenter])
            models = [member.model for member in members if hasattr(member, "model")]
            require(
                bool(models), f"frame {frame.name}: got prompts for a segmenter without a model, expected a prompter"
            )
            self._prompter = load_prompter(models)[0]
        return self._prompter.given(method, frame, with_depth)


# ----------------------------------------------------------------------------------------------------------- files
def segment(
    source: Any,
    mask: Any = None,
    points: Points | None = None,
    boxes: Boxes | None = None,
    output: str | Path = "output",
    model: str | Sequence[str] = DEFAULT_MODEL,
    *,
    overlay: bool = False,
    fps: Number | None = None,
    save_probs: bool = False,
    save_depth: bool = False,
    overwrite: bool = False,
    color: str = "rgb",
    weights: str | Path = "auto",
    device: str | torch.device = "auto",
    precision: str = "auto",
    prompt_model: str | None = None,
    prompt_weights: str = "auto",
    coefficients: Sequence[Number] | None = None,
    scales: Sequence[Number] | None = None,
    flip: bool = False,
    long_ids: bool = False,
    raw: str | None = None,
    live: bool | None = None,
    drop_frames: bool = False,
    queue: int = LiveOptions.queue,
    reconnect: Number = LiveOptions.reconnect,
    show: bool = False,
    **options: Unpack[TrackerOptions],
) -> Report:
    """Segment videos into a folder of results, as the command `cutie-geo infer` does, and return what run.json holds.

    >>> import cutie_geo, tempfile
    >>> images = sorted(cutie_geo.example_frames().glob("*.jpg"))[:3]
    >>> first_mask = cutie_geo.example_masks() / "00000.png"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = cutie_geo.segment(images, mask=first_mask, output=folder, max_internal_size=96)
    >>> run["videos"]["toy_wall"]["frames"], run["videos"]["toy_wall"]["objects"]
    (['00000', '00001', '00002'], [1, 2, 3])

    Args:
        source: As for `track`; also several videos: a folder or a list of videos, or a pattern.
        mask: As for `track`; for several videos a folder with `<video>.png` or `<video>/`.
        points: As for `track`.
        boxes: As for `track`.
        output: Folder of the results.
        model: Name of a model, or several for an ensemble.
        overlay: Also write a video with the masks overlaid.
        fps: Frame rate of the overlay (default: the video's, or 24).
        save_probs: Also write the probabilities of each frame.
        save_depth: Also write the depth of each frame as an image.
        overwrite: Segment complete videos again.
        color: As for `track`.
        weights: See `load_model`.
        device: See `load_model`.
        precision: See `load_model`.
        prompt_model: As for `track`.
        prompt_weights: As for `track`.
        coefficients: Coefficients of several models in their mean (default: equal).
        scales: As for `track`.
        flip: As for `track`.
        long_ids: As for `track`.
        raw: As for `track`.
        live: As for `track`; Ctrl-C ends a live video, and its results are complete.
        drop_frames: As for `track`. run.json has the number of dropped frames, and the latency.
        queue: As for `track`.
        reconnect: As for `track`.
        show: Show the overlay of each frame of a live source in a window.
        **options: Options of the tracker; see `TrackerConfig`.

    Returns:
        Content of run.json: settings, versions, and a report for each video; see docs/inference.md.

    Raises:
        ValueError: For invalid input, and if no video could be segmented. If only some fail, their reports have an
            `error`.
        OSError: If run.json cannot be written.
    """
    require(output != "", "output: got an empty text, expected a path")
    output, labels = Path(output), _label_map(mask)
    given = _source(source, color, raw)
    video: Any = tuple(given) if isinstance(given, list) else given
    if labels is not None:
        refuse_output(output, [video] if isinstance(video, Path) else [])
        mask = Results.at(output).root / NOTES / CONVERTED_MASKS / "first.png"
        long_ids = long_ids or int(labels.max()) > MAX_PALETTE_ID
        write_labels(mask, labels, long_ids=long_ids)
    job = InferOptions(
        video=video,
        mask=None if mask is None else Path(mask),
        prompts=first_frame_prompts(points, boxes),
        prompt_model=prompt_model,
        prompt_weights=prompt_weights,
        long_ids=long_ids,
        output=output,
        overlay=overlay,
        fps=None if fps is None else float(fps),
        save_probs=save_probs,
        save_depth=save_depth,
        overwrite=overwrite,
        models=(model,) if isinstance(model, str) else tuple(model),
        coefficients=None if coefficients is None else tuple(map(float, coefficients)),
        weights=str(weights),
        device=str(device),
        precision=precision,
        ms=None if scales is None else tuple(map(float, scales)),
        flip=flip,
        live=bool(live),
        drop_frames=drop_frames,
        queue=queue,
        reconnect=float(reconnect),
        show=show,
        command=("cutie_geo.segment",),
        **_job_options(options),
    )
    outcome = infer(job)
    if outcome.failure is not None:
        raise outcome.failure
    errors = [report["error"] for report in outcome.reports if "error" in report]
    require(len(errors) < len(outcome.reports), "; ".join(errors))
    return read_json(outcome.output / SUMMARY)


def _job_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a tracker as fields of `InferOptions`. Raises ValueError for unknown ones."""
    build(TrackerConfig, options, "options")
    known = {field.name for field in fields(InferOptions)} - {"long_term"}  # there a switch, here its settings
    own = {name: value for name, value in options.items() if name in known}
    if "use_long_term" in options:
        own["long_term"] = options["use_long_term"]
    others = {name: value for name, value in options.items() if name not in known and name != "use_long_term"}
    plain = flatten({name: to_dict(v) if isinstance(v, LongTermConfig) else v for name, v in others.items()})
    return own | {"overrides": tuple(f"{name}={json.dumps(value)}" for name, value in plain.items())}
