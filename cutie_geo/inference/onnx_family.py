"""Folders of exported ONNX graphs as a model family for video segmentation."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutie_geo.config import TrackerConfig, require
from cutie_geo.data.frames import image_tensor
from cutie_geo.inference.families import register
from cutie_geo.inference.inputs import acceptable, image_size
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.prompting import PromptedMask, merged_prompts, require_shown, scaled
from cutie_geo.inference.segmenter import Segmenter
from cutie_geo.structures import Frame, FrozenFile, GivenMask, ObjectId, Prompt

DESCRIPTION = "model.json"
"""File by which a folder of graphs is recognised."""

log = logging.getLogger(__name__)


class OnnxNetwork:
    """Exported graphs with the attributes that runs expect of a network.

    Args:
        folder: Folder written by `cutie-geo export onnx`.
        device: "auto", "cpu", "cuda" or an onnxruntime provider such as "coreml" or "directml".

    Raises:
        ValueError: For invalid folders and unavailable providers.
    """

    training = False

    def __init__(self, folder: str | Path, device: str = "auto") -> None:
        from cutie_geo.onnx import OnnxModel

        provider = "cpu" if device == "auto" else device.partition(":")[0]
        self.exported = OnnxModel(folder, (provider,))
        self.loaded_from: Path | None = self.exported.folder / DESCRIPTION
        self.frozen_files: dict[str, FrozenFile] = {}
        self.provider = provider

    @property
    def precision(self) -> torch.dtype:
        return torch.float16 if self.exported.description.precision == "fp16" else torch.float32

    @property
    def device(self) -> torch.device:
        """Device of the tensors that trackers return."""
        return torch.device("cpu")

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", enabled=False)

    def compilable(self) -> tuple[nn.Module, ...]:
        return ()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over no weights: they belong to onnxruntime."""
        return iter(())

    def train(self, mode: bool = True) -> "OnnxNetwork":
        return self


class OnnxMethod:
    """Tracker of exported graphs with tensors instead of arrays, for runs and ensembles."""

    gives_depth = False

    def __init__(self, network: OnnxNetwork, **options: Any) -> None:
        from cutie_geo.onnx import OnnxTracker

        self.tracker = OnnxTracker(network.exported, **options)
        self._warned = False

    @property
    def object_ids(self) -> list[ObjectId]:
        """Ids of the channels of probabilities after the first."""
        return list(self.tracker.object_ids)

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """(H, W) of the video's frames; None before the first."""
        return self.tracker.frame_size

    def encode_ahead(self, images: Sequence[Any], with_depth: bool = False) -> list[Any]:
        if with_depth:
            raise ValueError("depth: exported graphs give none, expected the network that they were exported from")

        def size_of(image: Any) -> tuple[int, int]:
            size = image_size(image, expected=self.frame_size)
            self.tracker.require_size(size)
            return size

        return [self.tracker.encode(image.numpy()) for image in acceptable(images, size_of)[0]]

    def step(
        self,
        image: Any,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[Any] | None = None,
        permanent: bool = False,
        last: bool = False,
        features: Any = None,
        correction: bool = False,
        color: str = "rgb",
    ) -> Float[Tensor, "N1 H W"]:
        image = image_tensor(image, color)
        image_size(image, features is None, self.frame_size)
        labels = mask.numpy() if isinstance(mask, Tensor) else mask
        if correction and not self._warned and labels is not None and set(self.object_ids) & set(np.unique(labels)):
            self._warned = True
            log.warning(
                "exported graphs do not drop memory on corrections: a mask of tracked objects is one more frame"
            )
        return torch.from_numpy(self.tracker.step(image.numpy(), labels, objects, permanent, last, features))

    def restore_depth(self, features: Any) -> Float[Tensor, "H W"]:
        raise ValueError("depth: exported graphs give none, expected the network that they were exported from")

    def labels(self, probs: Float[Tensor, "N1 H W"], objects: Sequence[ObjectId] | None = None) -> Int[Tensor, "H W"]:
        return torch.from_numpy(self.tracker.labels(probs.numpy(), self.object_ids if objects is None else objects))

    def remove(self, ids: Any) -> None:
        self.tracker.remove(ids)

    def reset(self) -> None:
        self.tracker.reset()

    def memory_report(self) -> dict[str, int]:
        return self.tracker.memory_report()


