"""From one of SAM 2's names to its network: the package's own, with every weight accounted for."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES, _load_checkpoint, build_sam2_video_predictor
from stock_sam2 import TINY
from torch import Tensor

from cutie_geo.checkpoints.catalogue import CATALOGUE
from cutie_geo.sam2 import networks as sam2
from cutie_geo.sam2.networks import SAM2_MODELS, Sam2Model, load_sam2, to_square

NAME = "sam2.1-hiera-tiny"


def tiny(
    name: str = NAME, weights: str | Path = "none", precision: str = "fp32", extra: tuple[str, ...] = ()
) -> Sam2Model:
    """A network of a few channels."""
    return load_sam2(name, weights, "cpu", precision, [*TINY, *extra])


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A state dict as the package has it."""
    return {name: torch.full_like(tensor, 0.5) for name, tensor in tiny().network.state_dict().items()}


@pytest.fixture
def file(published: dict[str, Tensor], tmp_path: Path) -> Path:
    """The same in a file as SAM 2's authors publish it."""
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": published}, path)
    return path


# ------------------------------------------------------------------------------------------------------------- names
def test_the_eight_models_are_the_packages_and_the_catalogues() -> None:
    theirs = {name.removeprefix("facebook/"): files for name, files in HF_MODEL_ID_TO_FILENAMES.items()}
    assert {name: config for name, (config, _) in theirs.items()} == SAM2_MODELS
    assert {name: CATALOGUE[name].file for name in SAM2_MODELS} == {name: file for name, (_, file) in theirs.items()}
    assert {CATALOGUE[name].licence for name in SAM2_MODELS} == {"Apache-2.0"}


@pytest.mark.parametrize("name", ["sam2.1-hiera-huge", "sam2.1_hiera_tiny", "cutie-base"])
def test_an_unknown_name_is_refused_beside_the_known(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^{name}: no such model of SAM 2; expected one of sam2\.1-hiera-tiny, .*sam2-"
    ):
        load_sam2(name, "none")


@pytest.mark.parametrize("override", ["model.foo=1", "+model.foo=1", "model.image_size=[1,", "image_size"])
def test_an_override_that_makes_no_sense_is_refused(override: str) -> None:
    with pytest.raises(ValueError, match=rf"^{NAME}: (overrides \['|SAM 2's configuration: got )"):
        tiny(extra=(override,))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "millions"), [("tiny", 38.96), ("small", 46.06), ("base-plus", 80.85), ("large", 224.45)]
)
def test_a_model_has_the_size_that_the_page_tells(size: str, millions: float) -> None:
    for release in ("sam2.1", "sam2"):
        model = load_sam2(f"{release}-hiera-{size}", "none", "cpu")
        assert sum(x.numel() for x in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.03)
        assert model.side == 1024


# ----------------------------------------------------------------------------------------------------------- weights
def test_random_weights_are_the_same_on_every_call_and_come_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        first = tiny()
    assert [record.getMessage() for record in caplog.records] == [
        f"{NAME}: random weights in every part: its masks are meaningless"
    ]
    torch.manual_seed(77)
    state = torch.get_rng_state()
    second = tiny()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    assert first.loaded_from is None
    assert not first.training


@pytest.mark.slow
def test_weights_may_be_a_published_file_or_safetensors(file: Path, published: dict[str, Tensor]) -> None:
    again = file.with_suffix(".safetensors")
    save_file(published, again)
    for path in (file, again, str(file)):
        model = tiny(weights=path)
        assert model.loaded_from == Path(path)
        assert model.name == NAME
        assert all(torch.equal(tensor, published[name]) for name, tensor in model.network.state_dict().items())


def test_automatic_weights_are_the_ones_that_the_catalogue_fetches(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sam2.catalogue, "fetch", lambda name: asked.append(name) or file)
    with caplog.at_level(logging.INFO):
        model = tiny(weights="auto")
    assert asked == [NAME]
    assert float(model.network.maskmem_tpos_enc.detach().mean()) == 0.5
    assert f"{NAME}: {len(model.network.state_dict())} entries loaded from {file}" in caplog.text


