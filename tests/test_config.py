"""What configurations accept, how they are loaded and overridden, and what their errors name."""

from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from cutie_geo.config import (
    EncoderConfig,
    LongTermConfig,
    ModelConfig,
    TrackerConfig,
    build,
    merge,
    model_config,
    parse_overrides,
    preset_names,
    read_yaml,
    to_dict,
    train_config,
)
from cutie_geo.model.network import CutieGeo


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    steps: int = 1


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    mode: Literal["fast", "slow"] = "fast"
    level: Literal[1, 2] = 1
    sizes: tuple[int, ...] = ()
    pair: tuple[int, str] = (0, "")
    limit: int | None = None
    amount: int | float = 0
    folder: Path | None = None


# ---------------------------------------------------------------------------------------------------------- building
def test_absent_names_keep_their_defaults() -> None:
    assert build(Outer, {"name": "a"}) == Outer("a")
    assert build(TrackerConfig, {}) == TrackerConfig()
    assert build(ModelConfig, {}) == ModelConfig()


def test_a_nested_mapping_becomes_a_nested_configuration() -> None:
    assert build(Outer, {"name": "a", "inner": {"rate": 2.5}}) == Outer("a", Inner(2.5, 1))
    options = {"use_long_term": True, "long_term": {"num_prototypes": 7}}
    assert build(TrackerConfig, options) == TrackerConfig(
        use_long_term=True, long_term=LongTermConfig(num_prototypes=7)
    )


def test_a_ready_nested_configuration_is_taken_as_it_is() -> None:
    inner = Inner(3.0)
    assert build(Outer, {"name": "a", "inner": inner}).inner is inner


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"inner": {"rate": 2}}, "inner", Inner(2.0)),
        ({"sizes": [1, 2, 3]}, "sizes", (1, 2, 3)),
        ({"sizes": []}, "sizes", ()),
        ({"pair": [4, "x"]}, "pair", (4, "x")),
        ({"limit": None}, "limit", None),
        ({"limit": 5}, "limit", 5),
        ({"amount": 0.5}, "amount", 0.5),
        ({"mode": "slow"}, "mode", "slow"),
        ({"level": 2}, "level", 2),
        ({"folder": Path("x")}, "folder", Path("x")),
    ],
)
def test_values_of_the_right_type_arrive(given: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(build(Outer, {"name": "a"} | given), name) == value


def test_whole_numbers_become_floats_where_floats_are_wanted() -> None:
    assert type(build(Inner, {"rate": 2}).rate) is float


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"name": 3}, "options.name"),
        ({"inner": 3}, "options.inner"),
        ({"inner": None}, "options.inner"),
        ({"inner": {"steps": True}}, "options.inner.steps"),
        ({"inner": {"steps": 1.0}}, "options.inner.steps"),
        ({"inner": {"steps": "1"}}, "options.inner.steps"),
        ({"inner": {"rate": True}}, "options.inner.rate"),
        ({"inner": {"rate": "1.0"}}, "options.inner.rate"),
        ({"mode": "medium"}, "options.mode"),
        ({"mode": ["fast"]}, "options.mode"),
        ({"level": True}, "options.level"),
        ({"level": 1.0}, "options.level"),
        ({"sizes": 1}, "options.sizes"),
        ({"sizes": [1, "2"]}, r"options.sizes\[1\]"),
        ({"sizes": [True]}, r"options.sizes\[0\]"),
        ({"pair": [1]}, "options.pair"),
        ({"pair": ["x", 1]}, r"options.pair\[0\]"),
        ({"limit": "none"}, "options.limit"),
        ({"limit": False}, "options.limit"),
    ],
)
def test_values_of_another_type_are_refused_by_place(given: dict[str, Any], place: str) -> None:
    with pytest.raises(ValueError, match=rf"^{place}: got .*, expected"):
        build(Outer, {"name": "a"} | given, "options")


