"""A model's own prompt head makes masks of clicks and boxes, on single frames and on the way through a video."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny import TINY_YAML, tiny_config
from toy_videos import contents

from cutie_geo.__main__ import run_one
from cutie_geo.checkpoints.saving import save_checkpoint
from cutie_geo.inference.head_prompter import HeadPrompter, connected
from cutie_geo.inference.prompting import PromptedMask
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.prompt_head import PromptBatch
from cutie_geo.regions import AFRESH_POINTS, Prompt, Region
from cutie_geo.runs.prompts import HEAD, has_prompt_head, load_prompter
from cutie_geo.structures import Frame

SIZE = (72, 100)


def headed(**changes: Any) -> CutieGeo:
    """A small network with a head whose weights count as trained."""
    torch.manual_seed(0)
    model = CutieGeo(tiny_config(**{"prompt_channels": 32, "max_internal_size": 48} | changes)).eval()
    assert model.prompt_head is not None
    model.prompt_head.trained = True
    return model


@pytest.fixture(scope="module")
def model() -> CutieGeo:
    return headed()


def image(size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(1))


class Spy:
    """Stands before a head and keeps its prompts; answers with logits that are 1 around the first click."""

    def __init__(self, model: CutieGeo, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[PromptBatch] = []
        forward = model.prompt_head.forward  # type: ignore[union-attr]

        def called(features: Any, prompts: PromptBatch) -> Any:
            self.seen.append(prompts)
            found = forward(features, prompts)
            logits = torch.full_like(found.logits, -4.0)
            x, y = (prompts.points[0, 0] / 4).long().tolist()
            logits[0, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = 4.0
            return found._replace(logits=logits)

        monkeypatch.setattr(model.prompt_head, "forward", called)


def test_clicks_and_boxes_reach_the_head_in_pixels_of_its_input(
    model: CutieGeo, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(model, monkeypatch)
    prompter = HeadPrompter(model, zoom=False)
    encoded = prompter.encode(image())
    assert encoded.whole.geometry.internal == (48, 66)
    prompt = Prompt(((50.0, 36.0, 1), (10.0, 9.0, 0)), (25.0, 18.0, 75.0, 54.0))
    found = prompter.predict(encoded, prompt)
    assert found.logits.shape == SIZE
    assert 0 <= found.quality <= 1
    left = encoded.whole.geometry.padding.left
    assert torch.allclose(spy.seen[0].points[0], torch.tensor([[33.0 + left, 24.0], [6.6 + left, 6.0]]))
    assert spy.seen[0].labels.tolist() == [[1, 0]]
    assert torch.allclose(spy.seen[0].boxes[0], torch.tensor([16.5 + left, 12.0, 49.5 + left, 36.0]))
    assert spy.seen[0].masks.isnan().all()
    y, x = divmod(int(found.logits.argmax()), SIZE[1])
    assert abs(x - 50) < 8
    assert abs(y - 36) < 8


def test_small_objects_are_seen_enlarged_and_the_view_is_used_again(
    model: CutieGeo, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(model, monkeypatch)
    views: list[Region] = []
    make = HeadPrompter._view
    monkeypatch.setattr(HeadPrompter, "_view", lambda self, *args: views.append(args[1]) or make(self, *args))
    prompter = HeadPrompter(model)
    encoded = prompter.encode(image())
    found = prompter.predict(encoded, Prompt(((80.0, 20.0, 1),)))
    assert len(views) == 2
    assert views[1].x0 <= 80 < views[1].x1
    assert views[1].size[1] < SIZE[1] / 2
    assert len(spy.seen) == 2
    assert not spy.seen[1].masks.isnan().any()
    y, x = divmod(int(found.logits.argmax()), SIZE[1])
    assert abs(x - 80) < 4
    assert abs(y - 20) < 4
    prompter.predict(encoded, Prompt(((80.0, 20.0, 1), (2.0, 70.0, 0))), found.logits)
    assert len(views) == 2
    assert spy.seen[3].labels.tolist() == [[1]]  # the other click is outside of the view


def test_small_frames_are_enlarged_as_the_tracker_does_it() -> None:
    model = headed(max_internal_size=64, min_internal_size=64)
    tracker, prompter = Tracker(model), HeadPrompter(model)
    frame = image((40, 60))
    own = prompter.encode(frame)
    shared = prompter.encode_shared(frame, tracker.encode(frame))
    assert shared is not None
    assert own.whole.geometry.internal == shared.whole.geometry.internal == (64, 96)
    torch.testing.assert_close(own.whole.features.f4, shared.whole.features.f4)
    assert prompter.predict(own, Prompt(((30.0, 20.0, 1),))).logits.shape == (40, 60)
    assert HeadPrompter(model, max_internal_size=32).encode(frame).whole.geometry.internal == (32, 48)


def test_a_mask_of_earlier_clicks_is_averaged_with_one_that_is_predicted_afresh() -> None:
    prompter = HeadPrompter(headed(max_internal_size=144), zoom=False)
    encoded = prompter.encode(image((144, 200)))
    points = tuple((150.0 - 20 * n, 75.0, 1) for n in range(AFRESH_POINTS + 1))
    mask = torch.full((144, 200), -5.0)
    mask[:, :100] = 5.0
    two, many = Prompt(points[:2]), Prompt(points)
    corrected, afresh = prompter.predict(encoded, two, mask), prompter.predict(encoded, two)
    found = prompter.predict(encoded, two, mask, from_prompts=True)
    assert not torch.allclose(corrected.logits, afresh.logits, atol=1e-3)
    torch.testing.assert_close(found.logits.sigmoid(), (corrected.logits.sigmoid() + afresh.logits.sigmoid()) / 2)
    assert found.quality == pytest.approx((corrected.quality + afresh.quality) / 2)
    later = prompter.predict(encoded, many, mask, from_prompts=True)
    assert torch.equal(later.logits, prompter.predict(encoded, many, mask).logits)


def test_a_frame_is_encoded_once_for_all_its_prompts(model: CutieGeo) -> None:
    calls: list[int] = []
    handle = model.encoder.register_forward_hook(lambda *_: calls.append(1))
    prompter = HeadPrompter(model, zoom=False)
    encoded = prompter.encode(image())
    first = prompter.predict(encoded, Prompt(((80.0, 20.0, 1),)))
    other = prompter.predict(encoded, Prompt(((10.0, 60.0, 1),)))
    handle.remove()
    assert len(calls) == 1
    assert not torch.equal(first.logits, other.logits)


def test_the_mask_so_far_is_logits_or_probabilities(model: CutieGeo, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(model, monkeypatch)
    prompter = HeadPrompter(model, zoom=False)
    encoded = prompter.encode(image())
    mask = torch.zeros(SIZE)
    mask[:, :50] = 1
    for given in (mask, mask.bool(), (mask - 0.5) * 50):
        prompter.predict(encoded, Prompt(((80.0, 20.0, 1),)), given)
    assert torch.equal(spy.seen[0].masks, spy.seen[1].masks)
    assert torch.allclose(spy.seen[0].masks, spy.seen[2].masks, atol=1e-3)
    assert spy.seen[0].masks[0, 6, 4] == 1


def test_what_cannot_be_prompted_is_refused(model: CutieGeo) -> None:
    prompter = HeadPrompter(model)
    encoded = prompter.encode(image())
    with pytest.raises(ValueError, match="neither points nor a box"):
        prompter.predict(encoded, Prompt())
    with pytest.raises(ValueError, match=r"mask: got size \(3, 3\), expected the frame's \(72, 100\)"):
        prompter.predict(encoded, Prompt(((1.0, 1.0, 1),)), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="no prompt head"):
        HeadPrompter(CutieGeo(tiny_config()))
    with pytest.raises(ValueError, match="expected 0 to 1"):
        prompter.encode(image() + 7)


def test_a_click_adds_only_what_is_connected_to_it() -> None:
    logits = torch.full((20, 20), -1.0)
    left, right, below = (slice(2, 8), slice(2, 8)), (slice(2, 8), slice(12, 18)), (slice(12, 18), slice(2, 8))
    for part in (left, right, below):
        logits[part] = 2.0

    def parts(prompt: Prompt, before: torch.Tensor | None = None) -> list[bool]:
        found = connected(PromptedMask(logits, 0.5), prompt, before).logits
        assert not (found[logits < 0] > 0).any()
        return [bool((found[part] > 0).all()) for part in (left, right, below)]

    mask = torch.zeros(20, 20)
    mask[below] = 1
    assert parts(Prompt(((4.5, 4.5, 1),))) == [True, False, False]
    assert parts(Prompt(((4.5, 4.5, 1), (14.5, 4.5, 1)))) == [True, True, False]
    assert parts(Prompt(((4.5, 4.5, 1),)), mask) == [True, False, True]
    assert parts(Prompt(((4.5, 4.5, 0),)), mask) == [False, False, True]
    assert parts(Prompt(box=(10.0, 0.0, 20.0, 10.0))) == [False, True, False]
    assert parts(Prompt(((10.5, 10.5, 1),))) == [True, True, True]


def test_the_tracker_s_features_are_shared_and_its_prediction_is_corrected(
    model: CutieGeo, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(model, monkeypatch)
    calls: list[int] = []
    handle = model.encoder.register_forward_hook(lambda *_: calls.append(1))
    tracker = Tracker(model)
    prompter = HeadPrompter(model, zoom=False)
    frame = Frame("0", image(), (144, 200), prompts={5: Prompt(((100.0, 72.0, 1),))})
    given, features = prompter.given(tracker, frame)
    assert given.ids == (5,)
    assert given.labels.shape == SIZE
    assert given.labels[36, 50] == 5
    tracker.step(frame.image, given.labels, given.ids, features=features)
    assert spy.seen[0].masks.isnan().all()
    prompter.given(tracker, frame._replace(name="1"))
    handle.remove()
    assert len(calls) == 2
    assert not spy.seen[1].masks.isnan().any()
    wrong = frame._replace(name="2", prompts={5: Prompt(((1.0, 1.0, 0),))})
    assert prompter.given(tracker, wrong)[0].ids == (5,)
    with pytest.raises(ValueError, match="frame 2: object 6: got negative points only"):
        prompter.given(tracker, wrong._replace(prompts={6: Prompt(((1.0, 1.0, 0),))}))


def test_the_head_is_the_default_where_it_is_trained(model: CutieGeo) -> None:
    prompter, described = load_prompter([model])
    assert isinstance(prompter, HeadPrompter)
    assert described == {"model": HEAD, "weights": "none", "shares_trunk": True}


def test_a_random_head_is_not_trained() -> None:
    model = headed()
    assert has_prompt_head(model)
    assert model.prompt_head is not None
    model.prompt_head.trained = False
    assert not has_prompt_head(model)
    assert not has_prompt_head(CutieGeo(tiny_config()))


# ----------------------------------------------------------------------------------------------------- command line
@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a head."""
    folder = tmp_path_factory.mktemp("headed")
    save_checkpoint(headed(), folder / "model")
    return folder / "model"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    folder = tmp_path / "clip"
    folder.mkdir()
    for t in range(3):
        pixels = np.full((*SIZE, 3), 40, np.uint8)
        pixels[20:50, 30 + 2 * t : 60 + 2 * t] = (220, 180, 90)
        Image.fromarray(pixels).save(folder / f"{t:05d}.png")
    return folder


