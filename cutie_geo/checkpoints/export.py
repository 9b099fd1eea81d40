"""Export of trained weights for publication: float16, with a model card and a digest."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cutie_geo.checkpoints.averaging import average
from cutie_geo.checkpoints.catalogue import digest
from cutie_geo.checkpoints.hub import CARD_FILE, Origin, model_card
from cutie_geo.checkpoints.load import is_checkpoint, load_model
from cutie_geo.checkpoints.saving import save_checkpoint
from cutie_geo.config import read_yaml, require
from cutie_geo.config.choices import CARD_FIELDS


class Exported(NamedTuple):
    """Exported weights file."""

    path: Path
    parameters: int
    sha256: str


def export_weights(
    checkpoints: Sequence[Path],
    output: Path,
    full: bool = False,
    card: Path | None = None,
    origins: Sequence[Origin] = (),
) -> Exported:
    """Write weights, configuration and model card to a folder.

    Args:
        checkpoints: Folders of trained models; the weights of several models are averaged.
        output: Folder to write.
        full: Keep float32.
        card: YAML file with CARD_FIELDS of the model card.
        origins: Models from which these were fine-tuned.

    Raises:
        ValueError: If a folder is not a checkpoint, if models differ, or if the card has unknown fields.
    """
    folders = [folder.expanduser() for folder in checkpoints]
    for folder in folders:
        fits = is_checkpoint(str(folder))
        require(fits, f"{folder}: not the folder of a trained model, expected one such as runs/.../final")
        require(folder.resolve() != output.resolve(), f"--output: got {folder} itself, expected another folder")
    fields = {} if card is None else read_yaml(card)
    strange = sorted(set(fields) - set(CARD_FIELDS))
    require(not strange, f"{card}: got {', '.join(strange)}, expected any of {', '.join(CARD_FIELDS)}")
    model = average(load_model(str(folder.absolute()), device="cpu", precision="fp32") for folder in folders)
    page = model_card(model, **fields, tuned_from=origins)
    path = save_checkpoint(model, output, half=not full)
    page.save(output / CARD_FILE)
    count = sum(weight.numel() for weight in model.parameters())
    return Exported(path, count, digest(path, "sha256"))