def test_an_unknown_name_is_refused_beside_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^options: unknown bogus, naem; known are name, inner, mode"):
        build(Outer, {"naem": "a", "bogus": 1}, "options")
    with pytest.raises(ValueError, match=r"^options\.inner: unknown 3, speed; known are rate, steps$"):
        build(Outer, {"name": "a", "inner": {"speed": 1, 3: 4}}, "options")


def test_a_missing_name_without_a_default_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^options: missing name$"):
        build(Outer, {}, "options")


def test_a_value_that_can_not_work_is_refused_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"^options\.long_term\b.*num_prototypes: got 0, expected a positive number$"):
        build(TrackerConfig, {"long_term": {"num_prototypes": 0}}, "options")
    with pytest.raises(ValueError, match=r"^options: mem_every: got 0, expected 1 or more$"):
        build(TrackerConfig, {"mem_every": 0}, "options")


def test_a_wrong_type_in_a_group_is_named_in_full() -> None:
    with pytest.raises(ValueError, match=r"^options\.long_term\.num_prototypes: got 1\.5 \(float\), expected int$"):
        build(TrackerConfig, {"long_term": {"num_prototypes": 1.5}}, "options")


def test_configurations_can_not_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        TrackerConfig().mem_every = 3  # type: ignore[misc]


