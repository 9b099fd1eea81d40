"""Our own checkpoints: what is stored, what is only named, what comes back, and what is refused."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import TINY_GEO_YAML, TINY_YAML, randomised, tiny_config, tiny_geo_config

from cutie_geo.checkpoints.catalogue import CATALOGUE, digest
from cutie_geo.checkpoints.hub import save_pretrained
from cutie_geo.checkpoints.load import load_model
from cutie_geo.checkpoints.saving import ENTRY, checkpoint_file, read_description, save_checkpoint
from cutie_geo.checkpoints.tensor_files import read_metadata
from cutie_geo.model.encoder import FusedEncoder
from cutie_geo.model.network import CutieGeo
from cutie_geo.structures import FrozenFile

VISION, GEOMETRY = "sam2.1_hiera_tiny.pt", "depth_anything_v2_vits.safetensors"
FROZEN_YAML = TINY_YAML.replace("{vision: resnet18}", "{vision: hiera-tiny, channels: [48, 32, 24]}")
"""SAM 2.1's smallest encoder, frozen, and no geometry."""
BOTH = ("encoder.geometry=depth-anything-v2-small",)


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUTIE_GEO_CACHE", str(tmp_path / "cache"))
    # whatever is not found must not be looked for elsewhere
    monkeypatch.setattr("cutie_geo.checkpoints.catalogue.urlopen", refuse)


def refuse(*_: object, **__: object) -> None:
    raise OSError("no network in tests")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files in the form of the published encoders, with random numbers, and of our configurations."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "nano.yaml").write_text(TINY_GEO_YAML)
    (folder / "frozen.yaml").write_text(FROZEN_YAML)
    torch.manual_seed(0)
    encoder = load_model(str(folder / "frozen.yaml"), "none", "cpu", "fp32", BOTH).encoder
    assert isinstance(encoder, FusedEncoder)
    assert encoder.geometry is not None
    vision = randomised(encoder.vision).half().state_dict()
    torch.save({"model": {f"image_encoder.{name}": tensor for name, tensor in vision.items()}}, folder / VISION)
    depth = randomised(encoder.geometry.model).half().state_dict()
    save_file({name: tensor.contiguous() for name, tensor in depth.items()}, folder / GEOMETRY)
    return folder


@pytest.fixture(scope="module")
def nano() -> CutieGeo:
    """All of it is trained, and so stored."""
    torch.manual_seed(1)
    return randomised(CutieGeo(tiny_geo_config())).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def frozen(published: Path, seed: int = 1, overrides: tuple[str, ...] = ()) -> CutieGeo:
    """A network beside a published encoder; what is trained depends on `seed`."""
    files = [f"weights.vision={published / VISION}", *overrides]
    model = load_model(str(published / "frozen.yaml"), "none", "cpu", "fp32", files)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not name.startswith(("encoder.vision.", "encoder.geometry.")):
                tensor.add_(0.01 * seed)
    return model


@pytest.fixture(scope="module")
def saved(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint beside a frozen vision encoder; tests copy it before they change it."""
    return save_checkpoint(frozen(published), tmp_path_factory.mktemp("saved")).parent


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def assert_same(one: CutieGeo, other: CutieGeo) -> None:
    """The same tensors and, at the sizes of a small frame, the same features."""
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        got, wanted = one.encode(image), other.encode(image)
    assert torch.equal(got.key, wanted.key)
    assert torch.equal(got.f4, wanted.f4)


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The weights file with what it says about itself changed; without the configuration beside it."""
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()[ENTRY])
    changed = change(content)
    text = changed if isinstance(changed, str) else json.dumps(changed or content)
    save_file(load_file(path), path, metadata={ENTRY: text})
    (path.parent / "config.json").unlink(missing_ok=True)
    return path


# ------------------------------------------------------------------------------------------------ there and back again
def test_a_network_without_published_parts_comes_back_whole(nano: CutieGeo, tmp_path: Path) -> None:
    path = save_checkpoint(nano, tmp_path / "new" / "folder")
    assert path == tmp_path / "new/folder/model.safetensors"
    assert load_file(path).keys() == nano.state_dict().keys()
    assert_same(load_model(str(path.parent), device="cpu", precision="fp32"), nano)


@pytest.mark.slow
def test_a_checkpoint_may_be_named_by_folder_or_by_file_beside_its_configuration(
    nano: CutieGeo, published: Path, tmp_path: Path
) -> None:
    folder = save_checkpoint(nano, tmp_path).parent
    for weights in (folder, str(folder), folder / "model.safetensors"):
        assert_same(load_model(str(published / "nano.yaml"), weights, "cpu", "fp32"), nano)


