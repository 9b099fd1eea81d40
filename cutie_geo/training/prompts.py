"""Training of the prompt head: simulated clicks, boxes and masks on the frames of clips, with a frozen encoder.

Source: RITM (Sofiiuk et al., 2021): random first clicks, then rounds of predicting without gradients and of clicking on
the largest error; the loss is that of the last round.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cutie_geo.checkpoints.load import is_checkpoint, load_model
from cutie_geo.checkpoints.saving import checkpoint_file, read_description, save_checkpoint
from cutie_geo.config import PromptConfig, TrainConfig, require, to_dict
from cutie_geo.data.clicks import Click, border_distance, box_of, next_click, pick
from cutie_geo.model.blocks import normalise
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.prompt_head import STRIDE, PromptBatch, PromptFeatures, PromptHead
from cutie_geo.ops import area, quick_gradients
from cutie_geo.structures import ClipBatch
from cutie_geo.training.losses import Losses
from cutie_geo.training.optimiser import Group, groups
from cutie_geo.training.sampling import seed_of
from cutie_geo.training.trainable import PROBE_SIDE, frozen_parts
from cutie_geo.training.unroll import unit_range

GRAIN = 2
"""Clicks are simulated on masks of 1/GRAIN of the frame's size."""
LEAST_PIXELS = 16
"""Smallest object, in pixels of these masks, that is prompted."""
AROUND = 0.3
"""Negative first clicks lie within this fraction of the frame's side around the object."""
DAMAGE = 0.15
"""Largest shift of a damaged mask, and half the largest side of its cut, as fractions of the object's size."""
QUALITY_CELLS = 1.0
"""Cells of an empty union, which keep the IoU of two empty masks defined."""

Mask = Bool[np.ndarray, "H W"]


class Target(NamedTuple):
    """An object to be prompted for."""

    frame: int
    """Index among all frames of a batch."""
    mask: Mask
    """True mask at 1/GRAIN of the frame's size; empty if the frame shows no object."""


class PromptOutputs(NamedTuple):
    """Outputs for R prompted objects."""

    logits: Float[Tensor, "B S N1 H W"]
    """Logits of background and of the first prompted object of the frames after the first, for figures."""
    masks: Float[Tensor, "R h4 w4"]
    """Mask logits at stride 4."""
    quality: Float[Tensor, "R"]
    """Logits of estimated IoUs."""
    truth: Float[Tensor, "R h2 w2"]
    """True masks at 1/GRAIN of the frame's size."""


class PromptUnroll(nn.Module):
    """Forward pass of training: from clips to the masks of simulated prompts."""

    def __init__(self, model: CutieGeo, config: PromptConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: ClipBatch, deep: Sequence[bool]) -> PromptOutputs:
        """Prompt for objects of every frame; `deep` is not used."""
        model, config = self.model, self.config
        assert model.prompt_head is not None, "required by PromptTrainable"
        clips, length = batch.images.shape[:2]
        seeds = batch.seeds.tolist()
        rngs = [
            random.Random(seed_of("prompts", seed, t, n))
            for seed in seeds
            for t in range(length)
            for n in range(config.per_frame)
        ]
        targets = draw_targets(batch.labels.flatten(0, 1).cpu().numpy(), rngs, config)
        drafts = [first_prompts(target.mask, rng, config) for target, rng in zip(targets, rngs)]
        features = encode_frozen(model, unit_range(batch.images).flatten(0, 1)).rows(
            torch.tensor([target.frame for target in targets], device=model.device)
        )
        chooser = random.Random(seed_of("rounds", *seeds))
        rounds = chooser.choices(range(len(config.rounds)), config.rounds)[0]
        size = (features.f4.shape[-2], features.f4.shape[-1])
        with torch.no_grad(), quick_gradients(model.device):
            for _ in range(rounds):
                found = model.prompt_head(features, to_batch(drafts, size, model.device)).logits.sigmoid()
                for draft, target, own, rng in zip(drafts, targets, found.cpu().numpy(), rngs):
                    draft.correct(target.mask, own, rng)
        with quick_gradients(model.device):
            masks, quality = model.prompt_head(features, to_batch(drafts, size, model.device))
        truth = torch.from_numpy(np.stack([target.mask for target in targets])).to(model.device).float()
        shown = F.interpolate(masks[:: config.per_frame, None].float(), scale_factor=float(STRIDE), mode="bilinear")
        figures = torch.cat([torch.zeros_like(shown), shown], dim=1).unflatten(0, (clips, length))[:, 1:]
        return PromptOutputs(figures, masks, quality, truth)


