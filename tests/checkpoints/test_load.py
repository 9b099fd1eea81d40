"""From a model's name to a network that is ready to track."""

import logging
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from tiny import TINY_YAML, randomised, tiny_config
from torch import nn

from cutie_geo.checkpoints import catalogue
from cutie_geo.checkpoints.load import load_model, resolve_device, resolve_precision
from cutie_geo.checkpoints.tensor_files import read_tensors
from cutie_geo.config import EncoderConfig, ModelConfig
from cutie_geo.limits import MAX_PICKLE_VARIABLE
from cutie_geo.model.encoder import FusedEncoder
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
@pytest.mark.slow
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
    with pytest.raises(ValueError, match=f"^{name}: no such model; expected one of cutie-base, .*cutie-small, or a"):
        load_model(name)


def test_an_override_that_makes_no_sense_is_refused(tiny_file: str) -> None:
    with pytest.raises(ValueError, match="unknown deph"):
        random(tiny_file, overrides=("deph=1",))


# ----------------------------------------------------------------------------------------------------------- weights
@pytest.mark.slow
def test_random_weights_are_the_same_on_every_call_and_come_with_a_warning(
    tiny_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        first = random(tiny_file)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.records[0].getMessage() == f"{tiny_file}: random weights in every part: its masks are meaningless"
    torch.manual_seed(77)
    state = torch.get_rng_state()
    second = random(tiny_file)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


@pytest.mark.slow
@pytest.mark.parametrize("as_text", [True, False])
def test_weights_may_be_a_file(tiny_file: str, tmp_path: Path, as_text: bool, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "w.pth"
    wanted = {name: torch.full_like(tensor, 2) for name, tensor in random(tiny_file).state_dict().items()}
    torch.save(wanted, path)
    caplog.clear()
    model = load_model(tiny_file, weights=str(path) if as_text else path, device="cpu", precision="fp32")
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.slow
def test_automatic_weights_are_the_ones_that_the_catalogue_fetches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, asked = tmp_path / "w.pth", []
    wanted = {name: torch.full_like(tensor, 3) for name, tensor in random("cutie-small").state_dict().items()}
    torch.save(wanted, path)

    def fetch(name: str) -> Path:
        asked.append(name)
        return path

    monkeypatch.setattr(catalogue, "fetch", fetch)
    model = load_model("cutie-small", device="cpu")
    assert asked == ["cutie-small"]
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["tiny", "cutie-geo-large", "cutie-geo-base", "cutie-geo-small"])
def test_there_are_no_automatic_weights_where_none_are_published(tiny_file: str, name: str) -> None:
    name = tiny_file if name == "tiny" else name
    with pytest.raises(ValueError, match=f"^{name}: no trained weights of this model are published") as caught:
        load_model(name, device="cpu")
    assert "expected a checkpoint, weights.warm_start=FILE with a Cutie checkpoint" in str(caught.value)
    assert "or none for random weights" in str(caught.value)


def test_weights_that_are_not_there_are_named(tiny_file: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pth: no such weights file"):
        load_model(tiny_file, weights=tmp_path / "none.pth", device="cpu")


# -------------------------------------------------------------------------------------- where the parts start from
GEO_YAML = TINY_YAML.replace("{vision: resnet18}", "{vision: hiera-tiny, channels: [1024, 512, 256]}")
"""SAM 2.1's smallest encoder in front of a tiny network, with the channels of a ResNet-50."""
DEPTH = "encoder.geometry=depth-anything-v2-small"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configurations, a vision encoder as SAM 2 publishes it, and a Cutie checkpoint, all with random numbers."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "geo.yaml").write_text(GEO_YAML)
    (folder / "tiny.yaml").write_text(TINY_YAML)
    torch.manual_seed(0)
    encoder = random(str(folder / "geo.yaml")).encoder
    assert isinstance(encoder, FusedEncoder)
    vision = randomised(encoder.vision).half().state_dict()
    torch.save({"model": {f"image_encoder.{name}": tensor for name, tensor in vision.items()}}, folder / "vision.pt")
    cutie = randomised(CutieGeo(tiny_config(encoder=EncoderConfig("resnet50"))))
    torch.save(cutie.state_dict(), folder / "cutie.pth")
    return folder


@pytest.fixture
def nothing_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No published file on this machine, and no network."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError("no network here")

    monkeypatch.setenv("CUTIE_GEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(catalogue, "urlopen", refuse)


def warning_of(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return record.getMessage()


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_cached")
def test_random_weights_of_the_papers_model_need_no_file_and_no_network(caplog: pytest.LogCaptureFixture) -> None:
    model = random("cutie-geo-small")
    assert warning_of(caplog) == "cutie-geo-small: random weights in every part: its masks are meaningless"
    assert model.frozen_files == {}
    assert isinstance(model.encoder, FusedEncoder)
    assert model.encoder.geometry is not None


@pytest.mark.slow
def test_a_part_starts_from_the_file_that_is_given(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = (f"weights.vision={files / 'vision.pt'}",)
    model = random(str(files / "geo.yaml"), overrides=given)
    content = torch.load(files / "vision.pt", weights_only=True)["model"]
    trunk = model.encoder.get_submodule("vision.trunk")
    assert torch.equal(trunk.pos_embed, content["image_encoder.trunk.pos_embed"].float())
    assert model.frozen_files["vision"].name == "vision.pt"
    assert warning_of(caplog).endswith(
        "geo.yaml: random weights in the fusion of its encoders, all behind its encoders: its masks are meaningless"
    )


def test_a_warm_start_fills_all_behind_the_encoders(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = (f"weights.vision={files / 'vision.pt'}", f"weights.warm_start={files / 'cutie.pth'}")
    model = load_model(str(files / "geo.yaml"), "auto", "cpu", "fp32", given)
    cutie = torch.load(files / "cutie.pth", weights_only=True)
    state = model.state_dict()
    assert all(torch.equal(state[name], cutie[name]) for name in cutie if not name.startswith("encoder."))
    assert list(model.frozen_files) == ["vision"]
    assert warning_of(caplog).endswith(
        "geo.yaml: random weights in the fusion of its encoders: its masks are meaningless"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given", "empty"),
    [
        ("geo.yaml", ["vision=vision.pt", DEPTH], "its geometry encoder, the fusion of its encoders, all behind its"),
        ("geo.yaml", ["warm_start=cutie.pth"], "its vision encoder, the fusion of its encoders: "),
        ("geo.yaml", ["warm_start=cutie.pth", "encoder.vision_init=none"], "its vision encoder, the fusion of its enc"),
        ("geo.yaml", ["vision=vision.pt", "encoder.freeze=false"], "the fusion of its encoders, all behind its"),
        ("tiny.yaml", ["warm_start=cutie.pth", "encoder.vision=resnet50"], "its encoder: "),
    ],
)
def test_what_stays_random_is_said(
    files: Path, name: str, given: list[str], empty: str, caplog: pytest.LogCaptureFixture
) -> None:
    changes = [text if "encoder." in text else f"weights.{text.replace('=', f'={files}/')}" for text in given]
    random(str(files / name), overrides=tuple(changes))
    assert f"random weights in {empty}" in warning_of(caplog)


@pytest.mark.usefixtures("nothing_cached")
def test_a_warm_start_without_the_encoders_says_what_could_not_be_fetched(files: Path) -> None:
    with pytest.raises(
        ValueError, match=r"sam2\.1_hiera_tiny\.pt: cannot be downloaded: no network here; or fetch it by"
    ):
        load_model(str(files / "geo.yaml"), "auto", "cpu", overrides=[f"weights.warm_start={files / 'cutie.pth'}"])


@pytest.mark.usefixtures("nothing_cached")
def test_a_bad_warm_start_is_refused_before_anything_is_downloaded(files: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pth: no such weights file"):
        load_model(str(files / "geo.yaml"), "auto", "cpu", overrides=["weights.warm_start=none.pth"])


def test_a_warm_start_needs_the_checkpoints_channels(files: Path) -> None:
    changes = (f"weights.warm_start={files / 'cutie.pth'}", "encoder.channels=[48, 32, 24]")
    with pytest.raises(
        ValueError, match=r"what lies behind the encoder .*shape of pixel_projection\.weight: got \(32, 10"
    ):
        random(str(files / "geo.yaml"), overrides=changes)


@pytest.mark.usefixtures("nothing_cached")
@pytest.mark.parametrize(("name", "weights"), [("cutie-base", "auto"), ("cutie-geo-small", "w.pth")])
def test_a_warm_start_beside_a_checkpoint_is_refused_at_once(name: str, weights: str) -> None:
    beside = name if weights == "auto" else weights
    with pytest.raises(
        ValueError, match=rf"weights\.warm_start: got c\.pth beside the weights of {beside}, expected one"
    ):
        load_model(name, weights, "cpu", overrides=["weights.warm_start=c.pth"])


@pytest.mark.usefixtures("nothing_cached")
@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("cutie-small", ["weights.vision=v.pt"], "no vision encoder .*encoder.vision=resnet18"),
        ("cutie-base", ["weights.geometry=g.pth"], "no geometry encoder .*encoder.geometry=none"),
        ("cutie-geo-small", ["weights.vision=v.pt", "encoder.vision_init=none"], "no vision encoder that starts from"),
        (
            "cutie-geo-small",
            ["weights.geometry=g.pth", "encoder.geometry=none"],
            "no geometry encoder that starts from",
        ),
    ],
)
@pytest.mark.parametrize("weights", ["auto", "none"])
def test_a_file_for_a_part_that_is_not_there_is_refused_at_once(
    name: str, changes: list[str], complaint: str, weights: str
) -> None:
    part = changes[0].partition("=")[0]
    with pytest.raises(ValueError, match=f"^{part}: got .*, but this model has {complaint}"):
        load_model(name, weights, "cpu", overrides=changes)


def test_a_cutie_checkpoint_as_weights_of_a_fused_model_is_pointed_to_the_warm_start(files: Path) -> None:
    with pytest.raises(
        ValueError, match=r"looks like cutie-base; weights\.warm_start takes it for all behind the encoder"
    ):
        load_model(str(files / "geo.yaml"), files / "cutie.pth", "cpu")


@pytest.mark.slow
def test_all_tensors_in_one_file_need_no_published_one(files: Path, tmp_path: Path) -> None:
    model = randomised(random(str(files / "geo.yaml")))
    torch.save(model.state_dict(), tmp_path / "all.pth")
    again = load_model(str(files / "geo.yaml"), tmp_path / "all.pth", "cpu", "fp32")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    assert again.frozen_files == {}


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
    with pytest.raises(ValueError, match=f"^precision: got '{precision}', expected auto, fp32, bf16, fp16$"):
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


def test_memory_that_is_short_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: Path) -> NoReturn:
        raise OSError(f"unable to mmap 9 bytes from file <{path}>: Cannot allocate memory (12)")

    monkeypatch.setattr("cutie_geo.checkpoints.tensor_files.load_file", load)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"content")
    with pytest.raises(ValueError, match=r"model\.safetensors: out of memory \(unable to mmap"):
        read_tensors(path)


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_megabytes_is_refused_before_minutes_are_spent_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    path = tmp_path / "weights.pth"
    torch.save({str(i): torch.arange(3.0) + i for i in range(4)}, path, _use_new_zipfile_serialization=zipped)
    assert read_tensors(path)["2"].tolist() == [2.0, 3.0, 4.0]
    large = {"model": {f"{i:040d}": i for i in range(30_000)}}
    torch.save(large, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.setenv(MAX_PICKLE_VARIABLE, "1")
    with pytest.raises(ValueError, match=r"weights\.pth: a pickle of .*expected at most 1048576; .*--max-pickle-mib"):
        read_tensors(path)
    monkeypatch.setenv(MAX_PICKLE_VARIABLE, "8")
    with pytest.raises(ValueError, match="got no named tensors"):
        read_tensors(path)