def test_a_weights_file_is_enough_by_itself(nano: CutieGeo, tmp_path: Path) -> None:
    folder = save_checkpoint(nano, tmp_path).parent
    (folder / "config.json").unlink()
    assert_same(load_model(str(folder), device="cpu", precision="fp32"), nano)


@pytest.mark.slow
def test_the_configuration_that_comes_back_knows_no_paths(published: Path, saved: Path) -> None:
    description = read_description(saved / "model.safetensors")
    assert description is not None
    assert description.model == replace(frozen(published).config, weights=description.model.weights)
    assert description.model.weights == type(description.model.weights)()
    assert str(published) not in (saved / "config.json").read_text()


def test_frozen_parts_are_named_and_not_stored(published: Path, saved: Path) -> None:
    names = load_file(saved / "model.safetensors").keys()
    model = frozen(published)
    assert names == {name for name in model.state_dict() if not name.startswith("encoder.vision.")}
    assert any(name.startswith("encoder.fusion.") for name in names)
    sha256 = digest(published / VISION, "sha256")
    assert model.frozen_files == {"vision": FrozenFile(VISION, sha256)}
    assert json.loads((saved / "config.json").read_text())["frozen"] == {"vision": {"name": VISION, "sha256": sha256}}


@pytest.mark.slow
def test_both_frozen_parts_are_named_and_come_back_from_files_given(published: Path, tmp_path: Path) -> None:
    files = (f"weights.vision={published / VISION}", f"weights.geometry={published / GEOMETRY}")
    model = frozen(published, 1, (*BOTH, files[1]))
    folder = save_checkpoint(model, tmp_path).parent
    content = json.loads((folder / "config.json").read_text())
    assert {part: file["name"] for part, file in content["frozen"].items()} == {"vision": VISION, "geometry": GEOMETRY}
    assert not any(".vision." in name or ".geometry." in name for name in load_file(folder / "model.safetensors"))
    assert_same(load_model(str(folder), "auto", "cpu", "fp32", files), model)


