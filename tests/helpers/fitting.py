"""Fits a network to one short clip in about a minute: trained enough that its masks mean something."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from cutie_geo.model.network import CutieGeo
from cutie_geo.structures import MemoryView


def clip_loss(model: CutieGeo, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over a few frames (T, 3, H, W) with label maps (T, H, W) in 0..N, the first of them given.

    Both sides are multiples of 16.
    """
    count = int(labels.max())
    truth = torch.stack([labels == i for i in range(1, count + 1)], dim=1).float()  # (T, N, H, W)
    features = [model.encode(image[None]) for image in images]
    memory = model.memorise(features[0], truth[:1], model.empty_sensory(features[0], count))
    keys, shrinkages, values = [features[0].key], [features[0].shrinkage], [memory.value]
    sensory, summary, mask = memory.sensory, memory.summary, truth[:1]
    losses = []
    for t in range(1, len(images)):
        view = MemoryView(torch.cat(keys, 1), torch.cat(shrinkages, 1), torch.cat(values, 2), sensory, summary, mask)
        readout = model.read(features[t], view)
        decoded = model.decode(features[t], readout.features, sensory)
        assert decoded.sensory is not None
        losses.append(F.cross_entropy(decoded.logits, labels[t : t + 1]))
        mask = decoded.logits.softmax(1)[:, 1:]
        memory = model.memorise(features[t], mask, decoded.sensory)
        keys.append(features[t].key)
        shrinkages.append(features[t].shrinkage)
        values.append(memory.value)
        sensory, summary = memory.sensory, summary + memory.summary
    return torch.stack(losses).mean()


def fit(
    model: CutieGeo, images: Tensor, labels: Tensor, steps: int, frames: int = 3, rate: float = 5e-4
) -> list[float]:
    """Train on random short runs of a clip, always the same ones; return the loss of each step."""
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    losses = []
    for _ in range(steps):
        skip = rng.randint(1, max(min(4, (len(images) - 1) // (frames - 1)), 1))
        start = rng.randint(0, len(images) - 1 - skip * (frames - 1))
        times = [start + skip * i for i in range(frames)]
        times = times[::-1] if rng.random() < 0.5 else times
        if not labels[times[0]].any():
            continue
        optimizer.zero_grad()
        loss = clip_loss(model, images[times], labels[times])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses
