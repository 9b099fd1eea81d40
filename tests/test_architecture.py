"""The map is still true: who imports whom, who prints, and what explains itself."""

import ast
import doctest
import importlib
import re
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
    {"regions"},
    {"config", "structures"},
    {"ops", "progress", "errors", "multiprocessing", "flops", "limits", "interrupts", "onnx"},
    {"model", "memory", "data"},
    {"checkpoints"},
    {"evaluation", "inference", "training", "export"},
    {"sam2"},
    {"runs"},
    {"vss"},
    {"ablation"},
    {"app"},
    {"commands"},
    {"__init__"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
APART = {("evaluation", "model"), ("evaluation", "memory"), ("evaluation", "checkpoints")}
"""Scores know masks only, whatever made them."""
SHORT = 4
"""Statements up to which a function's name may explain it."""
SELF_EXPLAINING = {
    "data.render.actors:Actor.pose",
    "data.render.lens:draw_lens",
    "data.render.plan:draw_plan",
    "data.render.scene:Scene.frame",
}
"""Longer ones, named after what they return."""


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
        ("inference/factory.py", "from cutie_geo.sam2.tracker import Sam2Tracker", False),
        ("training/state.py", "from cutie_geo.vss.classifier import MaskletClassifier", False),
        ("sam2/tracker.py", "from cutie_geo.inference.inputs import Geometry", True),
        ("config.py", "from cutie_geo.structures import Frame", False),
        ("evaluation/metrics.py", "from cutie_geo.checkpoints.load import load_model", False),
        ("__init__.py", "from cutie_geo.commands import infer", True),
        ("commands/infer.py", "from cutie_geo.__main__ import main", False),
    ],
)
def test_a_wrong_import_would_be_seen(here: str, source: str, fine: bool) -> None:
    assert (misplaced_imports(PACKAGE / here, ast.parse(source)) == []) == fine


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(tree: ast.Module, modules: set[str]) -> set[str]:
    """The modules of this package that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            inner = name.removeprefix(f"{NAME}.")
            if inner != name:
                found.add(inner if inner in modules else inner.rpartition(".")[0])
    return found & modules


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle; none if there is no circle."""
    left = dict(graph)
    while free := [name for name, imports in left.items() if not (imports - {name}) & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_no_files_import_each_other_in_a_circle() -> None:
    modules = {module_name(path) for path in MODULES} - {"__init__", ""}
    graph = {module_name(path): imported_modules(parsed(path), modules) for path in MODULES}
    assert sum(map(len, graph.values())) > 300
    assert circle({name: graph[name] for name in modules}) == []


def test_a_circle_would_be_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c"]


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


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def protocol_methods() -> set[str]:
    """Names of the methods of this package's protocols, which explain them for every implementation."""
    return {
        inner.name
        for path in MODULES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)
        for inner in node.body
        if isinstance(inner, FUNCTIONS)
    }


def unexplained(tree: ast.Module, inherited: set[str]) -> Iterator[str]:
    """Public classes, and functions of more than a few statements, without a docstring.

    Properties, setters and methods of a protocol or of torch need none.
    """
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield node.name
            for inner in node.body:
                if isinstance(inner, FUNCTIONS) and not inner.decorator_list and inner.name not in inherited:
                    yield from (f"{node.name}.{name}" for name in bare(inner))
        elif isinstance(node, FUNCTIONS):
            yield from bare(node)


def bare(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    statements = sum(isinstance(inner, ast.stmt) for inner in ast.walk(node)) - 1
    hidden = node.name.startswith("_") or bool(ast.get_docstring(node))
    return [] if hidden or statements <= SHORT else [node.name]


def test_what_does_not_explain_itself_has_a_docstring() -> None:
    inherited = protocol_methods() | {"forward", "train", "error"}
    found = {
        f"{module_name(path)}:{name}"
        for path in MODULES
        for name in unexplained(parsed(path), inherited)
        if not (place(path) == "commands" and name == "add_arguments")  # options explain themselves
    }
    assert sorted(found - SELF_EXPLAINING) == []


def test_a_missing_docstring_would_be_seen() -> None:
    long = "\n".join(f"    a{i} = {i}" for i in range(9))
    source = f"class A:\n    b = 1\ndef f():\n{long}\ndef g():\n    return 1\ndef _h():\n{long}"
    assert list(unexplained(ast.parse(source), set())) == ["A", "f"]


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


def test_few_places_tell_sam2_from_cutie() -> None:
    """Families, trainables and propagators are protocols; what asks for one of them is the exception."""
    asks = re.compile(r"\bis_sam2\(|isinstance\([^()]*, Sam2\w*\)")
    sources = {path: path.read_text(encoding="utf-8") for path in MODULES if place(path) != "sam2"}
    found = [f"{path.relative_to(PACKAGE)}: {each}" for path, text in sources.items() for each in asks.findall(text)]
    assert len(found) <= 5, found
    assert any(name.startswith("runs/models.py") for name in found), "the search finds nothing"


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


@pytest.mark.slow
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