@pytest.mark.slow
def test_files_of_frozen_parts_may_have_any_name(published: Path, saved: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a: b #c" / "1.pt"
    odd.parent.mkdir()
    shutil.copy(published / VISION, odd)
    for file in (published / VISION, str(odd)):
        override = f"weights.vision={json.dumps(str(file))}"  # quoted, since the name holds YAML's own marks
        assert_same(load_model(str(saved), "auto", "cpu", "fp32", [override]), frozen(published))


def test_frozen_parts_in_half_precision_leave_the_checkpoint_as_it_was(
    published: Path, saved: Path, tmp_path: Path
) -> None:
    model = load_model(str(saved), "auto", "cpu", "bf16", [f"weights.vision={published / VISION}"])
    again = load_file(save_checkpoint(model, tmp_path))
    before = load_file(saved / "model.safetensors")
    assert again.keys() == before.keys()
    assert all(torch.equal(again[name], before[name]) for name in before)


@pytest.mark.slow
def test_a_published_encoder_that_is_trained_on_is_stored(published: Path, tmp_path: Path) -> None:
    model = frozen(published, 1, ("encoder.freeze=false",))
    assert model.frozen_files == {}
    path = save_checkpoint(model, tmp_path)
    assert load_file(path).keys() == model.state_dict().keys()
    assert_same(load_model(str(tmp_path), device="cpu", precision="fp32"), model)
    with pytest.raises(ValueError, match=r"weights\.vision: got .* holds its own vision encoder"):
        load_model(str(tmp_path), "auto", "cpu", "fp32", [f"weights.vision={published / VISION}"])


@pytest.mark.slow
def test_training_may_go_on_with_the_encoder_unfrozen(published: Path, saved: Path, tmp_path: Path) -> None:
    files = ["encoder.freeze=false", f"weights.vision={published / VISION}"]
    by_folder = load_model(str(saved), "auto", "cpu", "fp32", files)
    by_name = load_model(str(published / "frozen.yaml"), saved, "cpu", "fp32", files)
    for model in (by_folder, by_name):
        assert model.frozen_files == {}
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert_same(model, frozen(published))


# ---------------------------------------------------------------------------------------------------- frozen files
@pytest.mark.slow
def test_a_frozen_file_beside_the_checkpoint_is_found(published: Path, copied: Path) -> None:
    shutil.copy(published / VISION, copied / VISION)
    assert_same(load_model(str(copied), device="cpu", precision="fp32"), frozen(published))


@pytest.mark.slow
@pytest.mark.parametrize("stated_by_hub", [False, True])
def test_a_frozen_file_of_the_catalogue_is_found_in_the_cache(
    published: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated_by_hub: bool
) -> None:
    sha256 = None if stated_by_hub else digest(published / VISION, "sha256")
    entry = replace(CATALOGUE["sam2.1-hiera-tiny"], sha256=sha256, stated_by_hub=stated_by_hub)
    monkeypatch.setitem(CATALOGUE, "sam2.1-hiera-tiny", entry)
    (tmp_path / "cache").mkdir()
    shutil.copy(published / VISION, tmp_path / "cache" / VISION)
    assert_same(load_model(str(saved), device="cpu", precision="fp32"), frozen(published))


def test_a_frozen_file_that_is_nowhere_is_named_with_the_way_to_point_at_it(saved: Path) -> None:
    with pytest.raises(ValueError, match="which is not next to it") as caught:
        load_model(str(saved), device="cpu")
    assert f"needs the vision encoder {VISION}" in str(caught.value)
    assert "weights.vision=FILE sets its path" in str(caught.value)


def test_a_frozen_file_called_like_the_checkpoint_is_not_taken_for_it(copied: Path) -> None:
    rewritten(copied / "model.safetensors", lambda c: c["frozen"]["vision"].update(name="model.safetensors"))
    with pytest.raises(ValueError, match="which is not next to it"):
        load_model(str(copied), device="cpu")


@pytest.mark.parametrize("place", ["given", "beside"])
def test_other_frozen_weights_are_refused_with_both_digests(published: Path, copied: Path, place: str) -> None:
    content = torch.load(published / VISION, weights_only=True)
    content["model"]["image_encoder.trunk.patch_embed.proj.bias"] += 1
    other = copied / VISION
    torch.save(content, other)
    overrides = [f"weights.vision={other}"] if place == "given" else []
    with pytest.raises(ValueError, match="was trained beside the vision encoder") as caught:
        load_model(str(copied), "auto", "cpu", "fp32", overrides)
    assert digest(other, "sha256") in str(caught.value)
    assert digest(published / VISION, "sha256") in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- refusals
def test_a_checkpoint_of_another_model_is_refused_with_the_settings_that_differ(saved: Path, published: Path) -> None:
    changes = ["num_blocks=1", "encoder.geometry=depth-anything-v2-small"]
    with pytest.raises(ValueError, match="not a checkpoint of") as caught:
        load_model(str(published / "frozen.yaml"), saved, "cpu", "fp32", changes)
    message = str(caught.value)
    assert "num_blocks 2, expected 1" in message
    assert "encoder.geometry none, expected depth-anything-v2-small" in message
    assert "key_dim" not in message
    assert "weights." not in message


def test_the_configuration_of_another_checkpoint_is_refused(nano: CutieGeo, copied: Path, tmp_path: Path) -> None:
    other = save_checkpoint(nano, tmp_path / "other").parent
    shutil.copy(other / "config.json", copied / "config.json")
    with pytest.raises(ValueError, match=r"config\.json: describes another checkpoint than model\.safetensors"):
        load_model(str(copied), device="cpu")


@pytest.mark.parametrize("text", ["", "{", "[1, 2"])
def test_a_damaged_configuration_is_named(copied: Path, text: str) -> None:
    (copied / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: cannot be read as JSON"):
        load_model(str(copied), device="cpu")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: "{", "its entry cutie_geo is damaged"),
        (lambda c: "[]", "its entry cutie_geo is damaged"),
        (lambda c: c | {"format": 3}, "unknown format; got 3, expected at most 2"),
        (lambda c: {"format": 1}, "damaged description, no model and no frozen"),
        (lambda c: c | {"model": 3}, "damaged description, no model in it"),
        (lambda c: c | {"frozen": {"vision": 3}}, "damaged description, its frozen vision"),
        (lambda c: c | {"frozen": {"neck": c["frozen"]["vision"]}}, "damaged description, its frozen neck"),
        (lambda c: c["frozen"]["vision"].update(name="../x.pt"), r"its frozen vision is '\.\./x\.pt'"),
        (lambda c: c["frozen"]["vision"].update(name=""), "its frozen vision is ''"),
        (lambda c: c["frozen"]["vision"].update(sha256="12"), "with SHA-256 '12'"),
        (lambda c: c["model"].update(depth=3), "model: unknown depth"),
    ],
)
def test_a_damaged_header_is_named(copied: Path, change: Callable[[dict[str, Any]], Any], complaint: str) -> None:
    path = rewritten(copied / "model.safetensors", change)
    with pytest.raises(ValueError, match=complaint) as caught:
        load_model(str(copied), device="cpu")
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_checkpoint_is_named(copied: Path, share: float) -> None:
    path = copied / "model.safetensors"
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged or not a safetensors file"):
        load_model(str(copied), device="cpu")