def always_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let random heads find something, so that the mask of a prompt is not empty."""
    from cutie_geo.model.prompt_head import PromptHead

    forward = PromptHead.forward

    def called(self: PromptHead, features: Any, prompts: PromptBatch) -> Any:
        found = forward(self, features, prompts)
        logits = torch.full_like(found.logits, -4.0)
        x, y = (prompts.points[0, 0] / 4).long().tolist()
        logits[0, max(y - 2, 0) : y + 2, max(x - 2, 0) : x + 2] = 4.0
        return found._replace(logits=logits)

    monkeypatch.setattr(PromptHead, "forward", called)


@pytest.mark.slow
def test_infer_and_prompt_use_the_head_without_any_other_file(
    saved: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    always_positive(monkeypatch)

    def offline(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr("socket.socket.connect", offline)
    common = ["--video", str(clip), "--model", str(saved), "--device", "cpu", "--precision", "fp32"]
    points = ["--point", "45,35", "--frame", "00002", "--object", "1", "--point", "50,35"]
    assert run_one("infer", [*common, *points, "--output", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert told["settings"]["prompts"]["model"] == HEAD
    assert told["settings"]["prompts"]["shares_trunk"]
    masks = sorted((tmp_path / "out").rglob("0000?.png"))
    assert len(masks) == 3
    assert np.array(Image.open(masks[0]))[35, 45] == 1
    assert np.array(Image.open(masks[2]))[35, 50] == 1
    assert run_one("prompt", [*common, *points, "--output", str(tmp_path / "seen")]) == 0
    assert f"masks by the prompt head of {saved}" in capsys.readouterr().out
    assert (tmp_path / "seen" / "pictures" / "00000.jpg").is_file()
    assert contents(tmp_path / "seen")


def static_sets(root: Path) -> Path:
    """Two sets of images, one of two objects."""
    for name, count in (("one", 3), ("two", 1)):
        for kind in ("images", "masks"):
            (root / name / kind).mkdir(parents=True)
        for n in range(count):
            mask = np.zeros((64, 80), np.uint8)
            mask[10:40, 10:40] = 1
            if name == "two":
                mask[45:60, 50:75] = 2
            Image.fromarray(np.where(mask[..., None] > 0, 200, 30).repeat(3, 2).astype(np.uint8)).save(
                root / name / "images" / f"{n}.png"
            )
            palette = Image.fromarray(mask, mode="P")
            palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
            palette.save(root / name / "masks" / f"{n}.png")
    return root


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*mode.*deprecated:DeprecationWarning")
def test_evaluate_counts_clicks_by_set(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = static_sets(tmp_path / "static")
    words = ["--protocol", "clicks", "--model", str(saved), "--static", str(root), "--sets", "one:2", "two",
             "--device", "cpu", "--precision", "fp32", "--clicks", "2", "--json", str(tmp_path / "report.json"),
             "--plots", str(tmp_path / "pictures")]  # fmt: skip
    assert run_one("evaluate", words) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert {name: row["objects"] for name, row in report["sets"].items()} == {"one": 2, "two": 2, "mean": 4}
    assert [item["name"] for item in report["objects"]] == ["one/1", "one/2", "two/0", "two/0"]
    assert report["prompts"] == HEAD
    assert all(0 <= item["box"] <= 1 and len(item["ious"]) <= 2 for item in report["objects"])
    printed = capsys.readouterr().out
    assert "NoC@85" in printed
    assert (tmp_path / "pictures" / "two_worst1.jpg").is_file()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--protocol", "clicks"], "clicks: expected --static DIR, or --dataset NAME"),
        (["--protocol", "clicks", "--gt", "x", "--static", "y"], "--gt: got protocol clicks, which has no such option"),
        (["--protocol", "clicks", "--static", "y", "--sets", "a:b"], "--sets: got 'a:b', expected NAME, or NAME:N"),
        (["--static", "y"], "--static: got protocol davis2017, expected --protocol clicks"),
        (["--protocol", "clicks", "--dataset", "davis2016-train"], "--dataset: expected --data-root with it"),
        (["--protocol", "clicks", "--static", "y", "--limit", "0"], "--limit: got 0, expected 1 or more"),
    ],
)
def test_evaluate_refuses_what_does_not_fit(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_one("evaluate", words) == 2
    assert text in capsys.readouterr().err


@pytest.mark.slow
def test_clicks_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = tmp_path / "tiny.yaml"
    preset.write_text(yaml.safe_dump(yaml.safe_load(TINY_YAML) | {"prompt_channels": 32, "max_internal_size": 48}))
    words = ["--prompts", "--model", str(preset), "--device", "cpu", "--precision", "fp32", "--size", "64x96"]
    assert run_one("bench", [*words, "--json", str(tmp_path / "times.json")]) == 0
    row = json.loads((tmp_path / "times.json").read_text())["rows"][0]
    assert row["with_encoding_seconds"] >= row["encode_seconds"] > 0
    assert row["first_click_seconds"] > 0
    assert "next click ms" in capsys.readouterr().out
    preset.write_text(TINY_YAML)
    assert run_one("bench", words) == 0  # with a head of random weights
    assert "next click ms" in capsys.readouterr().out
