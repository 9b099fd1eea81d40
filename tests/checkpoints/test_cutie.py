"""Which weight files are taken, which are refused, and what the refusal says."""

import copy
import functools
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_config, tiny_geo_config
from torch import Tensor

from cutie_geo.checkpoints.cutie import COMPUTED, WIDENED, load_weights, our_name
from cutie_geo.checkpoints.tensor_files import SHOWN, read_tensors
from cutie_geo.config import model_config
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import inverse_frequencies

Weights = dict[str, Tensor]
CONV, SENSORY = WIDENED
NANO = {"vision": "hiera-nano", "vision_init": "none"}


@pytest.fixture(scope="module")
def source() -> CutieGeo:
    """Its weights are what the files of this module hold."""
    return model(1)


@pytest.fixture
def weights(source: CutieGeo) -> Weights:
    return dict(source.state_dict())


def model(seed: int, single_object: bool = False) -> CutieGeo:
    """A tiny network; no two seeds share a weight, normalisations included."""
    return copy.deepcopy(built(seed, single_object))


@functools.cache
def built(seed: int, single_object: bool) -> CutieGeo:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CutieGeo(tiny_config(single_object=single_object)).eval()
        with torch.no_grad():
            for tensor in network.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.rand_like(tensor), alpha=0.1)
    return network