# --------------------------------------------------------------------------------------------- values that cannot work
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        *[({name: 0}, name) for name in ("key_dim", "value_dim", "num_queries", "num_heads", "num_blocks")],
        ({"feedforward_dim": 0}, "feedforward_dim"),
        ({"decoder_dim": -1}, "decoder_dim"),
        ({"num_queries": 15}, "an even number"),
        ({"value_dim": 252}, "a multiple of num_heads=8"),
        ({"value_dim": 30, "num_heads": 2}, "a multiple of 4"),
    ],
)
def test_model_sizes_that_can_not_work_are_refused(changes: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ModelConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"min_mem_frames": 1}, "min_mem_frames: got 1, expected at least 2"),
        ({"max_mem_frames": 5}, "expected more than min_mem_frames=5"),
        ({"num_prototypes": 0}, "num_prototypes: got 0"),
        ({"buffer_tokens": -1}, "buffer_tokens: got -1"),
        ({"max_num_tokens": 2127}, r"at least num_prototypes \+ buffer_tokens = 2128"),
    ],
)
def test_long_term_limits_that_can_not_work_are_refused(changes: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        LongTermConfig(**changes)  # type: ignore[arg-type]


def test_long_term_limits_at_their_bounds_work() -> None:
    LongTermConfig(max_mem_frames=3, min_mem_frames=2, num_prototypes=1, max_num_tokens=1, buffer_tokens=0)
    LongTermConfig(max_num_tokens=2128)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        *[({name: 0}, f"{name}: got 0, expected 1") for name in ("mem_every", "stagger_updates", "top_k")],
        ({"max_mem_frames": 0}, "max_mem_frames: got 0"),
        *[({name: 0}, f"{name}: got 0, expected -1") for name in ("chunk_size", "max_internal_size")],
        ({"max_internal_size": 1}, "max_internal_size: got 1, expected -1 or at least 16 pixels"),
        ({"min_internal_size": 0}, "min_internal_size: got 0, expected -1"),
        ({"min_internal_size": 15}, "min_internal_size: got 15, expected -1 or at least 16 pixels"),
        ({"chunk_size": -2}, "chunk_size: got -2"),
    ],
)
def test_tracker_options_that_can_not_work_are_refused(changes: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        TrackerConfig(**changes)  # type: ignore[arg-type]


def test_tracker_options_at_their_bounds_work() -> None:
    TrackerConfig(mem_every=1, stagger_updates=1, max_mem_frames=1, top_k=1, chunk_size=1, max_internal_size=16)


# -------------------------------------------------------------------------------------------------------------- YAML
def test_a_yaml_file_is_read_as_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("encoder: {vision: resnet18}\nkey_dim: 16 # remark\n")
    assert read_yaml(path) == {"encoder": {"vision": "resnet18"}, "key_dim": 16}


def test_an_empty_yaml_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a: [1, 2", "cannot be read as YAML"),
        (b"a: 1\n b: 2", "cannot be read as YAML"),
        (b"\xff\xfe\xfa", "cannot be read as YAML"),
        (b"a: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        (b"- 1\n- 2\n", "got list, expected a mapping"),
        (b"just words", "got str, expected a mapping"),
        (b"false", "got bool, expected a mapping"),
    ],
)
def test_a_bad_yaml_file_is_named_in_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_yaml_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.yaml: cannot be read as YAML: .*No such file"):
        read_yaml(tmp_path / "none.yaml")


# --------------------------------------------------------------------------------------------------------- overrides
def test_overrides_are_read_as_yaml_under_their_groups() -> None:
    given = ["a.b=1", "c=x", "a.d.e=[1, 2]", "t=true", "f=1.5", "n=null", "s='7'", "eq=a=b", "empty="]
    expected = {"a": {"b": 1, "d": {"e": [1, 2]}}, "c": "x", "t": True, "f": 1.5, "n": None, "s": "7", "eq": "a=b"}
    assert parse_overrides(given) == expected | {"empty": None}


def test_the_last_override_of_a_name_wins() -> None:
    assert parse_overrides(["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}
    assert parse_overrides(["a=1", "a.b=2"]) == {"a": {"b": 2}}


@pytest.mark.parametrize("item", ["mem_every", "=3", "a..b=3", ".a=3", "a.=3", ""])
def test_an_override_without_a_name_or_a_value_is_refused(item: str) -> None:
    with pytest.raises(ValueError, match=r"^override '.*': expected name=value or group\.name=value$"):
        parse_overrides([item])


def test_an_override_with_an_unreadable_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^override 'a=\[1': cannot read the value '\[1': .*"):
        parse_overrides(["a=[1"])


def test_merging_goes_group_by_group_and_leaves_its_arguments_alone() -> None:
    base, changes = {"a": {"b": 1, "c": 2}, "d": 3, "g": {"x": 1}}, {"a": {"b": 9, "e": 4}, "f": 5, "g": 7}
    assert merge(base, changes) == {"a": {"b": 9, "c": 2, "e": 4}, "d": 3, "f": 5, "g": 7}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3, "g": {"x": 1}}
    assert changes == {"a": {"b": 9, "e": 4}, "f": 5, "g": 7}
    assert merge({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}}


# ----------------------------------------------------------------------------------------------------------- presets
def test_every_preset_loads() -> None:
    encoders = {
        "cutie-base": EncoderConfig("resnet50"),
        "cutie-geo-base": EncoderConfig("hiera-base-plus", geometry="depth-anything-v2-base"),
        "cutie-geo-large": EncoderConfig("hiera-large", geometry="depth-anything-v2-large"),
        "cutie-geo-small": EncoderConfig("hiera-small", geometry="depth-anything-v2-small"),
        "cutie-small": EncoderConfig("resnet18"),
    }
    assert preset_names() == [*list(encoders)[:3], "cutie-geo-nano", "cutie-geo-small", "cutie-geo-tiny", "cutie-small"]
    assert {name: model_config(name) for name in encoders} == {
        name: ModelConfig(encoder=encoder) for name, encoder in encoders.items()
    }


@pytest.mark.slow
def test_the_tiny_preset_is_trained_as_a_whole_and_has_at_most_12_million_parameters() -> None:
    config = model_config("cutie-geo-tiny")
    assert config.encoder.starts == {}
    assert config.encoder.frozen == ()
    assert sum(parameter.numel() for parameter in CutieGeo(config).parameters()) <= 12e6


@pytest.mark.parametrize("size", ["large", "base", "small"])
def test_the_papers_presets_start_frozen_from_published_weights(size: str) -> None:
    encoder = model_config(f"cutie-geo-{size}").encoder
    assert encoder.starts == {"vision": "sam2.1", "geometry": "depth-anything-v2"}
    assert encoder.frozen == ("vision", "geometry")


@pytest.mark.parametrize(
    ("changes", "starts", "frozen"),
    [
        (["encoder.geometry=none"], {"vision": "sam2.1"}, ("vision",)),
        (["encoder.vision_init=mae"], {"vision": "mae", "geometry": "depth-anything-v2"}, ("vision", "geometry")),
        (["encoder.vision_init=none"], {"geometry": "depth-anything-v2"}, ("geometry",)),
        (["encoder.freeze=false"], {"vision": "sam2.1", "geometry": "depth-anything-v2"}, ()),
        (["encoder.vision_init=none", "encoder.geometry_init=none"], {}, ()),
    ],
)
def test_only_what_starts_from_published_weights_is_frozen(
    changes: list[str], starts: dict[str, str], frozen: tuple[str, ...]
) -> None:
    encoder = model_config("cutie-geo-small", changes).encoder
    assert (encoder.starts, encoder.frozen) == (starts, frozen)


def test_a_resnet_starts_from_no_file_of_its_own() -> None:
    assert EncoderConfig("resnet50").starts == {}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"vision": "resnet50", "geometry": "depth-nano"}, "geometry: got depth-nano with resnet50"),
        (
            {"vision": "hiera-nano"},
            "vision_init: got sam2.1 with hiera-nano, which is not published; expected none",
        ),
        ({"vision": "hiera-tiny", "geometry": "depth-nano"}, "geometry_init: got depth-anything-v2 with depth-nano"),
        ({"vision": "hiera-tiny", "vision_init": "mae", "vision_features": "fpn"}, "which has no feature pyramid"),
        ({"channels": (32, 0, 8)}, "channels: got \\(32, 0, 8\\), expected positive"),
    ],
)
def test_encoders_that_do_not_exist_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        EncoderConfig(**changes)