def test_saved_weights_load_in_the_package(tmp_path: Path) -> None:
    model = tiny()
    path = tmp_path / "ours.pt"
    torch.save({"model": model.network.state_dict()}, path)
    theirs = build_sam2_video_predictor(SAM2_MODELS[NAME], str(path), device="cpu", hydra_overrides_extra=list(TINY))
    _load_checkpoint(theirs, str(path))  # which raises for any missing or unexpected entry
    assert all(torch.equal(a, b) for a, b in zip(model.network.state_dict().values(), theirs.state_dict().values()))


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without("no_obj_ptr"), "1 entries do not fit sam2.1-hiera-tiny: missing no_obj_ptr"),
        (lambda state: state | {"head.weight": torch.zeros(3)}, "extra head.weight"),
        (
            lambda state: state | {"no_obj_ptr": torch.zeros(1, 5)},
            r"shape of no_obj_ptr: got \(1, 5\), expected \(1, 64\)",
        ),
        (lambda state: state | {"no_obj_ptr": torch.full((1, 64), torch.nan)}, "non-finite numbers in no_obj_ptr"),
        (lambda state: {"encoder.features.x": torch.zeros(2)}, "missing maskmem_tpos_enc"),
    ],
)
def test_every_entry_must_fit(
    published: dict[str, Tensor], tmp_path: Path, change: Callable[[dict], dict], problem: str
) -> None:
    path = tmp_path / "w.pt"
    torch.save({"model": change(published)}, path)
    with pytest.raises(ValueError, match=rf"w\.pt: .*{problem}"):
        tiny(weights=path)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pt: no such weights file"):
        tiny(weights=tmp_path / "none.pt")
    torn = tmp_path / "torn.pt"
    torn.write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(ValueError, match=r"torn\.pt"):
        tiny(weights=torn)


@pytest.mark.slow
def test_a_file_of_the_other_release_or_of_another_size_is_recognised(tmp_path: Path) -> None:
    def saved(name: str, channels: int, blocks: int) -> Path:
        state = tiny(name).network.state_dict()
        state |= {"image_encoder.trunk.patch_embed.proj.bias": torch.zeros(channels)}
        state |= {f"image_encoder.trunk.blocks.{k}.norm1.bias": torch.zeros(2) for k in range(blocks)}
        torch.save({"model": state}, tmp_path / "w.pt")
        return tmp_path / "w.pt"

    for name, channels, blocks, looks in [
        ("sam2-hiera-tiny", 96, 12, "sam2-hiera-tiny"),
        (NAME, 96, 16, "sam2.1-hiera-small"),
        (NAME, 112, 24, "sam2.1-hiera-base-plus"),
        ("sam2-hiera-tiny", 144, 48, "sam2-hiera-large"),
    ]:
        with pytest.raises(ValueError, match=rf"do not fit {NAME} \(the file looks like {looks}\): "):
            tiny(weights=saved(name, channels, blocks))


# --------------------------------------------------------------------------------------------------------- the model
def test_it_is_the_packages_predictor_as_the_package_builds_it() -> None:
    model = tiny()
    theirs = build_sam2_video_predictor(SAM2_MODELS[NAME], device="cpu", hydra_overrides_extra=list(TINY))
    assert str(model.network) == str(theirs)

    def settings(network: torch.nn.Module) -> dict[str, object]:
        plain = (bool, int, float, str, type(None), dict)
        return {k: v for k, v in vars(network).items() if isinstance(v, plain) and not k.startswith("_")}

    ours, wanted = settings(model.network), settings(theirs)
    assert wanted["binarize_mask_from_pts_for_mem_enc"] is True
    assert ours.pop("fill_hole_area") == 0, "the package would warn, and fill none, without its kernel"
    assert wanted.pop("fill_hole_area") == 8
    assert ours == wanted


def test_precision_and_place_are_those_asked_for() -> None:
    model = tiny(precision="bf16")
    assert model.precision == torch.bfloat16
    assert model.device == torch.device("cpu")
    with model.autocast():
        assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16
    assert {x.dtype for x in model.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="precision: got 'half'"):
        tiny(precision="half")


@torch.inference_mode()
def test_frames_of_a_batch_are_encoded_as_alone() -> None:
    model, images = tiny(), torch.rand(3, 3, 40, 70)
    together = model.encode(images)
    for image, features in zip(images, together):
        (alone,) = model.encode(image[None])
        assert features.size == alone.size == (40, 70)
        assert torch.equal(features.image, alone.image)
        for name, levels in alone.backbone.items():
            for a, b in zip(levels, features.backbone[name], strict=True):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(48, 85), (64, 64), (61, 93), (64, 20), (216, 384)])
def test_frames_are_stretched_as_pillow_stretches_bytes(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    wanted = torch.from_numpy(np.array(Image.fromarray(pixels).resize((64, 64)))).permute(2, 0, 1).int()
    square = to_square(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255, 64)[0]
    got = (square * 255).round().int()
    assert int((got - wanted).abs().max()) <= 1
    assert float((got != wanted).float().mean()) < 1e-3
    assert float((square - got.float() / 255).abs().max()) == 0
