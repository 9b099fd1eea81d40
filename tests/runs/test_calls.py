"""Python's way in: what track yields and segment writes is what the command line writes."""

import importlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import supervision
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from tiny import TINY_YAML
from toy_videos import SIZE, contents, pictures, read_ids, regions, tiny_options, write_film, write_frames, write_mask

import cutie_geo
from cutie_geo.__main__ import run_one
from cutie_geo.data.annotations.polygons import fill_outlines
from cutie_geo.data.masks import write_labels
from cutie_geo.data.video import read_image
from cutie_geo.inference.segmenter import Method
from cutie_geo.runs import calls
from cutie_geo.structures import Frame, GivenMask, Prompt

OPTIONS: dict[str, Any] = {"weights": "none", "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The small model with random weights that the command line loads."""
    path = tmp_path_factory.mktemp("model") / "tiny.yaml"
    path.write_text(TINY_YAML)
    return cutie_geo.load_model(str(path), **OPTIONS)


def command(folder: Path, *words: object) -> dict[str, np.ndarray]:
    """The label maps of a run of the command line, by frame."""
    run = ["--output", str(folder / "cli"), *tiny_options(folder), *map(str, words)]
    assert run_one("infer", run) == 0
    return {path.stem: read_ids(path) for path in sorted((folder / "cli").glob("Annotations/*/*.png"))}


def bgr_frames(path: Path) -> Iterator[np.ndarray]:
    """What programs with OpenCV do."""
    capture = cv2.VideoCapture(str(path))
    while True:
        good, image = capture.read()
        if not good:
            break
        yield image
    capture.release()


def require_equal(results: Any, expected: dict[str, np.ndarray]) -> None:
    """Compare label maps byte by byte."""
    got = {result.name: result.labels for result in results}
    assert list(got) == list(expected)
    for name, labels in expected.items():
        assert got[name].astype(np.int32).tobytes() == labels.astype(np.int32).tobytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("size", [-1, 48])
def test_an_opencv_loop_equals_the_command_line(size: int, model: Any, tmp_path: Path) -> None:
    film, mask = write_film(tmp_path / "film.mp4", 5), write_mask(tmp_path / "first.png")
    resized: dict[str, Any] = {"max_internal_size": size, "mem_every": 2}
    expected = command(tmp_path, "--video", film, "--mask", mask, "--size", size, "--mem-every", 2)
    assert len(expected) == 5
    require_equal(cutie_geo.track(bgr_frames(film), mask=mask, model=model, color="bgr", **resized), expected)
    require_equal(cutie_geo.track(str(film), mask=read_ids(mask), model=model, **resized), expected)
    segmenter = cutie_geo.make_segmenter(model, **resized)
    for index, image in enumerate(bgr_frames(film)):
        probs = segmenter.step(image, read_ids(mask) if index == 0 else None, color="bgr")
        assert (
            segmenter.labels(probs).numpy().astype(np.int32).tobytes()
            == expected[f"{index:05d}"].astype(np.int32).tobytes()
        )


@pytest.mark.slow
def test_the_loop_of_the_documentation_keeps_ids(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV itself would read the palette's colours as ids."""
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
    block = page.partition("## With OpenCV")[2].partition("```python\n")[2].partition("```")[0]
    write_film(tmp_path / "clip.mp4", 3)
    mask = write_mask(tmp_path / "first.png")
    expected = command(tmp_path, "--video", tmp_path / "clip.mp4", "--mask", mask)
    found: list[np.ndarray] = []
    segmenter = cutie_geo.make_segmenter(model)
    painted = segmenter.labels
    monkeypatch.setattr(segmenter, "labels", lambda probs: found.append(painted(probs).numpy()))
    monkeypatch.setattr(cutie_geo, "make_segmenter", lambda name: segmenter)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "python.md", "exec"), {"cutie_geo": cutie_geo})
    assert [labels.tolist() for labels in found] == [labels.tolist() for labels in expected.values()]


@pytest.mark.slow
def test_every_kind_of_source_gives_the_same(model: Any, tmp_path: Path) -> None:
    frames, mask = write_frames(tmp_path / "clip", 3), write_mask(tmp_path / "first.png")
    files = sorted(frames.glob("*.jpg"))
    expected = command(tmp_path, "--video", frames, "--mask", mask)
    images = [read_image(path) for path in files]
    for source in (
        frames,
        str(frames),
        str(frames / "*.jpg"),
        files,
        images,
        iter(images),
        [Image.open(path) for path in files],
        [torch.from_numpy(image).permute(2, 0, 1) for image in images],
        [torch.from_numpy(image).permute(2, 0, 1) / 255 for image in images],
        np.stack(images),
    ):
        require_equal(cutie_geo.track(source, mask=mask, model=model), expected)
    for given in (str(mask), read_ids(mask), torch.from_numpy(read_ids(mask)), Image.open(mask)):
        require_equal(cutie_geo.track(images, mask=given, model=model), expected)
    named = write_mask(tmp_path / "masks" / "00000.png").parent
    require_equal(cutie_geo.track(files, mask=named, model=model), expected)
    live = list(cutie_geo.track(images, mask=mask, model=model, live=True))
    require_equal(live, expected)
    assert all(result.latency > 0 for result in live)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools
def test_a_result_has_every_form(model: Any, tmp_path: Path) -> None:
    labels = np.zeros(SIZE, np.int32)
    labels[4:30, 5:40] = 2
    labels[10:15, 10:20] = 0
    labels[50:60, 60:90] = 7
    labels[40:44, 10:14] = 7
    source = pictures(2)
    result = next(cutie_geo.track(source, mask=labels, model=model, max_internal_size=-1))
    assert (result.index, result.name, result.ids, result.latency) == (0, "00000", (2, 7), None)
    assert np.array_equal(result.image, source[0])
    assert np.array_equal(result.labels, labels)
    assert result.labels.dtype == np.int32
    assert {i: mask.dtype == bool and np.array_equal(mask, labels == i) for i, mask in result.masks.items()} == {
        2: True,
        7: True,
    }
    assert result.boxes == {2: (5, 4, 40, 30), 7: (10, 40, 90, 60)}
    assert result.probs.shape == (3, *SIZE)
    assert result.probs.dtype == np.float32
    assert np.allclose(result.probs.sum(0), 1, atol=1e-5)
    assert np.array_equal(np.array([0, 2, 7])[result.probs.argmax(0)], labels)
    for i, channel in ((2, 1), (7, 2)):
        assert result.scores[i] == pytest.approx(result.probs[channel][labels == i].mean(), abs=1e-5)
        polygons = [np.array(polygon).reshape(-1, 2) for polygon in result.polygons(i)]
        assert np.array_equal(fill_outlines(polygons, SIZE), labels == i)
        assert np.array_equal(coco_mask.decode(json.loads(json.dumps(result.rle(i)))), labels == i)
    plot = result.plot()
    assert isinstance(plot, Image.Image)
    assert plot.size == SIZE[::-1]
    assert (np.asarray(plot) != source[0]).any()
    found = result.to_supervision()
    assert found.tracker_id.tolist() == [2, 7]  # type: ignore[union-attr]
    assert found.xyxy.tolist() == [[5, 4, 40, 30], [10, 40, 90, 60]]
    assert np.array_equal(found.mask, np.stack([labels == 2, labels == 7]))  # type: ignore[arg-type]
    assert found.confidence == pytest.approx([result.scores[2], result.scores[7]])
    drawn = supervision.MaskAnnotator().annotate(result.image.copy(), found)
    assert (drawn != result.image).any()
    for form in (result.rle, result.polygons):
        with pytest.raises(ValueError, match=r"object 3: not tracked, expected one of \[2, 7\]"):
            form(3)


def test_an_object_that_is_not_seen_has_a_mask_and_no_box() -> None:
    probs = torch.zeros(2, 4, 4)
    probs[0] = 1
    result = cutie_geo.FrameResult(3, "3", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.int32), (5,), probs)
    assert not result.masks[5].any()
    assert (result.boxes, result.scores, result.polygons(5)) == ({}, {5: 0.0}, [])
    found = result.to_supervision()
    assert len(found) == 0
    assert found.mask is not None
    assert found.mask.shape == (0, 4, 4)
    assert len(repr(result)) < 100


# ------------------------------------------------------------------------------------------------------------ files
@pytest.mark.slow
def test_segment_writes_what_the_command_writes(tmp_path: Path) -> None:
    film, mask = write_film(tmp_path / "film.mp4", 3), write_mask(tmp_path / "first.png")
    expected = command(tmp_path, "--video", film, "--mask", mask, "--mem-every", 2, "--overlay")
    options: dict[str, Any] = {"model": str(tmp_path / "tiny.yaml"), **OPTIONS, "mem_every": 2}
    run = cutie_geo.segment(film, mask, output=tmp_path / "python", overlay=True, **options)
    assert run == json.loads((tmp_path / "python" / "run.json").read_text())
    assert contents(tmp_path / "python" / "Annotations") == contents(tmp_path / "cli" / "Annotations")
    theirs, ours = ((tmp_path / name / "overlays" / "film.mp4").read_bytes() for name in ("cli", "python"))
    assert theirs == ours
    cli = json.loads((tmp_path / "cli" / "run.json").read_text())
    assert run["settings"] == cli["settings"]
    assert run["videos"]["film"]["frames"] == list(expected)
    # a second call finds it complete
    before = contents(tmp_path / "python")
    assert cutie_geo.segment(film, mask, output=tmp_path / "python", overlay=True, **options)["videos"]["film"]
    assert contents(tmp_path / "python") == before
    with pytest.raises(ValueError, match="was made with other"):
        cutie_geo.segment(film, mask, output=tmp_path / "python", **(options | {"mem_every": 3}))


@pytest.mark.slow
def test_segment_takes_frames_and_masks_in_memory(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY_YAML)
    options: dict[str, Any] = {"model": str(tmp_path / "tiny.yaml"), **OPTIONS}
    labels = regions((3, 300))
    long_term = {"num_prototypes": 64}
    run = cutie_geo.segment(
        pictures(3), labels, output=tmp_path / "out", long_term=long_term, antialias=True, **options
    )
    assert run["videos"]["video"]["objects"] == [3, 300]
    assert run["settings"]["tracker"]["long_term"]["num_prototypes"] == 64
    assert run["settings"]["tracker"]["antialias"] is True
    assert run["settings"]["tracker"]["use_long_term"] is True
    assert np.array_equal(read_ids(tmp_path / "out" / "Annotations" / "video" / "00000.png"), labels)
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match="holds results of an earlier video, which cannot be read again"):
        cutie_geo.segment(pictures(3), labels, output=tmp_path / "out", **options)
    assert contents(tmp_path / "out") == before
    assert cutie_geo.segment(pictures(2), labels, output=tmp_path / "out", overwrite=True, **options)["videos"]


def test_a_video_that_fails_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY_YAML)
    options: dict[str, Any] = {"model": str(tmp_path / "tiny.yaml"), **OPTIONS, "output": tmp_path / "out"}
    frames = [*pictures(2), np.zeros((5, 5, 3), np.uint8)]
    with pytest.raises(ValueError, match=r"frame 2: frame is \(H, W\) = \(5, 5\)"):
        cutie_geo.segment(frames, regions(), **options)
    assert len(contents(tmp_path / "out" / "Annotations")) == 2
    assert "error" in json.loads((tmp_path / "out" / "run.json").read_text())["videos"]["video"]


# ---------------------------------------------------------------------------------------------------------- prompts
class Boxed:
    """A prompter whose masks are the boxes, and squares around points."""

    def given(self, method: object, frame: Frame, with_depth: bool = False) -> tuple[GivenMask, None]:
        labels = np.zeros(frame.image.shape[-2:], np.int64)
        for i, prompt in (frame.prompts or {}).items():
            x, y = (round(value) for value in prompt.points[0][:2]) if prompt.points else (0, 0)
            x0, y0, x1, y1 = (x - 5, y - 5, x + 5, y + 5) if prompt.box is None else (round(v) for v in prompt.box)
            labels[y0:y1, x0:x1] = i
        return GivenMask(labels, tuple(frame.prompts or {})), None


