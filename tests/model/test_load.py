"""From a model's name to a network that is ready to track."""

import logging
from pathlib import Path

import pytest
import torch
from tiny import TINY_YAML
from torch import nn

from cutie_geo.config import EncoderConfig, ModelConfig
from cutie_geo.model import weights as catalogue
from cutie_geo.model.load import load_model, resolve_device, resolve_precision
from cutie_geo.model.network import CutieGeo

CPU = torch.device("cpu")


@pytest.fixture
def tiny_file(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_YAML)
    return str(path)


def random(name: str, precision: str = "fp32", overrides: tuple[str, ...] = ()) -> CutieGeo:
    """A network with random weights."""
    return load_model(name, weights="none", device="cpu", precision=precision, overrides=overrides)


# ------------------------------------------------------------------------------------------------------------- names
@pytest.mark.parametrize(("name", "vision", "count"), [("small", "resnet18", 28747578), ("base", "resnet50", 35024186)])
def test_a_preset_has_the_size_of_the_official_model(name: str, vision: str, count: int) -> None:
    model = random(f"cutie-{name}")
    assert model.config == ModelConfig(encoder=EncoderConfig(vision))  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_a_yaml_file_is_a_model_and_overrides_change_it(tiny_file: str) -> None:
    assert random(tiny_file).config.num_blocks == 2
    changed = random(tiny_file, overrides=("num_blocks=1", "single_object=true"))
    assert len(changed.object_transformer.blocks) == 1
    assert changed.config.single_object
    assert changed.config.value_dim == 32


@pytest.mark.parametrize("name", ["cutie-huge", "cutie_base", "missing.yaml"])
def test_an_unknown_model_is_refused_beside_the_presets(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: no such model; wanted one of cutie-base, cutie-small, or a YAML"):
        load_model(name)


def test_an_override_that_makes_no_sense_is_refused(tiny_file: str) -> None:
    with pytest.raises(ValueError, match="unknown deph"):
        random(tiny_file, overrides=("deph=1",))


# ----------------------------------------------------------------------------------------------------------- weights
def test_random_weights_are_the_same_on_every_call_and_come_with_a_warning(
    tiny_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        first = random(tiny_file)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.records[0].getMessage() == f"{tiny_file} has random weights: its masks mean nothing"
    torch.manual_seed(77)
    state = torch.get_rng_state()
    second = random(tiny_file)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize("as_text", [True, False])
def test_weights_may_be_a_file(tiny_file: str, tmp_path: Path, as_text: bool, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "w.pth"
    wanted = {name: torch.full_like(tensor, 2) for name, tensor in random(tiny_file).state_dict().items()}
    torch.save(wanted, path)
    caplog.clear()
    model = load_model(tiny_file, weights=str(path) if as_text else path, device="cpu", precision="fp32")
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    assert not caplog.records


def test_automatic_weights_are_the_ones_that_the_catalogue_fetches(
    monkeypatch: pytest.MonkeyPatch, tiny_file: str, tmp_path: Path
) -> None:
    path, asked = tmp_path / "w.pth", []
    wanted = {name: torch.full_like(tensor, 3) for name, tensor in random(tiny_file).state_dict().items()}
    torch.save(wanted, path)

    def fetch(name: str) -> Path:
        asked.append(name)
        return path

    monkeypatch.setattr(catalogue, "fetch", fetch)
    model = load_model(tiny_file, device="cpu")
    assert asked == [tiny_file]
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


def test_there_are_no_automatic_weights_for_a_model_of_ones_own(tiny_file: str) -> None:
    with pytest.raises(ValueError, match="no such weights; wanted one of cutie-base, cutie-small"):
        load_model(tiny_file, device="cpu")


def test_weights_that_are_not_there_are_named(tiny_file: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pth: no such weights file"):
        load_model(tiny_file, weights=tmp_path / "none.pth", device="cpu")


# ------------------------------------------------------------------------------------------------------ what comes out
def test_a_loaded_network_is_in_evaluation_mode_with_channels_last(tiny_file: str) -> None:
    model = random(tiny_file)
    assert not any(module.training for module in model.modules())
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.weight.is_contiguous(memory_format=torch.channels_last) for module in convolutions)
    assert model.device == CPU
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_weights_stay_float32_whatever_the_precision(tiny_file: str, precision: str, dtype: torch.dtype) -> None:
    model = random(tiny_file, precision)
    assert model.precision == dtype
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    with model.autocast():
        assert torch.is_autocast_enabled("cpu") == (precision != "fp32")
        assert (torch.rand(4, 4) @ torch.rand(4, 4)).dtype == dtype


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"),
    [(False, False, torch.float32), (True, False, torch.bfloat16), (False, True, torch.bfloat16)],
)
def test_automatic_precision_is_bf16_only_where_the_cpu_computes_with_it(
    monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert resolve_precision("auto", CPU) == expected


def test_automatic_precision_needs_no_particular_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert resolve_precision("auto", CPU) == torch.float32


@pytest.mark.parametrize("precision", ["float32", "FP32", "half", ""])
def test_an_unknown_precision_is_refused_beside_the_known_ones(tiny_file: str, precision: str) -> None:
    with pytest.raises(ValueError, match=f"^precision: got '{precision}', wanted auto, fp32, bf16, fp16$"):
        random(tiny_file, precision)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x", ""])
def test_a_device_that_is_not_there_is_refused_in_one_line(device: str) -> None:
    with pytest.raises(ValueError, match=f"^device {device}: ") as caught:
        resolve_device(device)
    assert "\n" not in str(caught.value)


def test_the_automatic_device_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device("auto") == torch.device(expected)
    assert resolve_device(CPU) == CPU
