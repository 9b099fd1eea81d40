"""`cutie-geo export weights`, and the subcommands of `cutie-geo export`."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import TINY_YAML

from cutie_geo.__main__ import main
from cutie_geo.checkpoints.bundled import bundled_file
from cutie_geo.checkpoints.catalogue import digest
from cutie_geo.checkpoints.load import load_model
from cutie_geo.checkpoints.saving import save_checkpoint
from cutie_geo.runs.origins import origins


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder as training leaves it."""
    (tmp_path / "tiny.yaml").write_text(TINY_YAML)
    return save_checkpoint(load_model(str(tmp_path / "tiny.yaml"), "none", "cpu", "fp32"), tmp_path / "final").parent


@pytest.mark.slow
def test_an_export_is_half_as_large_and_the_same_model(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "card.yaml").write_text("title: Mine\ndata: Clips of cats.\nlicence: MIT\nscores: {cats: 71.5}\n")
    assert (
        main(
            [
                "export",
                "weights",
                str(trained),
                "--output",
                str(tmp_path / "out"),
                "--card",
                str(tmp_path / "card.yaml"),
            ]
        )
        == 0
    )
    file = tmp_path / "out" / "model.safetensors"
    assert f"sha256 {digest(file, 'sha256')}" in capsys.readouterr().out
    whole = load_file(trained / "model.safetensors")
    half = load_file(file)
    assert half.keys() == whole.keys()
    assert all(torch.equal(half[name], t.half() if t.is_floating_point() else t) for name, t in whole.items())
    assert file.stat().st_size < 0.6 * (trained / "model.safetensors").stat().st_size
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(text in card for text in ("# Mine", "Clips of cats.", "| cats | 71.5 |", "license: mit"))
    model = load_model(str(tmp_path / "out"), device="cpu", precision="fp32")
    assert model.pixel_projection.weight.dtype == torch.float32


@pytest.mark.slow
def test_all_digits_are_kept_on_demand(trained: Path, tmp_path: Path) -> None:
    assert main(["export", "weights", str(trained), "--output", str(tmp_path / "out"), "--full"]) == 0
    got, wanted = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", trained))
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_of_several_models_the_mean_of_their_weights_is_written(trained: Path, tmp_path: Path) -> None:
    others = []
    for shift in (1.0, 5.0):
        model = load_model(str(trained), device="cpu", precision="fp32")
        for weight in model.parameters():
            weight.data += shift
        others.append(str(save_checkpoint(model, tmp_path / f"by{shift:g}").parent))
    assert main(["export", "weights", str(trained), *others, "--output", str(tmp_path / "out"), "--full"]) == 0
    own, mean = load_model(str(trained), device="cpu"), load_model(str(tmp_path / "out"), device="cpu")
    for name, weight in own.named_parameters():
        torch.testing.assert_close(mean.get_parameter(name), weight + 2)
    assert all(torch.equal(mean.get_buffer(name), buffer) for name, buffer in own.named_buffers())


@pytest.mark.slow
def test_models_of_different_sizes_have_no_mean(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = load_model(str(tmp_path / "tiny.yaml"), "none", "cpu", "fp32", ["decoder_dim=24"])
    folder = save_checkpoint(other, tmp_path / "other").parent
    assert main(["export", "weights", str(trained), str(folder), "--output", str(tmp_path / "out")]) == 2
    assert "other/model.safetensors: another configuration" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_numbers_that_half_precision_cannot_hold_are_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(str(trained), device="cpu", precision="fp32")
    model.pixel_projection.bias.data[0] = 1e6  # type: ignore[union-attr]
    save_checkpoint(model, tmp_path / "huge")
    assert main(["export", "weights", str(tmp_path / "huge"), "--output", str(tmp_path / "out")]) == 2
    assert "out of the range of float16: pixel_projection.bias" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--output", "out"], "nowhere: not the folder of a trained model"),
        (["final", "--output", "final"], "--output: got final itself"),
        (["final", "--output", "out", "--card", "bad.yaml"], "bad.yaml: got colour, expected any of title, data"),
        (["final", "--output", "out", "--card", "none.yaml"], "none.yaml"),
    ],
)
def test_what_makes_no_sense_is_said(
    arguments: list[str], message: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("colour: red\n")
    assert trained == tmp_path / "final"
    assert main(["export", "weights", *arguments]) == 2
    assert message in capsys.readouterr().err


def run_of(root: Path, trained: Path, stage: str, started_from: Path | str) -> Path:
    """The final folder of a run, as training leaves it."""
    final = root / stage / "final"
    shutil.copytree(trained, final)
    facts = {"stage": stage, "run": {"started_from": str(started_from)}}
    (root / stage / "config.yaml").write_text(yaml.safe_dump(facts))
    return final


@pytest.mark.slow
def test_the_card_of_a_tuned_model_keeps_data_and_licence_of_what_it_began_with(trained: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    card = tmp_path / "card.yaml"
    card.write_text("data: Clips of dogs.\nlicence: Apache-2.0\n")
    assert main(["export", "weights", str(trained), "--output", str(base), "--card", str(card)]) == 0
    first = run_of(tmp_path, trained, "one", base / "model.safetensors")
    second = run_of(tmp_path, trained, "two", first / "model.safetensors")
    card.write_text("data: Clips of cats.\nlicence: MIT\n")
    for folder, output in ((second, "out"), (run_of(tmp_path, trained, "alone", ""), "plain")):
        assert main(["export", "weights", str(folder), "--output", str(tmp_path / output), "--card", str(card)]) == 0
    told = (tmp_path / "out" / "README.md").read_text()
    assert "Clips of cats.\n\nIt was tuned from base, which was trained on:\n\nClips of dogs.\n" in told
    assert "MIT\n\nIt was tuned from base, whose licence is: Apache-2.0\n" in told
    assert "license: other" in told
    plain = (tmp_path / "plain" / "README.md").read_text()
    assert "tuned from" not in plain
    assert "license: mit" in plain
    assert next(iter(origins([tmp_path / "out"]))).data.endswith("Clips of dogs.")


def test_the_card_names_published_weights_that_a_run_began_with(trained: Path, tmp_path: Path) -> None:
    (origin,) = origins([run_of(tmp_path, trained, "one", tmp_path / "cache" / "cutie-base-mega.pth")])
    assert (origin.name, origin.licence, origin.licence_name) == ("cutie-base-mega.pth", "MIT", "mit")
    (origin,) = origins([run_of(tmp_path, trained, "two", tmp_path / "mine.pth")])
    assert (origin.name, origin.licence, origin.licence_name) == ("mine.pth", "Not stated.", "other")
    (origin,) = origins([run_of(tmp_path, trained, "three", bundled_file("cutie-geo-tiny"))])
    assert "DAVIS 2016" in origin.data
    assert origin.licence.startswith("For research")


def test_the_call_of_earlier_versions_names_its_successor(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", "final", "--output", "out"])
    assert "exported by: cutie-geo export weights final" in capsys.readouterr().err


def test_a_subcommand_comes_before_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--max-pickle-mib", "512", "masks"]) == 2
    assert "expected: cutie-geo export masks" in capsys.readouterr().err
