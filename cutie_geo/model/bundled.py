"""Trained weights that come with the package: `weights/MODEL/` beside the modules, with a model card each."""

from pathlib import Path

from cutie_geo.model.saving import WEIGHTS_FILE
from cutie_geo.model.weights import digest

ROOT = Path(__file__).parent.parent / "weights"
BUNDLED: dict[str, str] = {"cutie-geo-tiny": "43ef7ddf408e5c288ea6b19338473b1dd934324c3ecf9b6c3cf6a41de5515157"}
"""SHA-256 of the weights file, by model."""


def bundled_file(name: str) -> Path:
    """The weights file of a model in `BUNDLED`. Raises ValueError if it isn't there, or another is."""
    path = ROOT / name / WEIGHTS_FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file, though it comes with cutie_geo; install the package again")
    if (got := digest(path, "sha256")) != BUNDLED[name]:
        raise ValueError(
            f"{path}: got sha256 {got}, wanted {BUNDLED[name]}: damaged or replaced; install the package again, or "
            "name a file of your own as weights"
        )
    return path