def test_points_and_boxes_reach_the_one_prompter(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def loaded(*arguments: Any) -> tuple[Boxed, dict[str, str]]:
        asked.append(arguments)
        return Boxed(), {}

    monkeypatch.setattr(calls, "load_prompter", loaded)
    points, boxes = {1: [(20, 30)], 5: (70, 50)}, {2: np.array([40, 4, 60, 14])}
    result = next(cutie_geo.track(pictures(2), points=points, boxes=boxes, model=model, prompt_weights="none"))
    assert result.boxes == {1: (15, 25, 25, 35), 5: (65, 45, 75, 55), 2: (40, 4, 60, 14)}
    assert [(models[0] is model, *rest) for models, *rest in asked] == [(True, None, "none", None)]
    image = torch.rand(3, *SIZE)
    frames = [Frame("a", image, prompts={4: Prompt(box=(1.0, 2.0, 30.0, 40.0))}), Frame("b", image)]
    (_, labels), _ = cutie_geo.segment_video(cutie_geo.Tracker(model), frames)
    assert np.array_equal(labels[2:40, 1:30], np.full((38, 29), 4))
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("points", "boxes", "problem"),
    [
        ({1: [(5, 5, 2)]}, None, "points: object 1: got label 2"),
        ({1: [(5, 5, 0)]}, None, "got negative points only"),
        ({0: [(5, 5)]}, None, "got object '0'"),
        ({1: [("a", 5)]}, None, "points: object 1: got"),
        ({1: []}, None, "got no prompt"),
        (None, {1: (9, 9, 3, 3)}, "boxes: object 1: expected the upper left corner first"),
        (None, {1: (1, 2, 3)}, "boxes: object 1: expected x0,y0,x1,y1"),
    ],
)
def test_invalid_prompts_are_refused_before_anything_is_loaded(points: Any, boxes: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        cutie_geo.track(pictures(1), points=points, boxes=boxes)


# ------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"source": "absent.mp4"}, "absent.mp4: no such file or folder"),
        ({"source": "absent/*.jpg"}, "no such file or folder, and no match as a pattern"),
        ({"source": "ftp://host/a.mp4"}, "got ftp://, expected rtsp"),
        ({"source": ""}, "source: got an empty text"),
        ({"mask": ""}, "mask: got an empty text"),
        ({"source": -1}, "source: got -1, expected the number of a camera"),
        ({"source": None}, "source: got None"),
        ({"source": 3.5}, "source: got float"),
        ({"source": pictures(1)[0]}, r"source: got one frame, \(64, 96, 3\), expected several"),
        ({"source": torch.rand(3, 64, 96)}, r"source: got one frame, \(3, 64, 96\), expected several"),
        ({"mask": None}, "track: got no mask, points or boxes"),
        ({"mask": np.zeros((4, 4), np.uint8)}, "mask: the mask has no objects"),
        ({"mask": np.ones((4, 4), np.float32)}, r"mask: got \(4, 4\) of float32"),
        ({"mask": "absent.png"}, "absent.png: no such file or folder"),
        ({"color": "BGR"}, "color: got 'BGR'"),
        ({"mem_evry": 3}, "unknown mem_evry; known are mem_every"),
        ({"top_k": 0}, "top_k: got 0"),
        ({"drop_frames": True}, "drop_frames: expected a live source"),
    ],
)
def test_bad_input_is_one_line_at_the_call(arguments: dict[str, Any], problem: str, model: Any) -> None:
    given = {"source": pictures(2), "mask": regions(), "model": model} | arguments
    with pytest.raises(ValueError, match=problem) as error:
        cutie_geo.track(**given)
    assert "\n" not in str(error.value)


def test_a_mask_of_another_size_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match=r"mask: got \(H, W\) = \(4, 4\), expected the first frame's \(64, 96\)"):
        next(cutie_geo.track(pictures(2), mask=np.ones((4, 4), np.uint8), model=model))


def test_track_stops_when_it_is_closed(model: Any, tmp_path: Path) -> None:
    source = (image for image in pictures(50))
    results = cutie_geo.track(source, mask=regions(), model=model)
    next(results)
    results.close()
    assert next(source, None) is not None  # the rest was not read


def test_annotations_of_other_programs_are_masks_of_track(model: Any, tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "clip", 2)
    labels = regions((4,))
    write_labels(tmp_path / "masks" / "00000.png", labels)
    shape = coco_mask.encode(np.asfortranarray((labels == 4).astype(np.uint8)))
    annotation = {"id": 4, "image_id": 1, "category_id": 1, "iscrowd": 0, "track_id": 4}
    annotation |= {"segmentation": {"size": shape["size"], "counts": shape["counts"].decode()}}
    image = {"id": 1, "file_name": "00000.jpg", "height": SIZE[0], "width": SIZE[1]}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "cup"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a temporary folder that is left behind
        (first, _) = cutie_geo.track(frames, mask=tmp_path / "instances.json", model=model)
    assert first.ids == (4,)
    assert np.array_equal(first.labels, labels)


# ---------------------------------------------------------------------------------------------------- the namespace
def require_same_steps(segmenter: Method) -> None:
    """Compare the frames of OpenCV, of PIL and of torch."""
    maps = []
    for form, color in (
        (lambda image: torch.from_numpy(image).permute(2, 0, 1) / 255, "rgb"),
        (lambda image: image[..., ::-1], "bgr"),
        (Image.fromarray, "rgb"),
    ):
        segmenter.reset()
        first, second = (form(image) for image in pictures(2))
        segmenter.step(first, regions(), color=color)
        maps.append(segmenter.step(second, color=color))
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])


