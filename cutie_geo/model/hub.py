"""The Hugging Face hub: `save_pretrained`, `from_pretrained` and `push_to_hub`, with a model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import yaml
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cutie_geo.config import to_dict
from cutie_geo.model.pretrained import catalogue_name
from cutie_geo.model.saving import CONFIG_FILE, WEIGHTS_FILE, save_checkpoint
from cutie_geo.model.weights import CATALOGUE, NON_COMMERCIAL

if TYPE_CHECKING:
    from cutie_geo.model.network import CutieGeo

T = TypeVar("T", bound="HubModel")

TransportError: type[Exception] = HfHubHTTPError.__mro__[1]
"""What the hub's client lets through when a connection breaks; which HTTP library it is of depends on its version."""
PREFIX = "hf://"
"""What marks a repository on the hub where a file or a model's name may stand too."""
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


HUB_LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0", NON_COMMERCIAL: "cc-by-nc-4.0"}
"""Licences by the names that the hub has for them; it calls every other one "other"."""


class HubModel(ModelHubMixin, library_name="cutie_geo", pipeline_tag="image-segmentation"):
    """What `CutieGeo` can do with folders in the form of the hub, and with the hub itself.

    `push_to_hub("owner/name")` is inherited: it saves to a temporary folder, with a card made from its
    `model_card_kwargs`, and uploads that.
    """

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: Mapping[str, Any] | None = None,
        config: Any = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write a checkpoint (`cutie_geo.model.saving`) and a model card; return the address of the commit if pushed.

        model_card_kwargs: what `generate_model_card` takes. A card that is there is kept, unless they are given.
        config: ignored; a model knows its own.

        Raises OSError if it can't be written; an older checkpoint in the folder is intact then.
        """
        folder = Path(save_directory)
        save_checkpoint(cast("CutieGeo", self), folder)
        card = folder / CARD_FILE
        if model_card_kwargs or not card.is_file():
            self.generate_model_card(**model_card_kwargs or {}).save(card)
        if not push_to_hub:
            return None
        card_kwargs = dict(model_card_kwargs or {})
        return self.push_to_hub(repo_id or folder.name, model_card_kwargs=card_kwargs, **push_to_hub_kwargs)

    @classmethod
    def from_pretrained(
        cls: type[T],
        pretrained_model_name_or_path: str | Path,
        *,
        vision: str | Path = "",
        geometry: str | Path = "",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> T:
        """The model saved in a folder or in the repository "owner/name" of the hub: on the CPU, in float32, in
        evaluation mode.

        vision, geometry: the files of frozen parts that are neither beside the checkpoint nor in the cache.

        Raises ValueError if there is no such checkpoint, if it is damaged, or beside other frozen encoders.
        """
        from cutie_geo.model.load import load_model  # which builds this very class

        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = download(
                str(pretrained_model_name_or_path),
                revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        files = {part: str(file) for part, file in (("vision", vision), ("geometry", geometry)) if file}
        overrides = [f"weights.{part}={json.dumps(file)}" for part, file in files.items()]  # YAML's quotes for any name
        # a path, so that a folder named like a preset is still a folder
        return cast(T, load_model(str(folder.absolute()), device="cpu", precision="fp32", overrides=overrides))

    def generate_model_card(
        self,
        data: str = "Not stated.",
        licence: str = "",
        scores: Mapping[str, Any] | None = None,
        title: str = "cutie_geo model",
        training: str = "Not stated.",
        limits: str = "Not stated.",
    ) -> ModelCard:
        """The card for this model: what it was trained on and how, who may use it, what it is, how well it does, and
        what it can't do.

        licence: of the trained tensors, such as "MIT". Parts for non-commercial use only make the whole such, whatever
        it is. scores: values by benchmark.
        """
        config = cast("CutieGeo", self).config
        parts = [CATALOGUE.get(catalogue_name(config.encoder, part)) for part in config.encoder.starts]
        bound = [part.file for part in parts if part is not None and part.licence == NON_COMMERCIAL]
        terms = [f"{NON_COMMERCIAL}, for non-commercial use only, as {' and '.join(bound)} is."] if bound else []
        terms += [f"The trained tensors by themselves: {licence}." if bound else licence] if licence else []
        metadata = {
            "library_name": "cutie_geo",
            "pipeline_tag": "image-segmentation",
            "tags": ["video-object-segmentation", "model_hub_mixin"],
            "license": HUB_LICENCES.get(NON_COMMERCIAL if bound else licence, "other"),
        }
        content = to_dict(config)
        content.pop("weights")
        return ModelCard(
            CARD.format(
                metadata=yaml.safe_dump(metadata, sort_keys=False),
                title=title,
                data=data,
                licence=" ".join(terms) or "Not stated.",
                parts=self._frozen_parts(),
                configuration=yaml.safe_dump(content, sort_keys=False),
                scores=_table(scores),
                training=training,
                limits=limits,
            )
        )

    def _frozen_parts(self) -> str:
        files = cast("CutieGeo", self).frozen_files
        if not files:
            return "None: all tensors are in this repository."
        encoder, lines = cast("CutieGeo", self).config.encoder, []
        for part, file in files.items():
            known = CATALOGUE.get(catalogue_name(encoder, part))
            same = known is not None and (
                known.sha256 == file.sha256 or (known.stated_by_hub and known.file == file.name)
            )
            source = f"[{known.file}]({known.url}), {known.licence}" if known is not None and same else file.name
            lines.append(f"- {part}: {source}, SHA-256 `{file.sha256}`")
        return "\n".join(["Not in this repository; they must be exactly these files:", "", *lines])


def _table(scores: Mapping[str, Any] | None) -> str:
    if not scores:
        return "None stated."
    return "\n".join(
        ["| benchmark | score |", "| --- | --- |", *(f"| {name} | {score} |" for name, score in scores.items())]
    )


def download(repository: str, revision: str | None = None, **options: Any) -> Path:
    """The folder of a checkpoint from the hub: `owner/name`, perhaps with `hf://` before and `@revision` behind it.

    Raises ValueError if it isn't there, isn't a checkpoint, or can't be reached.
    """
    name, _, asked = repository.removeprefix(PREFIX).partition("@")
    revision = asked or revision
    try:
        wanted = [CONFIG_FILE, WEIGHTS_FILE]
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted, **options))
    except (OSError, TransportError, HFValidationError) as error:
        raise ValueError(f"{PREFIX}{name}: can't be fetched from the hub: {_reason(error, revision)}") from None
    if not (folder / WEIGHTS_FILE).is_file():
        raise ValueError(f"{PREFIX}{name}: has no {WEIGHTS_FILE}, wanted a model saved by cutie_geo")
    return folder


def _reason(error: Exception, revision: str | None) -> str:
    """What the hub's client says, on one line and in fewer words."""
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or one that needs a login (hf auth login)"
    if isinstance(error, RevisionNotFoundError):
        return f"no revision {revision} in this repository"
    if isinstance(error, LocalEntryNotFoundError):
        why = _one_line(error.__cause__) if error.__cause__ else "only local files were allowed"
        return f"no answer, and not all of it was downloaded before ({why})"
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