def encode_frozen(model: CutieGeo, images: Float[Tensor, "B 3 H W"]) -> PromptFeatures:
    """Encode frames without gradients of the encoder, and project them with gradients."""
    assert model.prompt_head is not None, "required by PromptTrainable"
    model.encoder.eval()
    with torch.no_grad():
        encoded = model.encoder(normalise(images))
    return model.prompt_head.prepare(encoded.f16, encoded.f8, encoded.f4)


# ------------------------------------------------------------------------------------------------------------ prompts
class Draft:
    """Prompts of one object while they are simulated, in pixels of the frame."""

    def __init__(
        self,
        clicks: Sequence[Click] = (),
        box: tuple[float, float, float, float] | None = None,
        mask: Float[np.ndarray, "h w"] | None = None,
    ) -> None:
        self.clicks, self.box, self.mask = list(clicks), box, mask

    def correct(self, truth: Mask, found: Float[np.ndarray, "h4 w4"], rng: random.Random) -> None:
        """Take over the predicted mask, and click on its largest error."""
        self.mask = found
        if not truth.any():
            return
        sized = cv2.resize(found, truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
        click = next_click(truth, sized > 0.5, rng=rng if rng.random() < 0.5 else None)
        if click is not None:
            self.clicks.append((click[0] * GRAIN, click[1] * GRAIN, click[2]))


def draw_targets(labels: np.ndarray, rngs: Sequence[random.Random], config: PromptConfig) -> list[Target]:
    """Choose `config.per_frame` objects of each frame at random: single ones, or all of a frame as one.

    Args:
        labels: (frames, H, W) slots of objects.
    """
    found = []
    for frame, ids in enumerate(labels[:, GRAIN // 2 :: GRAIN, GRAIN // 2 :: GRAIN]):
        counts = np.bincount(ids.ravel())
        present = [i for i in np.flatnonzero(counts >= LEAST_PIXELS).tolist() if i != 0]
        for n in range(config.per_frame):
            rng = rngs[frame * config.per_frame + n]
            if not present:
                found.append(Target(frame, np.zeros(ids.shape, bool)))
            elif len(present) > 1 and rng.random() < config.union_probability:
                found.append(Target(frame, np.isin(ids, present)))
            else:
                found.append(Target(frame, ids == present[rng.randrange(len(present))]))
    return found


def first_prompts(truth: Mask, rng: random.Random, config: PromptConfig) -> Draft:
    """Draw the first prompts of an object: a jittered box, a damaged mask with a click on its error, or clicks."""
    if not truth.any():
        return Draft()
    kind = rng.random()
    if kind < config.box_probability:
        clicks = [] if rng.random() < 0.7 else [_inside(truth, rng, config.middle_probability)]
        return Draft(clicks, jittered(box_of(truth), rng, config.box_jitter))
    if kind < config.box_probability + config.mask_probability:
        mask = damaged(truth, rng)
        click = next_click(truth, mask, rng=rng)
        draft = Draft([] if click is None else [(click[0] * GRAIN, click[1] * GRAIN, click[2])])
        draft.mask = area(torch.from_numpy(mask).float()[None], STRIDE // GRAIN)[0].numpy()
        return draft
    count = 1 + rng.choices(range(len(config.first_clicks)), config.first_clicks)[0]
    clicks = [_inside(truth, rng, config.middle_probability)]
    near = None
    for _ in range(count - 1):
        if rng.random() < 0.5:
            clicks.append(_inside(truth, rng, config.middle_probability))
            continue
        if near is None:
            reach = max(int(AROUND * truth.shape[0]), 1)
            near = cv2.dilate(truth.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
            near &= ~truth
        if near.any():
            clicks.append(_at(np.flatnonzero(near), truth.shape[1], rng, 0))
    return Draft(clicks)


def _inside(truth: Mask, rng: random.Random, middle: float) -> Click:
    """Draw a positive click: with probability `middle` in the middle, as an annotator and the benchmark do."""
    if rng.random() < middle:
        x, y = pick(border_distance(truth), rng if rng.random() < 0.5 else None)
        return x * GRAIN, y * GRAIN, 1
    eroded = np.flatnonzero(border_distance(truth) >= min(2.0, border_distance(truth).max()))
    return _at(eroded, truth.shape[1], rng, 1)


def _at(places: np.ndarray, width: int, rng: random.Random, label: int) -> Click:
    row, column = divmod(int(places[rng.randrange(len(places))]), width)
    return (column + 0.5) * GRAIN, (row + 0.5) * GRAIN, label


def jittered(
    box: tuple[float, float, float, float], rng: random.Random, most: float
) -> tuple[float, float, float, float]:
    """Shift each side of a box by a random fraction, at most `most`, of its size; convert it to pixels of the frame."""
    x0, y0, x1, y1 = (side * GRAIN for side in box)
    wide, high = x1 - x0, y1 - y0
    shifts = [rng.uniform(-most, most) for _ in range(4)]
    return x0 + shifts[0] * wide, y0 + shifts[1] * high, x1 + shifts[2] * wide, y1 + shifts[3] * high


def damaged(truth: Mask, rng: random.Random) -> Mask:
    """Return a mask with errors as trackers make them: shifted, grown or shrunk, with a part cut off or added."""
    x0, y0, x1, y1 = box_of(truth)
    side = max(x1 - x0, y1 - y0)
    across, down = (rng.uniform(-DAMAGE, DAMAGE) * side for _ in range(2))
    moves = np.array([[1, 0, across], [0, 1, down]], np.float32)
    mask = cv2.warpAffine(truth.astype(np.uint8), moves, truth.shape[::-1], flags=cv2.INTER_NEAREST)
    reach = rng.randint(0, max(int(DAMAGE * side / 2), 1))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    mask = (cv2.dilate if rng.random() < 0.5 else cv2.erode)(mask, kernel)
    x, y = rng.uniform(x0 - side * DAMAGE, x1), rng.uniform(y0 - side * DAMAGE, y1)
    wide, high = (rng.uniform(DAMAGE, 1 - DAMAGE) * side for _ in range(2))
    value = int(rng.random() < 0.5)
    mask[max(int(y), 0) : max(int(y + high), 0), max(int(x), 0) : max(int(x + wide), 0)] = value
    return mask > 0


def to_batch(drafts: Sequence[Draft], size: tuple[int, int], device: torch.device) -> PromptBatch:
    """Collate prompts for masks of `size` at stride 4."""
    longest = max(1, *(len(draft.clicks) for draft in drafts))
    points, labels = np.zeros((len(drafts), longest, 2), np.float32), np.full((len(drafts), longest), -1)
    boxes = np.full((len(drafts), 4), np.nan, np.float32)
    masks = np.full((len(drafts), *size), np.nan, np.float32)
    for n, draft in enumerate(drafts):
        for k, (x, y, label) in enumerate(draft.clicks):
            points[n, k], labels[n, k] = (x, y), label
        if draft.box is not None:
            boxes[n] = draft.box
        if draft.mask is not None:
            masks[n] = draft.mask
    return PromptBatch(*(torch.from_numpy(each).to(device) for each in (points, labels, boxes, masks)))


# ------------------------------------------------------------------------------------------------------------- losses
def prompt_losses(
    masks: Float[Tensor, "R h4 w4"],
    quality: Float[Tensor, "R"],
    truth: Float[Tensor, "R h2 w2"],
    config: PromptConfig,
) -> dict[str, Float[Tensor, "R"]]:
    """Return the weighted losses of each prompted object: cross-entropy, dice, and the error of the quality.

    Objects that are not there have zero losses.
    """
    there = truth.flatten(1).any(1).float()
    logits = F.interpolate(masks[:, None].float(), size=truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    probs = logits.sigmoid()
    pixel_losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    weight = (probs - truth).abs().pow(config.focal_gamma).detach()
    pixels = truth.shape[-2] * truth.shape[-1]
    # divided by the mean weight, so that many easy pixels do not fade the gradient of the others
    entropy = (weight * pixel_losses).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1e-3 * pixels)
    overlap = (probs * truth).flatten(1).sum(1)
    dice = 1 - (2 * overlap + 1) / (probs.flatten(1).sum(1) + truth.flatten(1).sum(1) + 1)
    error = (quality.sigmoid() - ious(logits.detach() > 0, truth > 0.5)).square()
    return {
        "mask_ce": there * entropy,
        "dice": config.dice_weight * there * dice,
        "quality": config.quality_weight * there * error,
    }


def ious(found: Bool[Tensor, "R H W"], truth: Bool[Tensor, "R H W"]) -> Float[Tensor, "R"]:
    """Return the IoU of each pair of masks."""
    both, either = (found & truth).flatten(1).sum(1), (found | truth).flatten(1).sum(1)
    return both / either.clamp(min=QUALITY_CELLS)


# ---------------------------------------------------------------------------------------------------------- trainable
class PromptTrainable:
    """Trainable for the prompt head of a `CutieGeo` network; everything else is frozen."""

    def __init__(self, config: TrainConfig) -> None:
        """Raise ValueError for settings of another family."""
        require(config.sam2 is None, f"sam2: got settings with the model {config.model}, expected a SAM 2")
        require(config.prompts is not None, "prompts: got none, expected the settings of the prompt head's training")
        assert config.prompts is not None
        self.config = config
        self.prompts = config.prompts

    def load(self, weights: str, device: torch.device, precision: str, options: list[str]) -> CutieGeo:
        """Load a network; a checkpoint folder brings its own configuration, with or without a head."""
        if is_checkpoint(weights) and weights not in ("auto", "none", "encoders"):
            description = read_description(checkpoint_file(Path(weights).expanduser()))
            wanted = (
                ("weights.",) if description and description.model.prompt_channels else ("weights.", "prompt_channels=")
            )
            own = [option for option in options if option.startswith(wanted)]
            return frozen_but_head(load_model(weights, "auto", device, precision, own))
        return frozen_but_head(load_model(self.config.model, weights, device, precision, options))

    def reload(self, folder: Path, device: torch.device, precision: str, options: list[str]) -> CutieGeo:
        return frozen_but_head(load_model(str(folder), "auto", device, precision, options))

    def require_fit(self, model: CutieGeo) -> None:
        crop = self.config.clips.crop
        require(crop % model.multiple == 0, f"clips.crop: got {crop}, expected a multiple of {model.multiple}")

    def frozen_parts(self) -> Sequence[str]:
        return frozen_parts(self.config)

    def probe_side(self, model: CutieGeo) -> int:
        return PROBE_SIDE

    def groups(self, model: CutieGeo) -> list[Group]:
        return groups(model, self.config.optimiser)

    def module(self, model: CutieGeo) -> nn.Module:
        return PromptUnroll(model, self.prompts)

    def losses(
        self, outputs: PromptOutputs, batch: ClipBatch, device: torch.device
    ) -> tuple[Losses, Float[Tensor, "B"]]:
        """Return the mean losses of all prompted objects, and the total of each clip."""
        own = prompt_losses(outputs.masks, outputs.quality, outputs.truth, self.prompts)
        clips = {name: each.unflatten(0, (len(batch.images), -1)).mean(1) for name, each in own.items()}
        totals = torch.stack(list(clips.values())).sum(0)
        return {name: each.mean() for name, each in clips.items()} | {"total": totals.mean()}, totals

    def cost(self, model: CutieGeo) -> None:
        """Return None: the number of rounds differs between steps."""

    def save(self, model: CutieGeo, folder: Path, last: bool = False) -> None:
        save_checkpoint(model, folder)

    def describe(self, model: CutieGeo) -> dict[str, Any]:
        network = to_dict(model.config)
        network.pop("weights")
        return network


def frozen_but_head(model: CutieGeo) -> CutieGeo:
    """Freeze everything but the prompt head. Raises ValueError if the network has none."""
    require(model.prompt_head is not None, "prompt_channels: got 0, expected the width of the prompt head to train, "
            "such as prompt_channels=128")  # fmt: skip
    assert isinstance(model.prompt_head, PromptHead)
    model.requires_grad_(False)
    model.prompt_head.requires_grad_(True)
    model.prompt_head.trained = True
    return model