@pytest.mark.slow
def test_make_segmenter_gives_every_kind(model: Any) -> None:
    for arguments, name in [
        ({}, "Tracker"),
        ({"flip": True}, "Ensemble"),
        ({"scales": (1.0, 1.3)}, "Ensemble"),
    ]:
        segmenter = cutie_geo.make_segmenter(model, mem_every=2, **arguments)
        assert isinstance(segmenter, Method)
        assert type(segmenter).__name__ == name
        require_same_steps(segmenter)
    both = cutie_geo.make_segmenter([model, model], coefficients=(1.0, 2.0))
    assert isinstance(both, cutie_geo.ModelEnsemble)
    require_same_steps(both)
    with pytest.raises(ValueError, match="unknown top"):
        cutie_geo.make_segmenter(model, top=3)  # type: ignore[call-arg]


def test_the_namespace_is_what_users_need() -> None:
    public = [name for name in dir(cutie_geo) if not name.startswith("__")]
    assert public == cutie_geo.__all__
    assert cutie_geo.__version__
    assert (Path(cutie_geo.__file__).parent / "py.typed").is_file()


def test_every_public_name_has_an_example() -> None:
    """`test_architecture.py` runs them."""
    assert [name for name in cutie_geo.__all__ if ">>> " not in (getattr(cutie_geo, name).__doc__ or "")] == []


@pytest.mark.parametrize("name", ["Tracker", "Ensemble", "make_segmenter", "segment", "track"])
def test_options_have_names_and_types(name: str) -> None:
    function: Callable[..., Any] = getattr(cutie_geo, name)
    home = importlib.import_module(function.__module__)
    function = function.__init__ if inspect.isclass(function) else function  # type: ignore[misc]
    options = inspect.signature(function).parameters["options"]
    assert options.annotation == home.Unpack[home.TrackerOptions]


# ------------------------------------------------------------------------------------------------------- real clips
def lossless(path: Path, images: list[np.ndarray]) -> Path:
    """A video file of exactly these frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "bgr0"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["bundled", "davis"])
def test_the_pipelines_run_on_real_clips(clip: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The bundled model: segment, track and a loop of OpenCV's frames give the bytes of the command line."""
    if clip == "bundled":
        images = [read_image(path) for path in sorted(cutie_geo.example_frames().glob("*.jpg"))[:4]]
        mask = cutie_geo.example_masks() / "00000.png"
    else:
        root = request.getfixturevalue("test_data") / "data" / "davis2016-train-480p"
        with av.open(str(root / "videos" / "bear.mp4")) as container:
            decoded = container.decode(video=0)
            images = [next(decoded).to_ndarray(format="rgb24") for _ in range(3)]
        mask = tmp_path / "first.png"
        write_labels(mask, (np.asarray(Image.open(root / "Annotations" / "bear" / "00000.png")) > 0).astype(np.int32))
    video = lossless(tmp_path / "clip.mkv", images)
    words = ["--video", video, "--mask", mask, "--output", tmp_path / "cli", "--device", "cpu"]
    assert run_one("infer", list(map(str, words))) == 0
    expected = {path.stem: read_ids(path) for path in sorted((tmp_path / "cli").glob("Annotations/*/*.png"))}
    out, options = tmp_path / "out", {"device": "cpu"}
    run = cutie_geo.segment(str(video), mask=str(mask), output=str(out), overlay=True, **options)  # type: ignore[arg-type]
    assert run["videos"]["clip"]["frames"] == list(expected)
    assert contents(out / "Annotations") == contents(tmp_path / "cli" / "Annotations")
    assert (out / "overlays" / "clip.mp4").is_file()
    require_equal(cutie_geo.track(str(video), mask=str(mask), **options), expected)  # type: ignore[arg-type]
    require_equal(cutie_geo.track(bgr_frames(video), mask=mask, color="bgr", **options), expected)  # type: ignore[arg-type]
    segmenter = cutie_geo.make_segmenter(device="cpu")
    for index, image in enumerate(bgr_frames(video)):
        labels = segmenter.labels(segmenter.step(image, read_ids(mask) if index == 0 else None, color="bgr"))
        assert np.array_equal(labels.numpy(), expected[f"{index:05d}"])