def assert_same_weights(one: CutieGeo, other: CutieGeo) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def refusal(network: CutieGeo, path: Path) -> str:
    """What the ValueError says, which always begins with the file; the network is unchanged."""
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        load_weights(network, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------- official files
Wrap = Callable[[Weights], Any]
WRAPS: dict[str, Wrap] = {
    "model": lambda weights: {"model": weights, "epoch": 3},
    "state_dict": lambda weights: {"state_dict": weights},
    "network": lambda weights: {"network": weights, "optimizer": {"lr": 0.1}},
    "module prefix": lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
    "both": lambda weights: {"model": {f"module.{name}": tensor for name, tensor in weights.items()}},
}


@pytest.fixture(scope="module")
def official_model(variant: str) -> CutieGeo:
    return CutieGeo(model_config(f"cutie-{variant}")).eval()


@pytest.mark.slow
def test_every_entry_of_an_official_file_finds_its_place(official_file: Path, official_model: CutieGeo) -> None:
    tensors = torch.load(official_file, weights_only=True)
    assert load_weights(official_model, official_file) == len(tensors)
    ours = official_model.state_dict()
    names = {our_name(name) for name in tensors}
    assert len(names) == len(tensors)
    assert {name for name in ours if not name.endswith(".num_batches_tracked")} == names
    assert all(torch.equal(ours[our_name(name)], tensor) for name, tensor in tensors.items())


def test_an_official_file_may_hold_its_computed_entries(
    official_file: Path, official_model: CutieGeo, variant: str, test_data: Path, tmp_path: Path
) -> None:
    tensors = torch.load(official_file, weights_only=True)
    counts = [name.replace("running_mean", "num_batches_tracked") for name in tensors if name.endswith("running_mean")]
    full = tensors | {name: torch.tensor(0) for name in counts} | {n: inverse_frequencies(128, 128.0) for n in COMPUTED}
    assert set(full) == set(json.loads((test_data / "parity" / f"cutie_{variant}_keys.json").read_text()))
    assert load_weights(official_model, saved(full, tmp_path / "full.pth")) == len(full)


@pytest.mark.slow
def test_base_weights_are_refused_by_the_small_model_with_a_hint_and_the_other_way_round(
    official_file: Path, variant: str
) -> None:
    other = CutieGeo(model_config("cutie-small" if variant == "base" else "cutie-base"))
    message = refusal(other, official_file)
    assert f"the file looks like cutie-{variant}" in message
    assert f"do not fit a model with {other.config.encoder.vision} pixel encoder" in message
    assert "and " in message.rsplit("; ", 1)[1]


@pytest.mark.slow
def test_a_cutie_checkpoint_is_known_by_its_encoder_and_ours_is_not_taken_for_one(
    weights: Weights, tmp_path: Path
) -> None:
    message = refusal(CutieGeo(tiny_geo_config()), saved(weights, tmp_path / "cutie.pth"))
    assert "(the file looks like cutie-small; weights.warm_start takes it for all behind the encoder)" in message
    ours = CutieGeo(tiny_geo_config(encoder={**NANO, "channels": [1024, 512, 256]}))
    message = refusal(built(2, False), saved(dict(ours.state_dict()), tmp_path / "ours.pth"))
    assert "looks like" not in message


# ------------------------------------------------------------------------------------------------------- our own files
def test_our_own_weights_come_back_exactly(source: CutieGeo, weights: Weights, tmp_path: Path) -> None:
    network = model(2)
    assert load_weights(network, saved(weights, tmp_path / "w.pth")) == len(weights)
    assert_same_weights(network, source)


@pytest.mark.parametrize("name", WRAPS)
def test_wrapped_and_prefixed_weights_are_unwrapped(
    source: CutieGeo, weights: Weights, tmp_path: Path, name: str
) -> None:
    network = model(2)
    assert load_weights(network, saved(WRAPS[name](weights), tmp_path / "w.pth")) == len(weights)
    assert_same_weights(network, source)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_files_are_read_too(source: CutieGeo, weights: Weights, tmp_path: Path, prefix: str) -> None:
    path, network = tmp_path / "w.safetensors", model(2)
    save_file({prefix + name: tensor.contiguous() for name, tensor in weights.items()}, path)
    assert load_weights(network, path) == len(weights)
    assert_same_weights(network, source)


def test_our_names_pass_the_rename_table_unchanged(weights: Weights) -> None:
    assert [name for name in weights if our_name(name) != name] == []


def test_the_counts_that_nothing_reads_may_be_absent(source: CutieGeo, weights: Weights, tmp_path: Path) -> None:
    fewer = {name: tensor for name, tensor in weights.items() if not name.endswith(".num_batches_tracked")}
    network = model(2)
    assert load_weights(network, saved(fewer, tmp_path / "w.pth")) == len(fewer) < len(weights)
    assert_same_weights(network, source)


def test_half_precision_weights_are_taken_at_their_value(weights: Weights, tmp_path: Path) -> None:
    network = model(2)
    halves = {name: t.half() if t.is_floating_point() else t for name, t in weights.items()}
    load_weights(network, saved(halves, tmp_path / "w.pth"))
    assert network.sensory_head.weight.dtype == torch.float32
    assert torch.equal(network.sensory_head.weight, weights["sensory_head.weight"].half().float())


# -------------------------------------------------------------------------------------------- entries that do not fit
def test_every_entry_that_does_not_fit_is_listed(weights: Weights, tmp_path: Path) -> None:
    del weights["decoder.predict.bias"]
    weights["bogus.weight"] = torch.zeros(1)
    weights["key_projection.key.bias"] = torch.zeros(17)
    weights["sensory_head.bias"] = torch.full_like(weights["sensory_head.bias"], torch.inf)
    weights["sensory_head.weight"] = weights["sensory_head.weight"].clone()
    weights["sensory_head.weight"][0, 0] = torch.nan
    weights["decoder.skip8.bias"] = torch.zeros(32, dtype=torch.int64)
    message = refusal(built(2, False), saved(weights, tmp_path / "w.pth"))
    assert "w.pth: 6 entries do not fit" in message
    for problem in (
        "missing decoder.predict.bias",
        "extra bogus.weight",
        "shape of key_projection.key.bias: got (17,), expected (16,)",
        "non-finite numbers in sensory_head.bias",
        "non-finite numbers in sensory_head.weight",
        "type of decoder.skip8.bias: got torch.int64, expected torch.float32",
    ):
        assert problem in message


def test_a_long_list_of_problems_is_cut_and_counted(weights: Weights, tmp_path: Path) -> None:
    fewer = dict(list(weights.items())[:40])
    wanted = [name for name in list(weights)[40:] if not name.endswith(".num_batches_tracked")]
    message = refusal(built(2, False), saved(fewer, tmp_path / "w.pth"))
    assert f"w.pth: {len(wanted)} entries do not fit" in message
    assert message.count("missing ") == SHOWN
    assert message.endswith(f"; and {len(wanted) - SHOWN} more")


@pytest.mark.parametrize("kind", ["sparse", "meta"])
@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
def test_tensors_without_plain_numbers_are_refused(weights: Weights, tmp_path: Path, kind: str) -> None:
    head = weights["sensory_head.weight"]
    weights["sensory_head.weight"] = head.to_sparse() if kind == "sparse" else head.to("meta")
    refusal(built(2, False), saved(weights, tmp_path / "w.pth"))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPUTED)
def test_position_frequencies_may_be_there_but_not_those_of_another_model(
    source: CutieGeo, weights: Weights, tmp_path: Path, name: str
) -> None:
    network, path = model(2), tmp_path / "w.pth"
    load_weights(network, saved(weights | {name: inverse_frequencies(16, 128.0)}, path))
    assert_same_weights(network, source)
    for other in (inverse_frequencies(16, 10000.0), inverse_frequencies(32, 128.0), torch.full((8,), torch.nan)):
        message = refusal(network, saved(weights | {name: other}, path))
        assert f"position frequencies {name} of another model" in message


# ------------------------------------------------------------------------------------------- single and multi-object
def test_multi_object_weights_lose_their_last_channels_in_a_single_object_network(
    weights: Weights, tmp_path: Path
) -> None:
    single = model(2, single_object=True)
    load_weights(single, saved(weights, tmp_path / "w.pth"))
    state = single.state_dict()
    assert state[CONV].shape[1] == 4
    assert state[SENSORY].shape[1] == 33
    for name, tensor in weights.items():
        kept = tensor[:, :-1] if name in WIDENED else tensor
        assert torch.equal(state[name], kept)


