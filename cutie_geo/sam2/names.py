"""Names of SAM 2 models: the eight published models, and folders of fine-tuned models."""

from pathlib import Path

from cutie_geo.config import read_json

RELEASES = ("sam2.1", "sam2")
"""Releases of September and July 2024."""
SIZES = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
SAM2_MODELS = {
    f"{release}-hiera-{size}": f"configs/{release}/{release}_hiera_{letter}.yaml"
    for release in RELEASES
    for size, letter in SIZES.items()
}
"""Configuration file of each model in the sam2 package; the catalogue has their weights under the same names."""
SAM2_ENTRY = "sam2"
"""Key of SAM 2's description in a checkpoint's `config.json`."""


def is_sam2(name: str) -> bool:
    """Return True for the name of a published SAM 2 model or the folder of a fine-tuned one."""
    return name in SAM2_MODELS or holds_sam2(Path(name).expanduser())


def holds_sam2(folder: Path) -> bool:
    """Return True if a folder contains a fine-tuned SAM 2; its contents are checked when it is loaded."""
    if not folder.is_dir():
        return False
    from cutie_geo.checkpoints.saving import CONFIG_FILE

    try:
        content = read_json(folder / CONFIG_FILE)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and SAM2_ENTRY in content
