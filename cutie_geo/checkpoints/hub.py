"""Upload to and download from the Hugging Face hub, with a model card.

`cutie_geo.load_model("hf://owner/name")` loads a model from the hub.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml
from huggingface_hub import HfApi, ModelCard, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cutie_geo.checkpoints.catalogue import NON_COMMERCIAL, listed_file
from cutie_geo.checkpoints.encoders import catalogue_name
from cutie_geo.checkpoints.saving import CONFIG_FILE, WEIGHTS_FILE, save_checkpoint
from cutie_geo.config import to_dict
from cutie_geo.errors import one_line
from cutie_geo.model.network import CutieGeo

TransportError: type[Exception] = HfHubHTTPError.__mro__[1]
"""Base class of connection errors of the hub's client; its HTTP library depends on its version."""
PREFIX = "hf://"
"""Prefix of a repository on the hub, in arguments that also accept files or names of models."""
CARD_FILE = "README.md"

CARD = """\
---
{metadata}---

# {title}

A model of [cutie_geo](https://pypi.org/project/cutie-geo/): given masks of some objects in one frame of a video, it
segments them in every frame. `cutie_geo.load_model("hf://OWNER/NAME")` loads it.

## Data

{data}

## Licence

{licence}

## Frozen parts

{parts}

## Configuration

```yaml
{configuration}```

## Training

{training}

## Scores

{scores}

## Limits

{limits}
"""


class Origin(NamedTuple):
    """Model from which another model was fine-tuned."""

    name: str
    data: str = "Not stated."
    licence: str = "Not stated."
    licence_name: str = "other"
    """Hub's name of the licence."""


HUB_LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0", NON_COMMERCIAL: "cc-by-nc-4.0"}
"""Hub's names of licences; all others are "other"."""


def hub_licence(name: str) -> str:
    """Return the hub's name of a licence."""
    return HUB_LICENCES.get(name, "other")


def save_pretrained(model: CutieGeo, folder: str | Path, card: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint and a model card to `folder`.

    Args:
        model: Network to save.
        folder: Created if missing.
        card: Arguments of `model_card`. An existing card is kept unless they are given.

    Raises:
        OSError: If a file cannot be written; an older checkpoint in the folder stays intact.
    """
    folder = Path(folder)
    save_checkpoint(model, folder)
    path = folder / CARD_FILE
    if card or not path.is_file():
        model_card(model, **card or {}).save(path)


def push_to_hub(
    model: CutieGeo,
    repository: str,
    card: Mapping[str, Any] | None = None,
    *,
    commit_message: str = "Upload a cutie_geo model",
    private: bool | None = None,
    branch: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a checkpoint and a model card to the repository `owner/name`, which is created if missing.

    Args:
        card: Arguments of `model_card`.
        private: Visibility of a new repository; None uses the owner's default.
        token: Hugging Face token; None uses that of `hf auth login`.

    Returns:
        Address of the commit.
    """
    api = HfApi(token=token)
    repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, card)
        return str(
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=commit_message, revision=branch)
        )


def model_card(
    model: CutieGeo,
    data: str = "Not stated.",
    licence: str = "",
    scores: Mapping[str, Any] | None = None,
    title: str = "cutie_geo model",
    training: str = "Not stated.",
    limits: str = "Not stated.",
    tuned_from: Sequence[Origin] = (),
) -> ModelCard:
    """Return the model card: training data, licence, configuration, scores and limits.

    Args:
        licence: Licence of the trained tensors, such as "MIT". One non-commercial part makes the whole model
            non-commercial.
        scores: Values by benchmark.
        tuned_from: Models from which this one was fine-tuned. Their data and licences are listed; the licence of the
            whole is "other" unless all are the same.
    """
    config = model.config
    parts = [listed_file(catalogue_name(config.encoder, part)) for part in config.encoder.starts]
    bound = [part.file for part in parts if part is not None and part.licence == NON_COMMERCIAL]
    terms = [f"{NON_COMMERCIAL}, for non-commercial use only, as {' and '.join(bound)} is."] if bound else []
    terms += [f"The trained tensors by themselves: {licence}." if bound else licence] if licence else []
    metadata = {
        "library_name": "cutie_geo",
        "pipeline_tag": "image-segmentation",
        "tags": ["video-object-segmentation"],
        "license": hub_licence(NON_COMMERCIAL if bound else licence),
    }
    if any(origin.licence_name != metadata["license"] for origin in tuned_from):
        metadata["license"] = "other"
    terms = [" ".join(terms) or "Not stated."]
    terms += [f"It was tuned from {origin.name}, whose licence is: {origin.licence}" for origin in tuned_from]
    origins = [f"It was tuned from {origin.name}, which was trained on:\n\n{origin.data}" for origin in tuned_from]
    content = to_dict(config)
    content.pop("weights")
    return ModelCard(
        CARD.format(
            metadata=yaml.safe_dump(metadata, sort_keys=False),
            title=title,
            data="\n\n".join([data, *origins]),
            licence="\n\n".join(terms),
            parts=_frozen_parts(model),
            configuration=yaml.safe_dump(content, sort_keys=False),
            scores=_table(scores),
            training=training,
            limits=limits,
        )
    )


def _frozen_parts(model: CutieGeo) -> str:
    if not model.frozen_files:
        return "None: all tensors are in this repository."
    lines = []
    for part, file in model.frozen_files.items():
        known = listed_file(catalogue_name(model.config.encoder, part))
        same = known is not None and (known.sha256 == file.sha256 or (known.stated_by_hub and known.file == file.name))
        source = f"[{known.file}]({known.url}), {known.licence}" if known is not None and same else file.name
        lines.append(f"- {part}: {source}, SHA-256 `{file.sha256}`")
    return "\n".join(["Not in this repository; they must be exactly these files:", "", *lines])


def _table(scores: Mapping[str, Any] | None) -> str:
    if not scores:
        return "None stated."
    return "\n".join(
        ["| benchmark | score |", "| --- | --- |", *(f"| {name} | {score} |" for name, score in scores.items())]
    )


def read_origin(card: Path, name: str) -> Origin:
    """Read data and licence from a model card. Raises ValueError if it cannot be read."""
    try:
        content = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{card}: cannot be read as a model card: {one_line(error)}") from None
    parts: dict[str, str] = {}
    for part in f"\n{content.text}".split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        parts[title] = text.strip()
    data, licence = (parts.get(title) or "Not stated." for title in ("Data", "Licence"))
    return Origin(name, data, licence, str(content.data.to_dict().get("license") or "other"))


def download(repository: str, revision: str | None = None, **options: Any) -> Path:
    """Download a checkpoint from the hub and return its folder in the cache.

    Args:
        repository: `owner/name`, optionally with the prefix `hf://` and the suffix `@revision`.
        **options: Options of `huggingface_hub.snapshot_download`, such as `token` or `local_files_only`.

    Raises:
        ValueError: If the repository is missing, unreachable, or contains no checkpoint.
    """
    name, _, asked = repository.removeprefix(PREFIX).partition("@")
    revision = asked or revision
    try:
        wanted = [CONFIG_FILE, WEIGHTS_FILE]
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted, **options))
    except (OSError, TransportError, HFValidationError) as error:
        raise ValueError(f"{PREFIX}{name}: cannot be downloaded from the hub: {_reason(error, revision)}") from None
    if not (folder / WEIGHTS_FILE).is_file():
        raise ValueError(f"{PREFIX}{name}: has no {WEIGHTS_FILE}, expected a model saved by cutie_geo")
    return folder


def _reason(error: Exception, revision: str | None) -> str:
    """Return a short, one-line message for an error of the hub's client."""
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or one that needs a login (hf auth login)"
    if isinstance(error, RevisionNotFoundError):
        return f"no revision {revision} in this repository"
    if isinstance(error, LocalEntryNotFoundError):
        why = one_line(error.__cause__) if error.__cause__ else "only local files were allowed"
        return f"no answer, and not all of it was downloaded before ({why})"
    return one_line(error)
