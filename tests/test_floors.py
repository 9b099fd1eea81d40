"""Releases below which files can run code are refused at installation; the container is pinned, and not root's."""

import ast
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parent.parent
DOCKERFILE = (REPOSITORY / "docker" / "visor" / "Dockerfile").read_text(encoding="utf-8")
NEEDED = [
    Requirement(line)
    for line in tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
]


@pytest.mark.parametrize(
    ("name", "unsafe", "safe"),
    [
        (
            "torch",
            ["2.5.1", "2.6.0", "2.9.1"],
            "2.10.0",
        ),  # weights_only can be got round below 2.6, corrupted below 2.10
        ("torchvision", ["0.20.0", "0.24.1"], "0.25.0"),  # that of torch 2.10
        ("hydra-core", ["1.3.2", "1.3.5", "1.3.7"], "1.3.8"),  # these call functions that they were to block
    ],
)
def test_unsafe_releases_are_not_installed(name: str, unsafe: list[str], safe: str) -> None:
    (needed,) = [needed for needed in NEEDED if needed.name == name]
    assert [release for release in unsafe if release in needed.specifier] == []
    assert safe in needed.specifier


@pytest.mark.parametrize("needed", NEEDED, ids=lambda needed: needed.name)
def test_the_installed_releases_are_those_asked_for(needed: Requirement) -> None:
    installed = version(needed.name).partition("+")[0]
    assert needed.specifier.contains(installed, prereleases=True)


@pytest.mark.slow
def test_no_repository_brings_code_of_its_own() -> None:
    """Classes that are found by name run the code of a repository unless they are told not to."""
    found = 0
    for path in (REPOSITORY / "cutie_geo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.fullmatch(r"Auto\w+\.from_\w+", ast.unparse(node.func)):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("trust_remote_code") == "False", f"{path}:{node.lineno}"
                found += 1
            elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert ast.unparse(node.value) == "False", f"{path}:{node.lineno}"
    assert found


def test_the_container_starts_from_a_digest_and_runs_as_nobody_special() -> None:
    (base,) = re.findall(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", base)
    release = re.search(r":(\d+\.\d+\.\d+)-", base)
    assert release
    assert release[1] in next(needed.specifier for needed in NEEDED if needed.name == "torch")
    instructions = [line.split()[0] for line in DOCKERFILE.splitlines() if re.match(r"[A-Z]+ ", line)]
    assert instructions.index("USER") > max(i for i, word in enumerate(instructions) if word in ("RUN", "COPY"))
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users[-1].partition(":")[0] not in ("root", "0")
