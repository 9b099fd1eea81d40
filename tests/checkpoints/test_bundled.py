"""The weights in the package: the right ones, small enough, and a model that finds objects again."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cutie_geo.checkpoints import bundled
from cutie_geo.checkpoints.bundled import BUNDLED, bundled_file
from cutie_geo.checkpoints.hub import CARD_FILE
from cutie_geo.checkpoints.load import load_model
from cutie_geo.checkpoints.saving import CONFIG_FILE

MOST_PARAMETERS, MOST_BYTES = 12e6, 24e6


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BUNDLED))
def test_bundled_weights_are_small_and_loaded_by_default(name: str) -> None:
    file = bundled_file(name)
    assert sum(path.stat().st_size for path in file.parent.iterdir()) <= MOST_BYTES
    assert {path.name for path in file.parent.iterdir()} == {file.name, CONFIG_FILE, CARD_FILE}
    model = load_model(name, device="cpu", precision="fp32")
    assert sum(weight.numel() for weight in model.parameters()) <= MOST_PARAMETERS
    assert model.loaded_from == file
    stored = load_file(file)
    assert all(t.dtype == torch.float16 for t in stored.values() if t.is_floating_point())
    for entry, weight in model.state_dict().items():
        assert torch.equal(weight.cpu().to(stored[entry].dtype), stored[entry]), entry


def test_the_default_model_is_bundled() -> None:
    from cutie_geo.commands.infer import DEFAULT_MODEL

    assert DEFAULT_MODEL in BUNDLED


@pytest.mark.parametrize("name", list(BUNDLED))
def test_the_card_says_all_that_it_should(name: str) -> None:
    card = (bundled_file(name).parent / CARD_FILE).read_text(encoding="utf-8")
    assert "Not stated" not in card
    assert "None stated" not in card
    for word in ("DAVIS", "Penn-Fudan", "CC BY", "steps", "rhino", "cutie_geo"):
        assert word in card


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("name", list(BUNDLED))
def test_damaged_and_missing_weights_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(bundled.ROOT, tmp_path / "weights")
    monkeypatch.setattr(bundled, "ROOT", tmp_path / "weights")
    file = bundled_file(name)
    damage(file)
    with pytest.raises(ValueError, match=r"model\.safetensors: got sha256 .*, expected .*install the package again"):
        load_model(name)
    file.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: no such file, which is part of cutie_geo"):
        load_model(name)


@pytest.mark.parametrize("name", list(BUNDLED))
def test_changes_that_the_weights_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"not a checkpoint of .*key_dim"):
        load_model(name, overrides=["key_dim=32"])
    assert load_model(name, "none", overrides=["key_dim=32"]).loaded_from is None
