"""SAM 2 as a model family for video segmentation. The sam2 package is imported when such a model is loaded."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cutie_geo.config import TrackerConfig, is_hydra
from cutie_geo.inference.families import register
from cutie_geo.inference.options import RunOptions
from cutie_geo.sam2.names import SAM2_MODELS, is_sam2

if TYPE_CHECKING:  # import hydra, which takes a second and 50 MB, and which other models do not need
    from cutie_geo.sam2.networks import Sam2Model
    from cutie_geo.sam2.tracker import Sam2Tracker


class Sam2Family:
    """Family of the published SAM 2 models and of fine-tuned ones, which resize frames to a square."""

    views = False

    def names(self) -> Sequence[str]:
        return list(SAM2_MODELS)

    def has_name(self, name: str) -> bool:
        return is_sam2(name)

    def has_model(self, model: Any) -> bool:
        networks = sys.modules.get("cutie_geo.sam2.networks")  # not imported: no such model exists
        return networks is not None and isinstance(model, networks.Sam2Model)

    def own_overrides(self, items: Iterable[str]) -> list[str]:
        """Return the items that begin with `model.`, in hydra's grammar."""
        return [item for item in items if is_hydra(item)]

    def check(self, name: str, overrides: Iterable[str]) -> None:
        """Accept all names and overrides; loading checks them."""

    def may_give_depth(self, name: str, overrides: Iterable[str]) -> bool:
        return False

    def load(
        self, name: str, weights: str | Path, device: str | torch.device, precision: str, overrides: Iterable[str]
    ) -> "Sam2Model":
        from cutie_geo.sam2.networks import load_sam2

        return load_sam2(name, weights, device, precision, self.own_overrides(overrides))

    def internal_size(self, model: "Sam2Model") -> int | None:
        """Return -1: the network resizes frames itself, and resizing them before would lose detail."""
        return -1

    def tracker_config(self, model: "Sam2Model", config: TrackerConfig) -> TrackerConfig:
        return config

    def tracker(self, model: "Sam2Model") -> "Sam2Tracker":
        from cutie_geo.sam2.tracker import Sam2Tracker

        return Sam2Tracker(model)

    def segmenter(
        self,
        model: "Sam2Model",
        options: RunOptions,
        num_frames: int | None = None,
        devices: Sequence[str] = (),
        workers: int | None = None,
        size: int = -1,
    ) -> "Sam2Tracker":
        from cutie_geo.sam2.tracker import Sam2Tracker

        chunk_size = options.tracker.chunk_size if options.tracker.chunk_size != -1 else 1
        return Sam2Tracker(model, chunk_size, num_frames)

    def settings(self, model: "Sam2Model") -> dict[str, Any]:
        return {"model": model.description._asdict()}


register(Sam2Family())