def test_a_checkpoint_that_lacks_tensors_is_refused(published: Path, copied: Path) -> None:
    path = copied / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        said = file.metadata()
    tensors = load_file(path)
    tensors.pop("sensory_head.bias")
    save_file(tensors, path, metadata=said)
    with pytest.raises(ValueError, match=r"1 entries do not fit .*missing sensory_head\.bias"):
        load_model(str(copied), "auto", "cpu", "fp32", [f"weights.vision={published / VISION}"])


def test_a_folder_without_weights_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model\.safetensors in this folder"):
        load_model(str(tmp_path), device="cpu")
    with pytest.raises(ValueError, match=r"no model\.safetensors in this folder"):
        load_model("cutie-small", tmp_path, "cpu")


def test_a_folder_with_others_weights_does_not_say_what_it_is(nano: CutieGeo, tmp_path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in nano.state_dict().items()}, tmp_path / "model.safetensors")
    assert checkpoint_file(tmp_path).name == "model.safetensors"
    assert read_description(tmp_path / "model.safetensors") is None
    with pytest.raises(ValueError, match="has no description of its model"):
        load_model(str(tmp_path), device="cpu")


def test_a_checkpoint_brings_its_own_weights(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"weights: got none for .*, which has its own weights; expected auto"):
        load_model(str(saved), "none", "cpu")


def test_overrides_of_a_checkpoint_are_checked(saved: Path) -> None:
    with pytest.raises(ValueError, match="unknown depth"):
        load_model(str(saved), "auto", "cpu", overrides=["depth=3"])


# ----------------------------------------------------------------------------------------------------------- writing
@pytest.mark.slow
def test_saving_again_replaces_the_older_checkpoint(published: Path, nano: CutieGeo, tmp_path: Path) -> None:
    save_checkpoint(frozen(published), tmp_path)
    save_checkpoint(nano, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert_same(load_model(str(tmp_path), device="cpu", precision="fp32"), nano)


def test_saving_twice_gives_the_same_bytes(nano: CutieGeo, tmp_path: Path) -> None:
    written = {save_checkpoint(nano, tmp_path / str(i)).read_bytes() for i in range(8)}
    assert len(written) == 1


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_have_the_permissions_that_the_user_gives_new_files(
    nano: CutieGeo, tmp_path: Path, mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        save_checkpoint(nano, tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


@pytest.mark.slow
@pytest.mark.parametrize("pretrained", [False, True], ids=["save_checkpoint", "save_pretrained"])
def test_a_failed_save_leaves_the_old_checkpoint_as_it_was(
    published: Path, nano: CutieGeo, copied: Path, pretrained: bool
) -> None:
    """The system refuses files as large as this checkpoint, as a full disk would."""
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"model\.safetensors: cannot be written"):
            (save_pretrained if pretrained else save_checkpoint)(nano, copied)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    files = [f"weights.vision={published / VISION}"]
    assert_same(load_model(str(copied), "auto", "cpu", "fp32", files), frozen(published))


def test_a_place_that_is_no_folder_is_an_error(nano: CutieGeo, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        save_checkpoint(nano, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_checkpoint_of_the_first_format_keeps_its_model_s_defaults(tmp_path: Path):
    config = tiny_config()
    path = save_checkpoint(CutieGeo(config), tmp_path)
    content = read_metadata(path, ENTRY)
    assert content is not None
    for new, old in (("max_internal_size", "frame_size"), ("mem_every", "memory_interval"), ("top_k", "tokens_read")):
        del content["model"][new]
        content["model"][old] = 64
    text = json.dumps(content | {"format": 1})
    save_file(load_file(path), path, metadata={ENTRY: text})
    described = read_description(path)
    assert described is not None
    assert (described.model.max_internal_size, described.model.mem_every, described.model.top_k) == (64, 64, 64)
