"""Exported graphs: the same numbers as the network, without torch, and clear errors."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy as copy_of
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from tiny import TINY_GEO_YAML, TINY_YAML

import cutie_geo
import cutie_geo.inference.tracker as torch_tracker
import cutie_geo.inference.windows as torch_windows
import cutie_geo.onnx.tracker as onnx_tracker
from cutie_geo.__main__ import main
from cutie_geo.data.masks import read_labels
from cutie_geo.export.onnx_folder import OnnxOptions
from cutie_geo.export.onnx_rewrites import cubic_matrix
from cutie_geo.model.network import CutieGeo
from cutie_geo.onnx import OnnxModel, OnnxTracker
from cutie_geo.onnx.folder import GRAPHS
from cutie_geo.onnx.frames import resize
from cutie_geo.onnx.prompts import sigmoid
from cutie_geo.onnx.windows import choose_windows, insides, mask_windows
from cutie_geo.ops import bilinear
from cutie_geo.regions import Window
from cutie_geo.runs.onnx_check import CheckFrame, clip_frames, compare, twin

SIZE = (60, 106)
"""That of `tiny_folder`."""
Export = Callable[[str, Callable[[], CutieGeo], OnnxOptions], Path]


@pytest.fixture(scope="session")
def tiny_sessions(tiny_folder: Path) -> OnnxModel:
    return OnnxModel(tiny_folder, threads=1)


@pytest.fixture
def tracker(tiny_sessions: OnnxModel) -> OnnxTracker:
    return OnnxTracker(tiny_sessions)


def frames_of(count: int, size: tuple[int, int] = SIZE) -> list[CheckFrame]:
    return list(clip_frames(size, count))


# -------------------------------------------------------------------------------------------------------- numbers
@pytest.mark.parametrize("options", [{}, {"mem_every": 1, "max_mem_frames": 3}, {"mem_every": 3, "stagger_updates": 2}])
def test_the_numbers_are_those_of_the_network(
    tiny_model: CutieGeo, tiny_sessions: OnnxModel, options: dict[str, int]
) -> None:
    reference = twin(tiny_model, tiny_sessions.description)
    reference.configure(**options)
    exported = OnnxTracker(tiny_sessions, **options)
    found = compare(reference, exported, iter(frames_of(20)))
    assert found.median < 1e-4
    assert found.equal > 0.99
    assert exported.object_ids == reference.object_ids == [2, 3, 1]


WINDOWS = [(0, 2, 1, 4), None, (1, 4, 0, 3)]
"""Windows of three objects on the grid of `SIZE`."""


def test_windows_give_the_numbers_of_the_network(
    tiny_model: CutieGeo, tiny_sessions: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # untrained masks cover the whole frame, so the windows are given here
    fixed = [None if sides is None else Window(*sides) for sides in WINDOWS]
    for module in (torch_tracker, onnx_tracker):
        monkeypatch.setattr(module, "choose_windows", lambda mask, coarse: fixed[: coarse.shape[-3]])
        monkeypatch.setattr(module, "mask_windows", lambda masks: fixed[::-1][: masks.shape[-3]])
    reference, exported = twin(tiny_model, tiny_sessions.description), OnnxTracker(tiny_sessions, full_frame_every=4)
    reference.configure(full_frame_every=4, mem_every=2)
    exported.mem_every = 2
    found = compare(reference, exported, iter(frames_of(12)))
    assert found.median < 1e-4
    assert found.equal > 0.99
    exported.reset()
    whole = compare(twin(tiny_model, tiny_sessions.description), exported, iter(frames_of(4)))
    assert whole.largest > 1e-4, "windows change the numbers"


@pytest.mark.parametrize("radius", [0.5, 3, 12, 90])
def test_windows_are_those_of_the_tracker(radius: float) -> None:
    y, x = np.mgrid[:192, :320].astype(np.float32)
    masks = np.stack([sigmoid(radius - np.hypot(y - cy, x - cx)) for cy, cx in ((20, 30), (100, 160), (191, 5))])
    masks[2] *= radius < 12  # absent
    coarse = masks[:, 8::16, 8::16].astype(np.float32)
    logits = torch.from_numpy(np.log(coarse.clip(1e-6, 1 - 1e-6) / (1 - coarse.clip(1e-6, 1 - 1e-6))))[None]
    tensor = torch.from_numpy(masks)[None]
    assert choose_windows(masks, coarse) == torch_windows.choose_windows(tensor, logits)
    assert mask_windows(masks) == torch_windows.mask_windows(tensor)
    window = Window(1, 3, 0, 4)
    assert insides([window, None], (3, 5)).sum(axis=(1, 2)).tolist() == [8, 15]


def test_a_wrong_export_would_be_seen(tiny_model: CutieGeo, tiny_sessions: OnnxModel) -> None:
    reference = twin(tiny_model, tiny_sessions.description)
    found = compare(reference, OnnxTracker(tiny_sessions, mem_every=2), iter(frames_of(12)))
    assert found.largest > 1e-3
    with pytest.raises(ValueError, match="check: probabilities differ by"):
        found.require_close("fp32")


@pytest.mark.parametrize("size", [(180, 320), (45, 80)])
def test_soft_masks_and_frames_of_another_size_give_the_same(
    tiny_model: CutieGeo, tiny_sessions: OnnxModel, size: tuple[int, int]
) -> None:
    reference, exported = twin(tiny_model, tiny_sessions.description), OnnxTracker(tiny_sessions)
    soft, apart = torch.rand(2, *size, generator=torch.Generator().manual_seed(0)) * 0.6, []
    for i, frame in enumerate(frames_of(8, size)):
        given = (soft, [5, 9]) if i == 0 else (None, None)
        probs = reference.step(frame.image, *given)
        found = exported.step(frame.image.numpy(), *(x.numpy() if isinstance(x, torch.Tensor) else x for x in given))
        assert found.shape == (3, *size)
        apart.append(np.abs(found - probs.numpy()).max())
        np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    assert np.median(apart) < 1e-4


def test_bytes_and_floats_are_the_same_image(tracker: OnnxTracker) -> None:
    image = (frames_of(4)[0].image.permute(1, 2, 0) * 255).round().byte().numpy()
    floats = image.transpose(2, 0, 1).astype(np.float64) / 255
    np.testing.assert_allclose(tracker.encode(image).image, tracker.encode(floats).image, atol=1e-6)


@pytest.mark.parametrize("target", [(60, 106), (100, 90), (33, 500), (180, 320)])
@pytest.mark.parametrize("antialias", [False, True])
def test_resizing_is_that_of_torch(target: tuple[int, int], antialias: bool) -> None:
    x = torch.rand(2, 180, 320)
    np.testing.assert_allclose(
        resize(x.numpy(), target, antialias), bilinear(x[None], target, antialias)[0].numpy(), atol=5e-5
    )


@pytest.mark.parametrize(("length", "target"), [(32, 28), (7, 56), (20, 20)])
def test_cubic_resizing_as_products_is_that_of_torch(length: int, target: int) -> None:
    x = torch.rand(1, 2, length, length + 3)
    expected = torch.nn.functional.interpolate(x, size=(target, target + 5), mode="bicubic", align_corners=False)
    rows, columns = cubic_matrix(length, target, -0.75), cubic_matrix(length + 3, target + 5, -0.75)
    np.testing.assert_allclose(rows @ x[0].numpy() @ columns.T, expected[0].numpy(), atol=1e-4)


def test_a_saved_state_goes_on_with_the_same_numbers(tiny_sessions: OnnxModel) -> None:
    frames, first = frames_of(9), OnnxTracker(tiny_sessions, mem_every=2)
    for frame in frames[:6]:
        for i in frame.removed:
            first.remove([i])
        first.step(frame.image.numpy(), None if frame.mask is None else frame.mask.numpy())
    state = first.state_dict()
    after = [first.step(frame.image.numpy()) for frame in frames[6:]]
    second = OnnxTracker(tiny_sessions)
    second.load_state_dict(state)
    assert second.mem_every == 2
    for frame, expected in zip(frames[6:], after):
        np.testing.assert_array_equal(second.step(frame.image.numpy()), expected)
    with pytest.raises(ValueError, match="tracker state: damaged or of another export"):
        second.load_state_dict({**state, "objects": [8]})
    with pytest.raises(ValueError, match="tracker state: damaged"):
        second.load_state_dict({**state, "last_mask": np.zeros((1, 2, 2))})


def test_objects_come_and_go(tracker: OnnxTracker) -> None:
    frame = frames_of(4)[0]
    image, mask = frame.image.numpy(), frame.mask.numpy()  # type: ignore[union-attr]
    assert tracker.step(image).shape == (1, *SIZE)  # nothing is tracked yet
    probs = tracker.step(image, mask)
    assert set(np.unique(tracker.labels(probs))) == {0, 1, 2}
    tracker.remove([1])
    assert set(np.unique(tracker.labels(probs))) == {0, 1, 2}, "the array was returned with both"
    assert tracker.step(image).shape == (2, *SIZE)
    assert tracker.memory_report()["working"] > 0
    tracker.remove([2])
    assert tracker.step(image).shape == (1, *SIZE)
    assert tracker.memory_report() == {"working": 0, "long_term": 0, "sensory": 0, "features": 0}
    with pytest.raises(ValueError, match=r"remove: got ids \[7\], expected some of \[\]"):
        tracker.remove([7])
    tracker.reset()
    assert tracker.frame_size is None


# ---------------------------------------------------------------------------------------------------- independence
def test_torch_is_never_imported(tiny_folder: Path) -> None:
    program = (
        "import sys, numpy as np\n"
        "from cutie_geo.onnx import OnnxTracker\n"
        "tracker = OnnxTracker(sys.argv[1], threads=1)\n"
        "image = np.zeros((60, 106, 3), np.uint8)\n"
        "mask = np.eye(60, 106, dtype=np.uint8)\n"
        "tracker.step(image, mask)\n"
        "print(tracker.labels(tracker.step(image)).shape)\n"
        "own = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(*sorted(name for name in own if not name.startswith(('_', 'sitecustomize'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tiny_folder)], capture_output=True, text=True, check=True)
    shape, modules = done.stdout.splitlines()
    assert shape == "(60, 106)"
    assert {"numpy", "onnxruntime", "cutie_geo"} <= set(modules.split())
    assert not {"torch", "torchvision", "cv2", "PIL", "scipy", "onnx", "timm"} & set(modules.split())


@pytest.mark.slow
def test_loading_takes_little_time(bundled_folder: Path) -> None:
    program = (
        "import sys, time\nbegin = time.process_time()\nfrom cutie_geo.onnx import OnnxTracker\n"
        "OnnxTracker(sys.argv[1], threads=1)\nprint(time.process_time() - begin)\n"
    )
    command = [sys.executable, "-c", program, str(bundled_folder)]
    taken = [float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(2)]
    assert min(taken) < 1.5


# ---------------------------------------------------------------------------------------------------------- errors
@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def changed(folder: Path, **values: object) -> Path:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "model.json").unlink(), "model.json: missing; expected a folder written by cutie-geo export"),
        (lambda d: (d / "model.json").write_text("{"), "model.json: not readable"),
        (lambda d: (d / "model.json").write_text("[]"), "model.json: not a description of exported graphs"),
        (lambda d: changed(d, opset=99), "model.json: opset: got 99, expected 20; export the model again"),
        (lambda d: changed(d, version=1), "model.json: version: got 1, expected 2; export the model again"),
        (lambda d: changed(d, memory={}), "model.json: damaged"),
        (lambda d: changed(d, graphs={}), "model.json: graphs: missing encode, read, decode, combine, embed, memorise"),
        (lambda d: (d / "read.onnx").unlink(), "read.onnx: No such file or directory; expected the graph"),
        (lambda d: (d / "encode.onnx").write_bytes(b"no"), "encode.onnx: the digest is not that of model.json; got"),
    ],
)
def test_a_damaged_folder_is_named(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copy)
    with pytest.raises(ValueError, match=re.escape(message)):
        OnnxTracker(copy)


def test_a_graph_that_onnxruntime_refuses_is_named(copy: Path) -> None:
    import hashlib

    (copy / "encode.onnx").write_bytes(b"no")
    graphs = json.loads((copy / "model.json").read_text())["graphs"]
    graphs["encode"]["sha256"] = hashlib.sha256(b"no").hexdigest()
    with pytest.raises(ValueError, match=f"encode.onnx: onnxruntime {onnxruntime.__version__} cannot load it"):
        OnnxTracker(changed(copy, graphs=graphs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"providers": ("abacus",)}, "providers: got abacus, expected some of .*cpu"),
        ({"threads": 0}, "threads: got 0, expected 1 or more"),
        ({"mem_every": 0}, "mem_every: got 0, expected 1 or more"),
        ({"max_mem_frames": 6}, "max_mem_frames: got 6, expected at most the exported 5; .*--max-mem-frames"),
    ],
)
def test_wrong_options_are_refused(tiny_folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OnnxTracker(tiny_folder, **options)  # type: ignore[arg-type]


IMAGE = np.zeros((3, *SIZE), np.float32)
MASK = np.eye(*SIZE, dtype=np.int64)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (np.zeros((3, 90, 106), np.float32), None, r"image: got \(H, W\) = \(90, 106\), expected .*--size 60x70"),
        (np.zeros((3, 30, 60), np.float32), None, r"expected \(60, 106\), or that aspect ratio"),
        (np.zeros((60, 106), np.uint8), None, r"image: got \(60, 106\) of uint8, expected uint8 \(H, W, 3\)"),
        (np.full((3, *SIZE), np.nan), None, "image: got values from nan"),
        (IMAGE * 0 + 200, None, "image: got values from 200 to 200, expected 0 to 1"),
        (IMAGE, MASK[:50], r"mask: got size \(50, 106\), expected the image's \(60, 106\)"),
        (IMAGE, MASK * 0.5, "label map: got .* float64, expected .* integers"),
        (IMAGE, np.arange(60 * 106).reshape(SIZE) % 6, "mask: got 5 objects in all, expected at most 4, the capacity"),
        (IMAGE, -MASK, "object id: got -1"),
    ],
)
def test_wrong_input_is_refused_and_changes_nothing(
    tracker: OnnxTracker, image: np.ndarray, mask: np.ndarray | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tracker.step(image, mask)
    assert (tracker.frame, tracker.object_ids, tracker.frame_size) == (-1, [], None)
    tracker.step(IMAGE, MASK)
    with pytest.raises(ValueError, match="the size changed within a video"):
        tracker.step(np.zeros((3, 120, 212), np.float32))
    with pytest.raises(ValueError, match=r"permanent: memory holds 1 permanent frames .*--permanent-frames"):
        tracker.step(IMAGE, permanent=True)
    with pytest.raises(ValueError, match="objects: got ids without a mask"):
        tracker.step(IMAGE, objects=[3])
    with pytest.raises(ValueError, match="labels: got 3 channels"):
        tracker.labels(np.zeros((3, *SIZE), np.float32))
    assert tracker.step(IMAGE).shape == (2, *SIZE)


def test_an_object_of_the_last_frame_has_no_memory(tracker: OnnxTracker) -> None:
    tracker.step(IMAGE, MASK, last=True)
    with pytest.raises(ValueError, match=r"objects \[1\] were added with last=True"):
        tracker.step(IMAGE)


# -------------------------------------------------------------------------------------------------- command line
def test_infer_takes_a_folder_of_graphs(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    video, output = tmp_path / "clip", tmp_path / "out"
    video.mkdir()
    for path in sorted(cutie_geo.example_frames().glob("*.jpg"))[:4]:
        shutil.copy(path, video)
    command = ["infer", "--model", str(tiny_folder), "--video", str(video), "--output", str(output), "--mask"]
    command.append(str(cutie_geo.example_masks() / "00000.png"))
    assert main(command) == 0
    assert len(list(output.rglob("0000?.png"))) == 4
    report = json.loads((output / "run.json").read_text())
    assert report["settings"]["provider"] == "cpu"
    assert report["settings"]["precision"] == "float32"
    assert report["settings"]["tracker"]["use_long_term"] is False
    assert "exported graphs have no long-term memory" in caplog.text
    assert main([*command, "--top-k", "7", "--overwrite"]) == 2
    assert "top_k: got 7, expected the exported 28" in capsys.readouterr().err
    assert main([*command, "--weights", "none", "--overwrite"]) == 2
    assert "which has its own weights" in capsys.readouterr().err
    assert main([*command, "--flip", "--overwrite"]) == 2
    assert "exported graphs have one view" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "big"], "--size: got 'big', expected HEIGHTxWIDTH"),
        (["--size", "64x64", "--max-mem-frames", "0"], "--max-mem-frames: got 0, expected 1 or more"),
        (["--size", "64x64", "--check-frames", "2"], "--check-frames: got 2, expected at least 4"),
        (["--size", "64x64", "--model", "nothing"], "nothing"),
    ],
)
def test_wrong_export_options_are_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "onnx", "--output", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bench_compares_graphs_with_their_network(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, report = tmp_path / "tiny.yaml", tmp_path / "bench.json"
    model.write_text(TINY_YAML)
    command = ["bench", "--onnx", str(tiny_folder), "--model", str(model), "--objects", "2", "--frames", "2"]
    assert main([*command, "--json", str(report)]) == 0
    (row,) = json.loads(report.read_text())["rows"]
    assert row["ratio"] == pytest.approx(row["network_seconds"] / row["graphs_seconds"])
    assert (row["objects"], row["frames"], row["size"], row["precision"]) == (2, 2, list(SIZE), "fp32")
    shown = capsys.readouterr().out
    assert f"onnxruntime: {onnxruntime.__version__}" in shown
    assert "60x106" in shown
    assert main([*command, "--frames", "1"]) == 2
    assert "--frames: got 1, expected at least 2" in capsys.readouterr().err
    assert main(["bench", "--onnx", str(tiny_folder), "--model", str(model), "--objects", "9"]) == 2
    assert "--objects: got 9, expected 1 to 4" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_exports_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output = tmp_path / "tiny.yaml", tmp_path / "graphs"
    model.write_text(TINY_GEO_YAML)
    command = ["export", "onnx", "--model", str(model), "--weights", "none", "--size", "64x96", "--output", str(output)]
    assert main([*command, "--check", "--check-frames", "4", "--top-k", "7", "--permanent-frames", "2"]) == 0
    shown = capsys.readouterr().out
    assert "check: 4 frames, objects added and removed; probabilities differ by at most" in shown
    assert {path.name for path in output.iterdir()} == {"model.json", *(f"{name}.onnx" for name in GRAPHS)}
    about = OnnxModel(output).description
    assert (about.top_k, about.capacity, about.permanent_frames) == (7, 6 * 24, 2)
    tracker = OnnxTracker(output)
    image, mask = np.zeros((3, 64, 96), np.float32), np.eye(64, 96, dtype=np.int64)
    for permanent in (True, False, True, False):
        tracker.step(image, None if tracker.object_ids else mask, permanent=permanent)
    assert tracker.banks[0].permanent == 2


# ------------------------------------------------------------------------------------------------- trained models
def davis_frames(root: Path, count: int) -> Iterator[CheckFrame]:
    """A clip of DAVIS with a square as second object, which joins later."""
    video = next(
        path for path in sorted((root / "JPEGImages" / "480p").iterdir()) if len(list(path.iterdir())) >= count
    )
    for i, path in zip(range(count), sorted(video.iterdir())):
        image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255
        labels = torch.from_numpy(
            read_labels(root / "Annotations" / "480p" / video.name / f"{path.stem}.png").labels
        ).long()
        mask = (labels > 0).long() if i in (0, 40) else None
        if i == 10:
            mask = torch.zeros_like(labels)
            mask[20:80, 30:90] = 2
        yield CheckFrame(image, mask, [1] if i == 30 else [])


@pytest.mark.slow
def test_the_bundled_model_is_the_same_on_the_bundled_clip(bundled: CutieGeo, bundled_folder: Path) -> None:
    exported = OnnxTracker(bundled_folder, threads=1)
    assert exported.full_frame_every > 1, "the bundled model decodes in windows"
    found = compare(cutie_geo.Tracker(bundled, min_internal_size=-1), exported, clip_frames((180, 320), 48))
    assert found.frames == 48
    assert found.largest < 1e-3
    assert found.equal >= 0.999


@pytest.mark.slow
def test_the_bundled_model_is_the_same_on_a_clip_of_davis(
    bundled: CutieGeo, bundled_folder: Path, test_data: Path
) -> None:
    exported = OnnxTracker(bundled_folder, threads=1)
    root = test_data / "data" / "davis2016-train-270p"
    found = compare(twin(bundled, exported.about), exported, davis_frames(root, 60))
    assert found.frames == 60
    assert found.largest < 1e-3
    assert found.equal >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["small"], indirect=True, scope="session")
def test_cutie_is_the_same(exports: Export, parity_model: CutieGeo) -> None:
    folder = exports("cutie-small", lambda: parity_model, OnnxOptions((90, 160)))
    exported = OnnxTracker(folder, threads=1)
    found = compare(twin(parity_model, exported.about), exported, clip_frames((90, 160), 48))
    assert found.largest < 1e-3
    assert found.equal >= 0.999


@pytest.mark.slow
def test_half_precision_halves_the_files(exports: Export, tiny_model: CutieGeo, tiny_folder: Path) -> None:
    def halved() -> CutieGeo:
        model = copy_of(tiny_model)
        model.precision = torch.float16
        return model

    half = exports("half", halved, OnnxOptions(SIZE))
    size = [sum(path.stat().st_size for path in folder.glob("*.onnx")) for folder in (half, tiny_folder)]
    assert size[0] < 0.6 * size[1]
    exported = OnnxTracker(half, threads=1)
    assert exported.about.precision == "fp16"
    found = compare(twin(tiny_model, exported.about), exported, iter(frames_of(6)))
    assert 1e-6 < found.mean < 0.01
