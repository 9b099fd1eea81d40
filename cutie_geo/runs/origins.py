"""Origins of fine-tuned models for model cards."""

from collections.abc import Iterable
from pathlib import Path

from cutie_geo.checkpoints.catalogue import CATALOGUE
from cutie_geo.checkpoints.hub import CARD_FILE, Origin, hub_licence, read_origin
from cutie_geo.checkpoints.saving import WEIGHTS_FILE
from cutie_geo.runs.training_run import CONFIG_FILE, RunFolder


def origins(folders: Iterable[Path]) -> list[Origin]:
    """Return the models from which trained ones were fine-tuned, following run configurations back to the first model
    card.

    A folder with its own model card, such as an exported one, is its own origin.

    Raises:
        ValueError: for an unreadable model card.
    """
    found: dict[Path, Origin] = {}
    for folder in folders:
        place, seen = folder.resolve(), set[Path]()
        while place not in seen:
            seen.add(place)
            if (place / CARD_FILE).is_file():
                found[place] = read_origin(place / CARD_FILE, place.name)
                break
            run = next((p for p in (place.parent, place.parent.parent) if (p / CONFIG_FILE).is_file()), None)
            file = "" if run is None else RunFolder(run).started_from()
            if not file:
                break
            place = Path(file).resolve().parent
            if not ((place / WEIGHTS_FILE).is_file() or (place / CARD_FILE).is_file()):
                known = next((own for own in CATALOGUE.values() if own.file == Path(file).name), None)
                licence = "Not stated." if known is None else known.licence
                found[Path(file)] = Origin(Path(file).name, licence=licence, licence_name=hub_licence(licence))
                break
    return list(found.values())
