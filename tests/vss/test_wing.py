"""Semantic segmentation is a wing: nothing but the commands knows it, so that its folder can be deleted."""

import ast
import subprocess
import sys
from pathlib import Path

import cutie_geo

PACKAGE = Path(cutie_geo.__file__).parent
WING = "cutie_geo.vss"


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_only_commands_import_the_wing() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(name.startswith(f"{WING}.") or name == WING for name in imported(path))
    }
    assert {name for name in found if not name.startswith(("vss/", "commands/"))} == set()
    assert "commands/refine.py" in found


def test_options_are_read_without_loading_a_network() -> None:
    program = f"import {WING}.config, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
