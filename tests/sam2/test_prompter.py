"""What users point at becomes a mask, as SAM 2's own package makes it."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sam2.sam2_image_predictor import SAM2ImagePredictor
from tiny import tiny_config
from toy_videos import contents, look, read_ids, summary

from cutie_geo.__main__ import run_one
from cutie_geo.config import ModelConfig, build
from cutie_geo.data.overlay import POSITIVE
from cutie_geo.inference.ensemble import Ensemble, View
from cutie_geo.inference.segment import segment_frames
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.sam2.networks import Sam2Model, load_sam2
from cutie_geo.sam2.prompt_decoder import PromptHead
from cutie_geo.sam2.prompter import Prompter, Sam2FramePrompter, shared_prompts
from cutie_geo.sam2.tracker import Sam2Tracker
from cutie_geo.structures import Frame, GivenMask, Prompt

SIDE = 256
"""Of the square that the small SAM 2 here sees."""
SMALL = (
    f"model.image_size={SIDE}",
    "model.memory_attention.layer.self_attention.feat_sizes=[16,16]",
    "model.memory_attention.layer.cross_attention.feat_sizes=[16,16]",
)
PROMPTS = {
    "a point": Prompt(((90.0, 120.0, 1),)),
    "points": Prompt(((90.0, 120.0, 1), (20.0, 200.0, 0))),
    "a box": Prompt((), (30.0, 40.0, 200.0, 180.0)),
    "a box and points": Prompt(((90.0, 120.0, 1), (20.0, 200.0, 0)), (30.0, 40.0, 200.0, 180.0)),
}
Said = pytest.CaptureFixture[str]


def sam2() -> Sam2Model:
    """SAM 2.1 tiny with random weights, the same ones every time, of which masks are neither empty nor full."""
    model = load_sam2("sam2.1-hiera-tiny", "none", "cpu", "fp32", SMALL)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in model.network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.02)
    return model


@pytest.fixture(scope="module")
def geo() -> CutieGeo:
    """A network whose frozen trunk is the trunk of `sam2()`."""
    encoder = {"vision": "hiera-tiny", "geometry": "none", "channels": [48, 32, 24]}
    config = build(ModelConfig, {**_plain(tiny_config()), "encoder": encoder})
    model = CutieGeo(config).eval()
    wanted = model.encoder.vision.state_dict()  # type: ignore[union-attr]
    given = sam2().network.image_encoder.state_dict()
    model.encoder.vision.load_state_dict({name: given[name] for name in wanted})  # type: ignore[union-attr]
    return model


def _plain(config: ModelConfig) -> dict:
    return {name: getattr(config, name) for name in ("key_dim", "value_dim", "num_queries", "num_heads", "num_blocks",
                                                     "feedforward_dim", "decoder_dim")}  # fmt: skip


def picture(size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    coarse = np.random.default_rng(3).integers(0, 256, (8, 8, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def frame(prompts: dict[int, Prompt], size: tuple[int, int] = (SIDE, SIDE)) -> Frame:
    image = torch.from_numpy(picture(size).copy()).permute(2, 0, 1) / 255
    return Frame("0", image, size, prompts=prompts)


def official(image: np.ndarray, prompt: Prompt) -> np.ndarray:
    """The logits of the package's image predictor, of the mask that it thinks best."""
    predictor = SAM2ImagePredictor(sam2().network)
    predictor._bb_feat_sizes = [(SIDE // stride, SIDE // stride) for stride in (4, 8, 16)]
    predictor.set_image(image)
    masks, quality, _ = predictor.predict(
        np.array([point[:2] for point in prompt.points]) if prompt.points else None,
        np.array([point[2] for point in prompt.points]) if prompt.points else None,
        np.array(prompt.box) if prompt.box else None,
        multimask_output=len(prompt.points) == 1 and prompt.box is None,
        return_logits=True,
    )
    return masks[quality.argmax()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:FutureWarning")  # in the package's transforms
@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("shared", [True, False])
def test_masks_are_those_of_the_package_s_image_predictor(
    geo: CutieGeo, kind: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through its own trunk, and through that of a network which has the same weights."""
    prompter, seen = Prompter(PromptHead(sam2(), own_trunk=not shared)), []
    restored = Prompter._restored
    monkeypatch.setattr(Prompter, "_restored", staticmethod(lambda *args: seen.append(restored(*args)) or seen[-1]))
    wanted = official(picture(), PROMPTS[kind])
    prompter.given(Tracker(geo), frame({1: PROMPTS[kind]}))
    assert 0.01 < (wanted > 0).mean() < 0.99
    assert np.abs(seen[0].numpy() - wanted).max() < 1e-5 * max(1, np.abs(wanted).max())


@pytest.mark.slow
def test_a_shared_trunk_runs_once_for_both(geo: CutieGeo) -> None:
    calls: list[int] = []
    handle = geo.encoder.vision.trunk.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    shown = [frame({3: PROMPTS["a box"]}), frame({})._replace(name="1", prompts=None)]
    results = list(segment_frames(Tracker(geo), shown, prompter=Prompter(PromptHead(sam2(), own_trunk=False))))
    handle.remove()
    assert len(calls) == 2  # of two frames
    assert [result.ids for result in results] == [(3,), (3,)]
    assert (results[0].labels == 3).any()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(200, 330), (97, 150)])
def test_prompts_follow_the_frame_into_its_grid(geo: CutieGeo, size: tuple[int, int]) -> None:
    """A frame with a border of padding, twice as large a file: the prompt means the same pixels."""
    prompter = Prompter(PromptHead(sam2(), own_trunk=False))
    prompt = Prompt(((60.0, 50.0, 1), (10.0, 20.0, 0)))
    doubled = Prompt(((120.0, 100.0, 1), (20.0, 40.0, 0)))
    shown = frame({1: prompt}, size)
    mask, _ = prompter.given(Tracker(geo), shown)
    larger = shown._replace(size=(2 * size[0], 2 * size[1]), prompts={1: doubled})
    same, _ = prompter.given(Tracker(geo), larger)
    assert mask.labels.shape == same.labels.shape == size
    assert np.array_equal(mask.labels, same.labels)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [(), ("cpu", "cpu")])
@pytest.mark.parametrize("scales", [(1.0, 1.5), (1.0,)])
def test_an_ensemble_shares_the_trunk_of_its_first_view(
    geo: CutieGeo, devices: tuple[str, ...], scales: tuple[float, ...]
) -> None:
    """Whichever view goes through the trunk first: of two shares the larger views' is the first."""
    prompter, shown = Prompter(PromptHead(sam2(), own_trunk=False)), frame({1: PROMPTS["a box"]})
    alone, _ = prompter.given(Tracker(geo), shown)
    together, features = prompter.given(Ensemble(geo, scales, flip=True, devices=devices, workers=1), shown)
    assert len(features) == 2 * len(scales)
    assert np.mean(alone.labels == together.labels) > 0.999


@pytest.mark.slow
def test_prompts_are_given_to_a_view_that_is_no_mirror(geo: CutieGeo) -> None:
    prompter, shown = Prompter(PromptHead(sam2(), own_trunk=False)), frame({1: PROMPTS["a box"]})
    alone, _ = prompter.given(Tracker(geo), shown)
    together, _ = prompter.given(Ensemble(geo, views=[View(flip=True), View()]), shown)
    assert np.mean(alone.labels == together.labels) > 0.999
    with pytest.raises(ValueError, match="all views are flipped"):
        prompter.given(Ensemble(geo, views=[View(flip=True)]), shown)


@pytest.mark.slow
def test_a_compiled_trunk_is_shared_too(geo: CutieGeo) -> None:
    """Compiled before or after the first prompt: compiled code knows no hooks but those of its making."""
    wanted, _ = Prompter(PromptHead(sam2(), own_trunk=False)).given(Tracker(geo), frame({1: PROMPTS["a box"]}))
    model = copy.deepcopy(geo)
    model.encoder.vision.compile(backend="eager")  # type: ignore[union-attr]
    for tracker in (Tracker(model), Tracker(model)):
        prompter = Prompter(PromptHead(sam2(), own_trunk=False))
        found, _ = prompter.given(tracker, frame({1: PROMPTS["a box"]}))
        assert np.array_equal(found.labels, wanted.labels)
        tracker.encode(frame({}).image)


@pytest.mark.slow
def test_masks_lie_over_prompts_and_prompts_share_the_rest(geo: CutieGeo) -> None:
    prompter = Prompter(PromptHead(sam2(), own_trunk=True))
    prompts = {1: PROMPTS["a box"], 2: PROMPTS["points"]}
    alone = [prompter.given(Tracker(geo), frame({i: prompt}))[0].labels == i for i, prompt in prompts.items()]
    corner = np.zeros((SIDE, SIDE), np.int64)
    corner[:150, :150] = 9
    shown = frame(prompts)._replace(given=GivenMask(corner, (9,)))
    mask, _ = prompter.given(Tracker(geo), shown)
    assert mask.ids == (9, 1, 2)
    assert np.array_equal(mask.labels == 9, corner == 9)
    assert np.array_equal((mask.labels == 1) | (mask.labels == 2), (alone[0] | alone[1]) & (corner == 0))
    with pytest.raises(ValueError, match=r"objects \[9\] have both a mask and a prompt"):
        prompter.given(Tracker(geo), shown._replace(prompts={9: PROMPTS["a box"]}))


@pytest.mark.slow
def test_what_a_head_is_made_of_stays_whole() -> None:
    model, image = sam2(), torch.from_numpy(picture().copy()).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        before = model.encode(image)[0].backbone["backbone_fpn"]
        head = PromptHead(model, own_trunk=True)
        Prompter(head).given(Sam2Tracker(model), frame({1: PROMPTS["a point"]}))
        after = model.encode(image)[0].backbone["backbone_fpn"]
    assert all(torch.equal(x, y) for x, y in zip(before, after))
    first = next(iter(model.network.image_encoder.trunk.parameters()))  # type: ignore[union-attr]
    assert next(iter(head.trunk.parameters())) is first, "no second copy of the weights"  # type: ignore[union-attr]


def test_a_trunk_is_shared_only_where_it_is_that_of_a_sam2(geo: CutieGeo) -> None:
    assert shared_prompts(geo) == "sam2.1-hiera-tiny"
    assert shared_prompts(CutieGeo(tiny_config())) is None


def test_frames_with_prompts_want_a_prompter(geo: CutieGeo) -> None:
    with pytest.raises(ValueError, match="frame 0: got prompts, expected a prompter"):
        list(segment_frames(Tracker(geo), [frame({1: PROMPTS["a box"]})]))


# ---------------------------------------------------------------------------------------------------------- programs
@pytest.fixture
def small_sam2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real programs with the small SAM 2 instead of the large one's random weights."""
    monkeypatch.setattr("cutie_geo.runs.prompts.load_sam2", lambda *args: sam2())


def written(folder: Path) -> Path:
    (folder / "bear").mkdir(parents=True, exist_ok=True)
    for t in range(3):
        Image.fromarray(np.roll(picture((96, 128)), 2 * t, axis=1)).save(folder / "bear" / f"{t:05d}.jpg")
    return folder / "bear"


def infer(folder: Path, *argv: object) -> int:
    words = ["--video", written(folder), "--output", folder / "out", "--precision", "fp32", "--size", 96,
             "--cpu-threads", 1, "--prompt-weights", "none", *argv]  # fmt: skip
    return run_one("infer", [str(word) for word in words])


@pytest.mark.slow
@pytest.mark.usefixtures("small_sam2")
def test_infer_takes_points_and_boxes_and_says_so(tmp_path: Path, capsys: Said) -> None:
    where = ("--object", 5, "--box", "10,10,90,80", "--frame", "00001", "--object", 6, "--point", "60,40")
    assert infer(tmp_path, *where) == 0
    told = summary(tmp_path / "out")
    assert told["videos"]["bear"]["objects"] == [5, 6]
    assert told["settings"]["prompts"] == {"model": "sam2.1-hiera-tiny", "weights": "none", "shares_trunk": False}
    assert set(np.unique(read_ids(tmp_path / "out" / "Annotations" / "bear" / "00000.png"))) <= {0, 5}
    before = contents(tmp_path / "out")
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"00000": {"5": {"box": [10, 10, 90, 80]}}, "00001": {"6": {"points": [[60, 40]]}}}))
    capsys.readouterr()
    assert infer(tmp_path, "--prompts", file) == 2  # the same prompts, but for the first frame's name
    assert "bear was made with other prompts" in capsys.readouterr().err
    assert infer(tmp_path, "--prompts", file, "--overwrite") == 0
    assert contents(tmp_path / "out" / "Annotations" / "bear") == {
        Path(k).name: v for k, v in before.items() if k.startswith("Annotations")
    }


@pytest.mark.slow
def test_points_at_a_sam2_are_for_that_sam2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other is loaded, and the one that has made the masks segments: its objects are there on the last frame."""
    monkeypatch.setattr("cutie_geo.runs.infer.load_any", lambda *args: sam2())
    monkeypatch.setattr("cutie_geo.runs.prompts.load_sam2", lambda *args: pytest.fail("another one is loaded"))
    where = ("--object", 5, "--box", "10,10,90,80", "--frame", "00001", "--object", 6, "--point", "60,40")
    words = ["--video", written(tmp_path), "--output", tmp_path / "out", "--precision", "fp32", "--cpu-threads", 1]
    words += ["--model", "sam2.1-hiera-tiny", "--weights", "none", *where]
    assert run_one("infer", [str(word) for word in words]) == 0
    told = summary(tmp_path / "out")
    assert told["settings"]["prompts"] == {"model": "sam2.1-hiera-tiny", "weights": "none", "shares_trunk": False}
    assert told["videos"]["bear"]["objects"] == [5, 6]
    assert set(np.unique(read_ids(tmp_path / "out" / "Annotations" / "bear" / "00000.png"))) == {0, 5}


@pytest.mark.slow
@pytest.mark.usefixtures("small_sam2")
def test_prompt_writes_the_masks_that_infer_would_use(tmp_path: Path, capsys: Said) -> None:
    video = written(tmp_path)
    where = ["--object", "5", "--box", "10,10,90,80", "--frame", "00001", "--object", "6", "--point", "60,40"]
    words = ["--video", video, *where, "--prompt-weights", "none", "--output", tmp_path / "masks", "--size", 96]
    assert run_one("prompt", [str(word) for word in words]) == 0
    assert "object 5:" in capsys.readouterr().out
    assert sorted(contents(tmp_path / "masks")) == ["00000.png", "00001.png"]
    assert sorted(path.name for path in (tmp_path / "masks" / "pictures").iterdir()) == ["00000.jpg", "00001.jpg"]
    picture = np.asarray(Image.open(tmp_path / "masks" / "pictures" / "00001.jpg")).astype(int)
    assert (abs(picture[38:43, 58:63] - POSITIVE) < 60).all(), "the point shows"
    assert infer(tmp_path, *where) == 0
    first = read_ids(tmp_path / "masks" / "00000.png")
    assert set(np.unique(first)) == {0, 5}
    assert np.array_equal(first, read_ids(tmp_path / "out" / "Annotations" / "bear" / "00000.png"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [("--model", "cutie-geo-tiny"), ("--model", "sam2.1-hiera-tiny", "--weights", "none")]
)
def test_prompt_looks_at_frames_of_the_size_that_infer_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: tuple[str, ...]
) -> None:
    """The model's own size; of a SAM 2, the file's."""
    for module in ("runs.prompts", "sam2.networks"):
        monkeypatch.setattr(f"cutie_geo.{module}.load_sam2", lambda *args: sam2())
    seen, given = [], Prompter.given
    monkeypatch.setattr(Prompter, "given", lambda *args: seen.append(tuple(args[2].image.shape[1:])) or given(*args))
    (tmp_path / "bear").mkdir()
    Image.fromarray(picture((560, 700))).save(tmp_path / "bear" / "0.jpg")
    words = ["--video", str(tmp_path / "bear"), "--box", "60,60,600,500", "--prompt-weights", "none", *model]
    for command in ("prompt", "infer"):
        assert run_one(command, [*words, "--precision", "fp32", "--output", str(tmp_path / command)]) == 0
    assert seen == 2 * [(560, 700) if "none" in model else (288, 360)]


@pytest.mark.slow
@pytest.mark.usefixtures("small_sam2")
def test_a_large_id_makes_all_files_of_one_kind(tmp_path: Path, capsys: Said) -> None:
    where = ("--object", "5", "--box", "10,10,90,80", "--frame", "00001", "--object", "300", "--point", "60,40")
    assert infer(tmp_path, *where) == 0
    words = ["--video", str(written(tmp_path)), "--output", str(tmp_path / "masks"), "--prompt-weights", "none"]
    capsys.readouterr()
    assert run_one("prompt", [*words, "--size", "96", *where]) == 0
    assert capsys.readouterr().out.endswith(" --long-ids\n")
    for folder, count in (("out/Annotations/bear", 3), ("masks", 2)):
        assert [look(path).mode for path in (tmp_path / folder).glob("*.png")] == ["RGB"] * count


def test_prompt_writes_no_masks_among_the_frames(tmp_path: Path, capsys: Said) -> None:
    video = str(written(tmp_path))
    assert run_one("prompt", ["--video", video, "--point", "3,3", "--output", video]) == 2
    assert "--output: results would be inside the input" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--point", "500,3"), "object 1 on frame 00000: got (500, 3), expected it within 128x96"),
        (("--frame", "00007", "--point", "3,3"), "prompts: no frame 00007"),
        (("--object", 2, "--point", "3,3", "--object", 2, "--point", "4,4"), "--object: got 2 twice"),
        (("--point", "3,3", "--prompts", "x.json"), "--prompts and --point, --box: expected one or the other"),
        (("--prompts", "nowhere.json"), "nowhere.json: cannot be read as prompts"),
        (("--point", "3"), "--point 3: expected x,y"),
        (("--prompt-model", "sam2.1-hiera-tiny"), "expected prompts with them"),
    ],
)
@pytest.mark.usefixtures("small_sam2")
def test_prompts_that_cannot_be_are_refused(tmp_path: Path, capsys: Said, argv: tuple[object, ...], words: str) -> None:
    assert infer(tmp_path, *argv) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:FutureWarning")  # in the package's transforms
def test_a_frame_s_prompts_correct_a_mask_as_the_package_does() -> None:
    """Without a mask so far, and with one."""
    model, image = sam2(), picture()
    prompter = Sam2FramePrompter(PromptHead(model, own_trunk=True))
    encoded = prompter.encode(torch.from_numpy(image.copy()).permute(2, 0, 1) / 255)
    prompt = PROMPTS["points"]
    first = prompter.predict(encoded, prompt)
    assert 0 <= first.quality <= 1 and first.logits.shape == (SIDE, SIDE)
    assert np.abs(first.logits.numpy() - official(image, prompt)).max() < 1e-2
    predictor = SAM2ImagePredictor(model.network)
    predictor._bb_feat_sizes = [(SIDE // stride, SIDE // stride) for stride in (4, 8, 16)]
    predictor.set_image(image)
    small = torch.nn.functional.interpolate(first.logits[None, None], (SIDE // 4, SIDE // 4), mode="area")[0].numpy()
    wanted, _, _ = predictor.predict(
        np.array([point[:2] for point in prompt.points]),
        np.array([point[2] for point in prompt.points]),
        mask_input=small,
        multimask_output=False,
        return_logits=True,
    )
    second = prompter.predict(encoded, prompt, first.logits)
    assert np.abs(second.logits.numpy() - wanted[0]).max() < 1e-2
    assert np.abs((second.logits - first.logits).numpy()).max() > 0.1
    assert not torch.equal(prompter.predict(encoded, prompt, (first.logits > 0).float()).logits, second.logits)
