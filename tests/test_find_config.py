"""Configurations are found by name wherever the package is installed."""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import cutie_geo
from cutie_geo.ablation.config import ABLATIONS, ablation_file, read_ablation
from cutie_geo.config import config_root, find_config, model_config, stage_file, train_config
from cutie_geo.config.presets import STAGE_FOLDERS
from cutie_geo.vss.config import classifier_config

PACKAGE = Path(cutie_geo.__file__).parent


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("form", ["{name}", "{name}.yaml", "configs/sam2/{name}.yaml"])
def test_a_stage_is_found_by_name_and_by_the_path_that_the_docs_give(form: str) -> None:
    name = form.format(name="visor_finetune_train")
    assert train_config(name).sam2 is not None
    assert stage_file(name) == (config_root() / "sam2" / "visor_finetune_train.yaml").resolve()


@pytest.mark.parametrize("form", ["{name}", "{name}.yaml", "configs/{folder}/{name}.yaml"])
def test_tables_classifiers_and_models_are_found_too(form: str) -> None:
    assert read_ablation(ablation_file(form.format(name="tiny_depth", folder="ablations"))).rows
    assert classifier_config(form.format(name="isam2_vspw", folder="vss")).encoder == "sam2"
    assert model_config(form.format(name="cutie-small", folder="models")).encoder.vision == "resnet18"


def test_a_file_of_ones_own_comes_before_a_path_of_the_package(tmp_path: Path) -> None:
    own = tmp_path / "configs" / "ablations" / "tiny_depth.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("title: mine\n", encoding="utf-8")
    assert ablation_file("configs/ablations/tiny_depth.yaml").resolve() == own.resolve()


@pytest.mark.parametrize("name", ["", "nowhere", "../models/cutie-base", "configs/../../x.yaml", "/etc/passwd", "a\0b"])
def test_what_is_no_configuration_is_refused(name: str) -> None:
    assert find_config(name, STAGE_FOLDERS) is None
    with pytest.raises(ValueError, match=r"no such stage; expected one of .*visor_finetune_train"):
        stage_file(name)
    with pytest.raises(ValueError, match=r"no such table; expected one of .*tiny_depth"):
        ablation_file(name)


def test_no_name_means_two_files() -> None:
    names = Counter(path.stem for folder in (*STAGE_FOLDERS, ABLATIONS) for path in (config_root() / folder).iterdir())
    assert max(names.values()) == 1


def test_an_installed_package_finds_its_own_files(tmp_path: Path) -> None:
    installed = tmp_path / "site" / PACKAGE.name
    shutil.copytree(PACKAGE, installed, ignore=shutil.ignore_patterns("*.safetensors", "*.png", "*.jpg", "__pycache__"))
    shutil.copytree(config_root(), installed / "configs", dirs_exist_ok=True)  # as the wheel has it
    program = "from cutie_geo.config import stage_file; print(stage_file('configs/sam2/visor_finetune_train.yaml'))"
    told = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True
    )
    assert Path(told.stdout.strip()) == installed / "configs" / "sam2" / "visor_finetune_train.yaml", told.stderr
