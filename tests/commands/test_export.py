"""`cutie-geo export`."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY_YAML

from cutie_geo.__main__ import main
from cutie_geo.model.load import load_model
from cutie_geo.model.saving import save_checkpoint
from cutie_geo.model.weights import digest


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder as training leaves it."""
    (tmp_path / "tiny.yaml").write_text(TINY_YAML)
    return save_checkpoint(load_model(str(tmp_path / "tiny.yaml"), "none", "cpu", "fp32"), tmp_path / "final").parent


def test_an_export_is_half_as_large_and_the_same_model(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "card.yaml").write_text("title: Mine\ndata: Clips of cats.\nlicence: MIT\nscores: {cats: 71.5}\n")
    assert main(["export", str(trained), "--output", str(tmp_path / "out"), "--card", str(tmp_path / "card.yaml")]) == 0
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


def test_all_digits_are_kept_on_demand(trained: Path, tmp_path: Path) -> None:
    assert main(["export", str(trained), "--output", str(tmp_path / "out"), "--full"]) == 0
    got, wanted = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", trained))
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_of_several_models_the_mean_of_their_weights_is_written(trained: Path, tmp_path: Path) -> None:
    others = []
    for shift in (1.0, 5.0):
        model = load_model(str(trained), device="cpu", precision="fp32")
        for weight in model.parameters():
            weight.data += shift
        others.append(str(save_checkpoint(model, tmp_path / f"by{shift:g}").parent))
    assert main(["export", str(trained), *others, "--output", str(tmp_path / "out"), "--full"]) == 0
    own, mean = load_model(str(trained), device="cpu"), load_model(str(tmp_path / "out"), device="cpu")
    for name, weight in own.named_parameters():
        torch.testing.assert_close(mean.get_parameter(name), weight + 2)
    assert all(torch.equal(mean.get_buffer(name), buffer) for name, buffer in own.named_buffers())


def test_models_of_different_sizes_have_no_mean(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = load_model(str(tmp_path / "tiny.yaml"), "none", "cpu", "fp32", ["decoder_dim=24"])
    folder = save_checkpoint(other, tmp_path / "other").parent
    assert main(["export", str(trained), str(folder), "--output", str(tmp_path / "out")]) == 2
    assert "other/model.safetensors: another configuration" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_numbers_that_half_precision_cannot_hold_are_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(str(trained), device="cpu", precision="fp32")
    model.pixel_projection.bias.data[0] = 1e6  # type: ignore[union-attr]
    save_checkpoint(model, tmp_path / "huge")
    assert main(["export", str(tmp_path / "huge"), "--output", str(tmp_path / "out")]) == 2
    assert "float16 can't hold pixel_projection.bias" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--output", "out"], "nowhere: no folder of a trained model"),
        (["final", "--output", "final"], "--output: got final itself"),
        (["final", "--output", "out", "--card", "bad.yaml"], "bad.yaml: got colour, wanted any of title, data"),
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
    assert main(["export", *arguments]) == 2
    assert message in capsys.readouterr().err