class OnnxPrompter:
    """`FramePrompter` of exported graphs with a prompt head, with tensors instead of arrays."""

    def __init__(self, network: OnnxNetwork) -> None:
        from cutie_geo.onnx import OnnxTracker

        self._network = network
        self._new_tracker = lambda: OnnxTracker(network.exported)

    def encode(self, image: Float[Tensor, "3 H W"]) -> tuple[np.ndarray, Any]:
        """Encode an RGB frame in [0, 1]. Raises ValueError for other images and sizes."""
        picture = image.numpy()
        return picture, self._new_tracker().encode(picture)

    def predict(
        self,
        encoded: tuple[np.ndarray, Any],
        prompt: Prompt,
        mask: Float[Tensor, "H W"] | None = None,
        from_prompts: bool = False,
    ) -> PromptedMask:
        """Return the mask of one object; see `FramePrompter`."""
        picture, features = encoded
        points, labels = [(x, y) for x, y, _ in prompt.points], [label for _, _, label in prompt.points]
        before = None if mask is None else mask.numpy()
        found = self._new_tracker().prompt(
            picture, points, labels, prompt.box, before, features, from_prompts=from_prompts
        )
        return PromptedMask(torch.from_numpy(found.logits), found.quality)

    def given(self, method: Segmenter, frame: Frame, with_depth: bool = False) -> tuple[GivenMask, Any]:
        """Return the mask of a frame's prompts merged with its input mask, and the frame's features, if any.

        Raises:
            ValueError: If an object has both a mask and a prompt, or if its predicted mask is empty.
        """
        require_shown(frame)
        features = next(iter(method.encode_ahead([frame.image], with_depth)), None)
        shared = isinstance(method, OnnxMethod) and method.tracker.model is self._network.exported
        encoded = (frame.image.numpy(), features) if shared and features is not None else self.encode(frame.image)
        size = (frame.image.shape[-2], frame.image.shape[-1])
        masks = {
            object_id: self.predict(encoded, scaled(prompt, frame.size or size, size)).logits
            for object_id, prompt in (frame.prompts or {}).items()
        }
        return merged_prompts(frame, masks), features


class OnnxFamily:
    """Family of folders written by `cutie-geo export onnx`."""

    views = False

    def names(self) -> Sequence[str]:
        return []

    def has_name(self, name: str) -> bool:
        return (Path(name).expanduser() / DESCRIPTION).is_file()

    def has_model(self, model: Any) -> bool:
        return isinstance(model, OnnxNetwork)

    def own_overrides(self, items: Iterable[str]) -> list[str]:
        return []

    def check(self, name: str, overrides: Iterable[str]) -> None:
        from cutie_geo.onnx.folder import read_description

        read_description(name)

    def may_give_depth(self, name: str, overrides: Iterable[str]) -> bool:
        return False

    def load(
        self, name: str, weights: str | Path, device: str | torch.device, precision: str, overrides: Iterable[str]
    ) -> OnnxNetwork:
        require(weights == "auto", f"weights: got {weights} for {name}, which has its own weights; expected auto")
        if find_spec("onnxruntime") is None:
            raise ValueError(f"{name}: onnxruntime is not installed; pip install 'cutie_geo[onnx]'")
        network = OnnxNetwork(name, str(device))
        own = network.exported.description.precision
        require(precision in ("auto", own), f"precision: got {precision} for {name}, which was exported in {own}")
        return network

    def internal_size(self, model: OnnxNetwork) -> int | None:
        return min(model.exported.description.size)

    def tracker_config(self, model: OnnxNetwork, config: TrackerConfig) -> TrackerConfig:
        """Fill in the export's sizes. Long-term memory is turned off, which is logged.

        Raises:
            ValueError: For options that an export fixes.
        """
        about = model.exported.description
        if config.use_long_term:
            log.warning("exported graphs have no long-term memory: working memory is first in, first out")
        require(config.top_k in (None, about.top_k), f"top_k: got {config.top_k}, expected the exported {about.top_k}")
        frames = config.max_mem_frames
        if frames == TrackerConfig.max_mem_frames:  # the default, which the export may have changed
            frames = about.max_mem_frames
        require(frames <= about.max_mem_frames,
                f"max_mem_frames: got {frames}, expected at most the exported {about.max_mem_frames}")  # fmt: skip
        every = config.mem_every or about.mem_every
        return replace(
            config,
            mem_every=every,
            top_k=about.top_k,
            max_mem_frames=frames,
            full_frame_every=config.full_frame_every or about.full_frame_every,
            antialias=about.antialias,
            use_long_term=False,
        )

    def tracker(self, model: OnnxNetwork) -> OnnxMethod:
        return OnnxMethod(model)

    def segmenter(
        self,
        model: OnnxNetwork,
        options: RunOptions,
        num_frames: int | None = None,
        devices: Sequence[str] = (),
        workers: int | None = None,
        size: int = -1,
    ) -> OnnxMethod:
        config = self.tracker_config(model, options.tracker)
        return OnnxMethod(
            model,
            mem_every=config.mem_every,
            stagger_updates=config.stagger_updates,
            max_mem_frames=config.max_mem_frames,
            full_frame_every=config.full_frame_every,
        )

    def settings(self, model: OnnxNetwork) -> dict[str, Any]:
        return {"provider": model.provider, "onnx": {"size": list(model.exported.description.size)}}


register(OnnxFamily())
