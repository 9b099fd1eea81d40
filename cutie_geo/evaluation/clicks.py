"""Measures of interactive segmentation: clicks until a mask is good, IoU after clicks, and IoU of a box.

Source: the protocol of RITM (Sofiiuk et al., 2021): each click lies in the middle of the largest error, at most 20.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from cutie_geo.data.clicks import Click, Mask, box_of, next_click
from cutie_geo.structures import Prompt

MOST_CLICKS = 20
"""Number of clicks after which an object is given up; it counts as this many."""
THRESHOLDS = (0.85, 0.90)
"""IoUs for which the clicks are counted, NoC@85 and NoC@90."""
AFTER = (1, 3, 5)
"""Numbers of clicks after which the mean IoU is reported."""

Predict = Callable[[Prompt, Float[np.ndarray, "H W"] | None], Float[np.ndarray, "H W"]]
"""Mask logits of a prompt and of the logits so far."""


class ObjectScore(NamedTuple):
    """Scores of one object."""

    ious: tuple[float, ...]
    """IoU after 1, 2, ... clicks; the clicks end when the highest threshold is reached or the mask has no error."""
    box: float
    """IoU of the mask of its bounding box."""
    clicks: tuple[Click, ...]

    def needed(self, threshold: float) -> int:
        """Return the number of clicks until the IoU is at least `threshold`; MOST_CLICKS if it never is."""
        return next((n for n, iou in enumerate(self.ious, 1) if iou >= threshold), MOST_CLICKS)

    def after(self, clicks: int) -> float:
        """Return the IoU after a number of clicks; the last one if fewer were needed."""
        return self.ious[min(clicks, len(self.ious)) - 1]


def score_object(
    predict: Predict, truth: Mask, ignore: Mask | None = None, most: int = MOST_CLICKS
) -> tuple[ObjectScore, list[Bool[np.ndarray, "H W"]]]:
    """Click on an object until its mask is good, and prompt with its box.

    Args:
        predict: Returns mask logits; each call gets all clicks so far and the last logits.
        truth: True mask, with at least one pixel.
        ignore: Pixels without a known truth, which do not count.
        most: Largest number of clicks.

    Returns:
        The scores, and the masks after each click, followed by that of the box.

    Raises:
        ValueError: For an empty true mask.
    """
    box = box_of(truth)
    found, logits = np.zeros(truth.shape, bool), None
    clicks, ious, masks = list[Click](), list[float](), list[np.ndarray]()
    while len(clicks) < most:
        click = next_click(truth, found, ignore)
        if click is None:
            break
        clicks.append(click)
        logits = predict(Prompt(tuple(clicks)), logits)
        found = logits > 0
        masks.append(found)
        ious.append(iou(found, truth, ignore))
        if ious[-1] >= THRESHOLDS[-1] and len(clicks) >= AFTER[-1]:
            break
    boxed = predict(Prompt(box=box), None) > 0
    return ObjectScore(tuple(ious), iou(boxed, truth, ignore), tuple(clicks)), [*masks, boxed]


def iou(found: Mask, truth: Mask, ignore: Mask | None = None) -> float:
    """Return the intersection over union; 1 for two empty masks."""
    if ignore is not None:
        found, truth = found & ~ignore, truth & ~ignore
    either = int((found | truth).sum())
    return int((found & truth).sum()) / either if either else 1.0


def summary(scores: Sequence[ObjectScore]) -> dict[str, Any]:
    """Return the measures of the objects of a set: means, and failures, which never reach a threshold.

    Raises:
        ValueError: If there are no objects.
    """
    if not scores:
        raise ValueError("clicks: got no objects, expected at least one")
    found: dict[str, Any] = {"objects": len(scores)}
    for threshold in THRESHOLDS:
        name = round(100 * threshold)
        found[f"NoC@{name}"] = float(np.mean([score.needed(threshold) for score in scores]))
        found[f"failures@{name}"] = sum(max(score.ious) < threshold for score in scores)
    for clicks in AFTER:
        found[f"IoU@{clicks}"] = float(np.mean([score.after(clicks) for score in scores]))
    found["box"] = float(np.mean([score.box for score in scores]))
    return found


def summaries(scores: Mapping[str, Iterable[ObjectScore]]) -> dict[str, dict[str, Any]]:
    """Return the measures of each set, and the means over sets as `mean`."""
    found = {name: summary(list(each)) for name, each in scores.items()}
    if len(found) > 1:
        names = [name for name in next(iter(found.values())) if name != "objects" and not name.startswith("failures")]
        mean: dict[str, Any] = {name: float(np.mean([each[name] for each in found.values()])) for name in names}
        totals = ["objects", *(name for name in next(iter(found.values())) if name.startswith("failures"))]
        mean |= {name: sum(each[name] for each in found.values()) for name in totals}
        found["mean"] = mean
    return found