@pytest.mark.slow
def test_single_object_weights_gain_orthogonal_channels_in_a_multi_object_network(tmp_path: Path) -> None:
    given = model(1, single_object=True).state_dict()
    multi = model(2)
    before = {name: multi.state_dict()[name].clone() for name in WIDENED}
    load_weights(multi, saved(dict(given), tmp_path / "w.pth"))
    state = multi.state_dict()
    for name, tensor in given.items():
        kept = state[name][:, :-1] if name in WIDENED else state[name]
        assert torch.equal(kept, tensor)
    for name in WIDENED:
        new = state[name][:, -1].flatten(1)
        gram = new @ new.T if new.shape[0] <= new.shape[1] else new.T @ new
        torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-5)
        assert not torch.equal(state[name][:, -1], before[name][:, -1])


@pytest.mark.slow
def test_weights_that_went_to_two_objects_and_back_are_the_same(tmp_path: Path) -> None:
    start, multi, back = model(1, single_object=True), model(2), model(3, single_object=True)
    load_weights(multi, saved(dict(start.state_dict()), tmp_path / "single.pth"))
    load_weights(back, saved(dict(multi.state_dict()), tmp_path / "multi.pth"))
    assert_same_weights(back, start)


@pytest.mark.parametrize("name", WIDENED)
@pytest.mark.parametrize("single", [False, True], ids=["multi", "single"])
def test_widths_that_no_network_has_are_not_converted(tmp_path: Path, name: str, single: bool) -> None:
    """One channel too many for a multi-object network, or one too few for a single-object one."""
    network = model(2, single_object=single)
    given = dict(network.state_dict())
    given[name] = given[name][:, :-1] if single else torch.cat([given[name], given[name][:, :1]], dim=1)
    assert f"shape of {name}" in refusal(network, saved(given, tmp_path / "w.pth"))


# ----------------------------------------------------------------------------------------------------- damaged files
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"404: Not Found", b"PK\x03\x04 and no more", b"\x80\x02garbage", b"\x80\x02]q\x00.", b"\0" * 4096],
    ids=["empty", "text", "zip", "pickle", "list", "zeros"],
)
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    refusal(built(2, False), path)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_named(weights: Weights, tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        saved(weights, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "damaged" in refusal(built(2, False), path)


def test_an_archive_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    assert "damaged or no weights" in refusal(built(2, False), path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"model": {}}, {"model": {"a": 1}}, [torch.zeros(1)], 7])
def test_a_file_without_named_tensors_is_named(tmp_path: Path, content: Any) -> None:
    assert "got no named tensors" in refusal(built(2, False), saved(content, tmp_path / "w.pth"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "no such weights file" in refusal(built(2, False), tmp_path / "none.pth")
    assert "no such weights file" in refusal(built(2, False), tmp_path)


class Command:
    """Unpickles by running something."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("way", ["os.system", "open", "exec", "pickle 2", "pickle 4"])
@pytest.mark.parametrize("place", ["alone", "beside weights"])
def test_code_in_a_file_is_refused_and_does_not_run(weights: Weights, tmp_path: Path, way: str, place: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "w.pth"
    command = {
        "os.system": Command(os.system, f"touch {trace}"),
        "open": Command(open, str(trace), "w"),
        "exec": Command(exec, f"open({str(trace)!r}, 'w').close()"),
    }.get(way, Command(os.system, f"touch {trace}"))
    content = command if place == "alone" else {"model": weights, "extra": command}
    if way.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(way[-1])))
    else:
        saved(content, path)
    message = refusal(built(2, False), path)
    # newer pickles are no format of PyTorch's, which does not look into them
    assert ("damaged or no weights" if way == "pickle 4" else "pickled code or objects, refused") in message
    assert "weights_only" not in message
    assert not trace.exists()


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_many_entries_is_refused_before_it_is_read(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 MB of them took a minute."""
    path, content = tmp_path / "w.pth", {"model": {f"{i:060d}": i for i in range(20_000)}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.setenv("CUTIE_GEO_MAX_PICKLE_MIB", "1")
    message = refusal(built(2, False), path)
    assert "bytes around the tensors, expected at most 1048576" in message
    assert "--max-pickle-mib raises the limit" in message
    monkeypatch.setenv("CUTIE_GEO_MAX_PICKLE_MIB", "9")
    assert "got no named tensors" in refusal(built(2, False), path)


def test_names_and_tensors_are_given_as_they_stand_in_the_file(tmp_path: Path) -> None:
    content = {"module.a.module.b": torch.arange(3), "c": torch.zeros(2, dtype=torch.float16)}
    tensors = read_tensors(saved(content, tmp_path / "w.pth"))
    assert list(tensors) == ["a.module.b", "c"]
    assert torch.equal(tensors["a.module.b"], torch.arange(3))
    assert tensors["c"].dtype == torch.float16