def test_overrides_win_over_the_preset() -> None:
    config = model_config("cutie-small", ["encoder.vision=resnet50", "num_blocks=2"])
    assert (config.encoder.vision, config.num_blocks, config.key_dim) == ("resnet50", 2, 64)


def test_a_yaml_file_is_a_model_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("value_dim: 64\n")
    assert model_config(str(path), ["num_heads=4"]) == ModelConfig(value_dim=64, num_heads=4)


@pytest.mark.parametrize("name", ["cutie-huge", "none.yaml", "", ".", "../models/cutie-huge"])
def test_an_unknown_model_is_refused_beside_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"no such model; expected one of cutie-base, .*cutie-small, or a YAML file"):
        model_config(name)


def test_mistakes_in_a_model_file_are_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("encoder: {vision: resnet34}\n")
    with pytest.raises(ValueError, match=r"^mine\.yaml\.encoder: vision: got 'resnet34', expected one of 'resnet50'"):
        model_config(str(path))
    with pytest.raises(ValueError, match=r"^cutie-small\.yaml: unknown depth"):
        model_config("cutie-small", ["depth=3"])


def test_stages_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: tiny_rendered\npictures_every: 7\n")
    assert train_config(str(path)).images_every == 7
    assert train_config("tiny_rendered", ["pictures_every=3"]).images_every == 3


# ---------------------------------------------------------------------------------------------------------- writing
@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(encoder=EncoderConfig("resnet18"), key_dim=16, position_scale=3.5, single_object=True),
        TrackerConfig(mem_every=3, use_long_term=True, long_term=LongTermConfig(num_prototypes=9, count_usage=False)),
        Outer("a", Inner(0.5, 2), "slow", 2, (1, 2), (3, "x"), 4, 0.25),
    ],
    ids=["model", "tracker", "other"],
)
def test_a_written_configuration_reads_back_as_itself(config: Any) -> None:
    plain = to_dict(config)
    assert build(type(config), plain) == config
    if not isinstance(config, Outer):
        assert build(type(config), yaml.safe_load(yaml.safe_dump(plain))) == config
