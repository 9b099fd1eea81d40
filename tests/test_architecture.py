"""The map is still true: who imports whom, who prints, and what explains itself."""

import ast
import doctest
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

import cutie_geo

PACKAGE = Path(cutie_geo.__file__).parent
NAME = PACKAGE.name
MODULES = sorted(PACKAGE.rglob("*.py"))
LAYERS = [
    {"config", "structures"},
    {"ops", "progress", "workers", "errors"},
    {"model", "data", "memory"},
    {"inference", "training", "evaluation", "baselines"},
    {"commands"},
    {"__main__", "__init__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
APART = {("evaluation", "model"), ("evaluation", "memory")}
"""Scores know masks only, whatever made them."""

WITHOUT_DOCSTRING = {
    # of every command the same: what argparse is to accept
    *(f"commands.{name}:add_arguments" for name in ("bench", "download", "doctor", "infer")),
    "__main__:Parser.error",
    # of layers, all with one meaning that the paper's figure gives
    *(f"model.blocks:{name}.forward" for name in ("ResNetFeatures", "ChannelGatedBlock", "ResidualBlock")),
    "model.blocks:SensoryUpdate.forward",
    # named after what they return
    "evaluation.metrics:Score.j_and_f",
    *(f"data.render.shapes:{name}" for name in ("turns", "polar", "ellipse", "polygon", "star", "leaf", "oval")),
    *(f"data.render.patterns:{name}" for name in ("stripes", "checks", "rings", "gradient")),
    *(f"data.render.motion:{name}" for name in ("Wave.at", "Bend.at", "Bend.limit", "rotation")),
    *(f"data.render.camera:{name}" for name in ("Camera.at", "draw_camera")),
    *(f"data.render.scene:{name}" for name in ("Scene.frame", "draw_skin")),
    "data.render.actors:Actor.pose",
    "data.render.backdrop:Backdrop.distance",
    "data.render.config:draw_stage",
    "data.render.lens:draw_lens",
    "data.render.plan:draw_plan",
}
"""Public and not explained, each for a reason."""


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def place(path: Path) -> str:
    """The package or module right under the root that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def own_imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and the place of everything imported from this package, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == NAME:
            names = [f"{NAME}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            root, _, rest = name.partition(".")
            if root == NAME:
                first = rest.partition(".")[0]
                yield node.lineno, first if first in RANK else "__init__"


def misplaced_imports(path: Path, tree: ast.Module) -> list[str]:
    """Imports of a higher layer, or of a neighbour in the same one."""
    here = place(path)
    return [
        f"{path.relative_to(PACKAGE)}:{line} imports {there}"
        for line, there in own_imports(tree)
        if there != here and (RANK[there] >= RANK[here] or (here, there) in APART)
    ]


# --------------------------------------------------------------------------------------------------------------- tests
def test_every_module_has_its_place_in_a_layer() -> None:
    assert {place(path) for path in MODULES} <= RANK.keys()
    assert len(MODULES) > 30


def test_imports_only_go_down() -> None:
    assert [line for path in MODULES for line in misplaced_imports(path, parsed(path))] == []


@pytest.mark.parametrize(
    ("here", "source", "fine"),
    [
        ("model/network.py", "from cutie_geo.ops import area", True),
        ("model/network.py", "from cutie_geo.model.blocks import normalise", True),
        ("model/network.py", "import torch.nn", True),
        ("model/network.py", "from cutie_geo.data.masks import read_labels", False),
        ("model/network.py", "from cutie_geo.inference import tracker", False),
        ("model/network.py", "import cutie_geo.inference.tracker as t", False),
        ("model/network.py", "from cutie_geo import memory", False),
        ("model/network.py", "from cutie_geo import Tracker", False),
        ("model/network.py", "import cutie_geo", False),
        ("model/network.py", "def f():\n    from cutie_geo.memory.bank import TokenBank", False),
        ("config.py", "from cutie_geo.structures import Frame", False),
        ("evaluation/metrics.py", "from cutie_geo.model.load import load_model", False),
        ("__init__.py", "from cutie_geo.commands import infer", True),
        ("commands/infer.py", "from cutie_geo.__main__ import main", False),
    ],
)
def test_a_wrong_import_would_be_seen(here: str, source: str, fine: bool) -> None:
    assert (misplaced_imports(PACKAGE / here, ast.parse(source)) == []) == fine


def test_all_imports_are_absolute_and_named() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and (node.level or any(alias.name == "*" for alias in node.names))
    ]
    assert found == []


def test_only_commands_print() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in MODULES
        if place(path) not in ("commands", "__main__")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert found == []


def test_every_module_says_what_it_is_for() -> None:
    trees = {path.relative_to(PACKAGE): parsed(path) for path in MODULES}
    assert [str(path) for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


def public(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Functions, classes and their methods without a leading underscore, by dotted name; no setters."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, kinds) and not inner.name.startswith("_") and not is_setter(inner):
                    yield f"{node.name}.{inner.name}", inner


def is_setter(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    return any(isinstance(mark, ast.Attribute) and mark.attr == "setter" for mark in node.decorator_list)


def test_everything_public_has_a_docstring() -> None:
    bare = {
        f"{'.'.join(path.relative_to(PACKAGE).with_suffix('').parts)}:{name}"
        for path in MODULES
        for name, node in public(parsed(path))
        if not ast.get_docstring(node)  # type: ignore[arg-type]
    }
    assert sorted(bare - WITHOUT_DOCSTRING) == []


def modules_with_examples() -> list[str]:
    """Dotted names of the modules with examples in their docstrings."""
    files = [path.relative_to(PACKAGE.parent) for path in MODULES if ">>> " in path.read_text(encoding="utf-8")]
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]


def test_the_public_names_are_shown_by_examples() -> None:
    assert {"cutie_geo", "cutie_geo.inference.tracker"} <= set(modules_with_examples())


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_in_docstrings_are_true(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> NoReturn:
        raise AssertionError("an example asked for the network")

    monkeypatch.setattr("socket.socket.connect", offline)
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_every_name_that_the_package_offers_is_there() -> None:
    assert sorted(cutie_geo.__all__) == cutie_geo.__all__
    assert [name for name in cutie_geo.__all__ if not hasattr(cutie_geo, name)] == []
    assert set(cutie_geo.__all__) <= set(dir(cutie_geo))
    with pytest.raises(AttributeError, match="module 'cutie_geo' has no attribute 'Trackers'"):
        _ = cutie_geo.Trackers  # type: ignore[attr-defined]


def test_type_checkers_and_programs_find_the_same_under_a_name() -> None:
    guard = next(node for node in parsed(PACKAGE / "__init__.py").body if isinstance(node, ast.If))
    imports = [node for node in guard.body if isinstance(node, ast.ImportFrom)]
    shown = {alias.name: node.module for node in imports for alias in node.names}
    assert shown == {name: f"{NAME}.{home}" for name, home in cutie_geo._HOMES.items()}
    assert sorted(shown) == cutie_geo.__all__


@pytest.mark.parametrize(
    ("program", "loads_networks"),
    [
        ("import cutie_geo.evaluation.scoring", False),
        ("import cutie_geo.commands.evaluate", False),
        ("import cutie_geo; cutie_geo.example_frames", False),
        ("import cutie_geo; cutie_geo.Tracker", True),
        ("import cutie_geo; cutie_geo.data.masks.read_probs; cutie_geo.inference.tracker.Tracker", True),
    ],
)
def test_networks_are_loaded_only_where_they_are_used(program: str, loads_networks: bool) -> None:
    program = f"{program}\nimport sys\nsys.exit('cutie_geo.model.network' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == loads_networks
