"""Half precision gives the labels of float32, once the weights mean something."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fitting import fit
from tiny import tiny_config
from torch import Tensor

from cutie_geo.data.example import example_frames, example_masks
from cutie_geo.data.index import mask_files
from cutie_geo.data.video import read_video
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.runs.models import load_model

SIZE = (64, 112)
FRAMES = 12
"""Number of frames of the real clip; docs/results.md has the scores."""


def small_clip(frames: Path, masks: Path) -> tuple[Tensor, Tensor]:
    """Images (T, 3, H, W) and labels (T, H, W) of a clip all of whose frames have masks, at a small size."""
    read = [frame for frame in read_video(frames, masks=mask_files(masks)) if frame.given is not None]
    images = torch.stack([frame.image for frame in read])
    labels = torch.stack([torch.from_numpy(frame.given.labels) for frame in read if frame.given])
    labels = F.interpolate(labels[:, None].float(), size=SIZE, mode="nearest")[:, 0].long()
    return F.interpolate(images, size=SIZE, mode="area"), labels


def segment(model: CutieGeo, precision: torch.dtype, images: Tensor, mask: Tensor) -> Tensor:
    model.precision = precision
    tracker = Tracker(model)
    labels = []
    for t, image in enumerate(images):
        probs = tracker.step(image, mask if t == 0 else None)
        assert bool(torch.isfinite(probs).all())
        labels.append(tracker.labels(probs))
    return torch.stack(labels)


def check_precisions(model: CutieGeo, images: Tensor, labels: Tensor) -> Tensor:
    """Compare half precision with float32; return the labels of float32."""
    exact = segment(model, torch.float32, images, labels[0])
    for half in (torch.bfloat16, torch.float16):
        agreement = (segment(model, half, images, labels[0]) == exact).float().mean()
        assert agreement >= 0.99, half
    return exact


@pytest.mark.slow(longest=True)
def test_half_precision_gives_the_labels_of_float32_on_the_bundled_clip() -> None:
    """A small network of Cutie's parts, fitted to the clip."""
    images, labels = small_clip(example_frames(), example_masks())
    torch.manual_seed(0)
    model = CutieGeo(tiny_config()).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    losses = fit(model, images, labels, steps=200, rate=1e-3)
    assert sum(losses[-20:]) < 0.2 * sum(losses[:20])
    check_precisions(model, images, labels)


@pytest.mark.slow
def test_half_precision_gives_the_labels_of_float32_on_a_real_clip(test_data: Path) -> None:
    """The bundled weights, on a clip that they were not trained on."""
    root = test_data / "data" / "clips" / "penguins"
    (name,) = [path.name for path in (root / "JPEGImages").iterdir()]
    images, labels = small_clip(root / "JPEGImages" / name, root / "Annotations" / name)
    model = load_model("cutie-geo-tiny", device="cpu", precision="fp32")
    found = check_precisions(model, images[:FRAMES], labels[:FRAMES])
    assert (found == labels[:FRAMES]).float().mean() > 0.9, "the masks mean something"
