"""No setting of SAM 2 names code, wherever it comes from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import yaml
from safetensors.torch import save_file

from cutie_geo.ablation.config import read_ablation
from cutie_geo.config import require_plain, train_config
from cutie_geo.sam2 import networks
from cutie_geo.sam2.networks import load_sam2
from cutie_geo.vss.config import classifier_config

NAME = "sam2.1-hiera-tiny"
CODE = [
    "model._target_=os.system",
    "++model._target_=pathlib.Path",
    "model.image_encoder._target_=os.system",
    "+model.image_encoder._partial_=true",
    "++model.image_encoder.scalp={_target_: pathlib.Path.touch, _args_: [CANARY]}",
    "++model.image_encoder.scalp={_target_:os.mkdir,_args_:[CANARY]}",
    "++model.image_encoder.x=[{_target_: os.mkdir}]",
    "model.image_encoder.x=${oc.env:HOME}",
    "model.image_encoder.x=os.system",
    "++model.image_encoder.trunk.weights_path=evil",
    "model.a=b\n++model._target_=c",
    "model.image_size='64'",
    "model.image_size=" + "[" * 5000,
    "model.image_size=" + "[" * 5000 + "1" + "]" * 5000,
    "~model.image_size",
    "model@x.y=1",
]
PLAIN = [
    "model.image_size=64",
    "model.image_encoder.trunk.stages=[1,1,2,1]",
    "++model.compile_image_encoder=false",
    "+model.max_cond_frames_in_attn=-1",
    "model.sigmoid_scale_for_mem_enc=1.0e-3",
    "model.memory_attention.layer.self_attention.feat_sizes=[[16, 16], [8, 8]]",
    "model.image_encoder.neck.fpn_interp_model=bicubic",
]


@pytest.fixture(autouse=True)
def sealed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fails where hydra is reached, since what it calls depends on its release."""

    def reached(*_: object, **__: object) -> NoReturn:
        raise AssertionError("hydra was reached")

    monkeypatch.setattr(networks, "build_sam2_video_predictor", reached)
    monkeypatch.chdir(tmp_path)


def _checkpoint(item: str, folder: Path) -> None:
    text = json.dumps({"format": 1, "sam2": {"name": NAME, "overrides": [item]}}) + "\n"
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors", metadata={"cutie_geo": text})
    (folder / "config.json").write_text(text, encoding="utf-8")
    load_sam2(str(folder), device="cpu", precision="fp32")


def _file(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "evil.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def _row(item: str, folder: Path) -> None:
    row = {"name": "a", "weights": "none", "options": [item]}
    read_ablation(_file(folder, {"title": "t", "dataset": "d", "model": NAME, "rows": [row]}))


PATHS: dict[str, Callable[[str, Path], object]] = {
    "library": lambda item, _: load_sam2(NAME, "none", "cpu", "fp32", [item]),
    "checkpoint": _checkpoint,
    "stage": lambda item, folder: train_config(
        str(_file(folder, {"base": "stage2", "model": NAME, "model_options": [item]}))
    ),
    "stage override": lambda item, _: train_config("stage2", [item]),
    "classifier": lambda item, folder: classifier_config(
        str(_file(folder, {"base": "isam2_vspw", "model_options": [item]}))
    ),
    "classifier override": lambda item, _: classifier_config("isam2_vspw", [item]),
    "ablation row": _row,
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("item", CODE, ids=range(len(CODE)))
def test_code_is_refused_on_every_path_before_hydra_sees_it(path: str, item: str, tmp_path: Path) -> None:
    ours = path in ("ablation row", "stage", "stage override", "classifier override")
    if ours and not item.lstrip("+~").startswith("model."):
        pytest.skip("not in hydra's grammar, so read as a setting of ours")
    with pytest.raises(ValueError, match=r"code|expected|known|expected") as caught:
        PATHS[path](item, tmp_path)
    assert len(str(caught.value)) < 1500
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("item", PLAIN)
def test_plain_values_pass(item: str) -> None:
    assert require_plain([item], "here") == [item]
    with pytest.raises(ValueError, match="hydra was reached"):
        load_sam2(NAME, "none", "cpu", "fp32", [item])


@pytest.mark.parametrize("options", [3, "model.image_size=64", {"a": 1}, [3], [None], [["model.a=1"]], ["nonsense"]])
def test_model_options_of_another_type_are_named(options: Any, tmp_path: Path) -> None:
    for base, read in (("stage2", train_config), ("isam2_vspw", classifier_config)):
        path = _file(tmp_path, {"base": base, "model_options": options})
        with pytest.raises(ValueError, match=r"^evil.yaml.model_options: got .*, expected"):
            read(str(path))
