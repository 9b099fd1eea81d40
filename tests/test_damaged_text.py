"""YAML, JSON and overrides that would take a program down are refused in one line."""

from pathlib import Path

import pytest

from cutie_geo.checkpoints.tensor_files import read_tensors
from cutie_geo.config import model_config, parse_overrides, read_json, train_config

ROWS = [f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else 'x'] * 10)}]" for i in range(9)]
DAMAGED = {
    "brackets": "[" * 5000,
    "braces": "{a: " * 5000,
    "deep": "a: " + "[" * 100 + "]" * 100,
    "cycle": "a: &a [*a]",
    "bomb": "\n".join(ROWS),
    "date": "a: 2021-13-45",
    "digits": "a: " + "9" * 5000,
    "list as a key": "{[1]: 2}",
    "code": "a: !!python/object/apply:os.system [true]",
    "mapping as a key": "? {a: b}",
    "NUL": "\0",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGED)
def test_yaml_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(DAMAGED[name], encoding="utf-8")
    for read in (train_config, model_config):
        with pytest.raises(ValueError, match=r"evil\.yaml") as caught:
            read(str(path))
        assert len(str(caught.value)) < 1000
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("item", [".".join(["a"] * 5000) + "=1", "a=" + "[" * 5000, "a=" + "{a: " * 5000])
def test_overrides_nested_deeply_are_one_line(item: str) -> None:
    with pytest.raises(ValueError, match=r"^override '.*nested too deeply") as caught:
        parse_overrides([item])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["[" * 5000, "[" * 500_000, '{"a": ' + "9" * 5000 + "}", "{", "\ufffe"])
def test_json_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "evil.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"evil\.json: cannot be read as JSON") as caught:
        read_json(tmp_path / "evil.json")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("header", [b"[" * 5000, b'{"a":' * 5000], ids=["brackets", "braces"])
def test_headers_of_safetensors_nested_deeply_are_one_line(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"evil\.safetensors") as caught:
        read_tensors(path)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
