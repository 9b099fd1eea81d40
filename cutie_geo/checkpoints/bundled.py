"""Trained weights in the package: a folder `weights/MODEL/` with a model card for each model."""

from pathlib import Path

from cutie_geo.checkpoints.catalogue import digest
from cutie_geo.checkpoints.saving import WEIGHTS_FILE

ROOT = Path(__file__).parent.parent / "weights"
BUNDLED: dict[str, str] = {"cutie-geo-tiny": "c8045509189049b3a8ec212773c95a38055ae4557e4888b7e95ca2b396d6394f"}
"""SHA-256 digests of the weights files, by model."""


def bundled_file(name: str) -> Path:
    """Return the weights file of a model in `BUNDLED`.

    Raises:
        ValueError: If the file is missing or has another digest.
    """
    path = ROOT / name / WEIGHTS_FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file, which is part of cutie_geo; install the package again")
    if (got := digest(path, "sha256")) != BUNDLED[name]:
        raise ValueError(
            f"{path}: got sha256 {got}, expected {BUNDLED[name]}: damaged or replaced; install the package again, or "
            "name a file of your own as weights"
        )
    return path
