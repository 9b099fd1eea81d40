"""Every stage of the network gives the official program's numbers. Limits: Cutie specification, section 12.4."""

import numpy as np
import pytest
import torch
from parity_rules import synthetic_video
from torch import Tensor

from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import read_sparse, similarity, to_map, top_k_affinity
from cutie_geo.structures import MemoryView

SIZE = (6, 8)
"""Of the feature map of the fixtures' frames."""


@pytest.fixture(scope="module")
def stages(parity_model: CutieGeo) -> dict[str, Tensor]:
    """Every tensor that the fixtures name, subsampled as they are."""
    images, labels = (torch.from_numpy(x) for x in synthetic_video(96, 128, 2))
    masks = torch.stack([labels[:1] == i for i in (1, 2, 3)], dim=1).float()
    with torch.inference_mode():
        first, second = parity_model.encode(images[:1]), parity_model.encode(images[1:])
        memory = parity_model.memorise(first, masks, parity_model.empty_sensory(first, 3))
        scores = similarity(second.key, second.selection, first.key, first.shrinkage)
        weight, index = top_k_affinity(second.key, second.selection, first.key, first.shrinkage, 30)
        read, usage = read_sparse(weight, index, memory.value)
        affinity = torch.zeros_like(scores).scatter(2, index, weight)
        view = MemoryView(first.key, first.shrinkage, memory.value, memory.sensory, memory.summary, masks)
        readout = parity_model.read(second, view, top_k=30)
        decoded = parity_model.decode(second, readout.features, memory.sensory)
        assert decoded.sensory is not None
        probs = decoded.logits.softmax(1)
        again = parity_model.memorise(second, probs[:, 1:], decoded.sensory)
        selector = torch.tensor([[1.0, 1.0, 0.0]])
        aux = parity_model.auxiliary_logits(second, memory.sensory, readout.query_logits, selector)
    return {
        "f16": first.f16,
        "f8": first.f8[:, ::2],
        "f4": first.f4[:, ::4],
        "pix_feat": first.pixel,
        "key": to_map(first.key, SIZE),
        "shrinkage": to_map(first.shrinkage, SIZE),
        "selection": to_map(first.selection, SIZE),
        "value": to_map(memory.value, SIZE),
        "sensory": memory.sensory,
        "obj_value": memory.summary,
        "summary_logits": memory.summary_logits,
        "similarity": scores.mT,
        "affinity_full": scores.softmax(-1).mT,
        "affinity_topk": affinity.mT,
        "usage": usage,
        "visual_readout": to_map(read, SIZE)[:, :, ::2],
        "readout": readout.features,
        "q_logits": readout.query_logits,
        "sensory2": decoded.sensory[:, :, ::2],
        "logits2": decoded.logits[..., ::2, ::2],
        "prob2": probs[..., ::2, ::2],
        "value2": to_map(again.value, SIZE)[:, :, ::4],
        "sensory3": again.sensory[:, :, ::4],
        "obj_value2": again.summary,
        "aux_sensory_logits": aux[0],
        "aux_q_logits": aux[1],
    }


def test_every_stage_gives_the_official_numbers(
    stages: dict[str, Tensor], parity_numbers: dict[str, np.ndarray]
) -> None:
    official = {name.removeprefix("mod_"): x for name, x in parity_numbers.items() if name.startswith("mod_")}
    assert set(official) - set(stages) == {"fused"}, "the input of the object transformer has a test of its own"
    for name, ours in stages.items():
        wanted = torch.from_numpy(official[name])
        limit = 5e-5 * max(1.0, float(wanted.abs().max()))
        assert ours.shape == wanted.shape, name
        assert float((ours - wanted).abs().max()) <= limit, name


def test_pixel_fusion_gives_the_official_numbers(parity_model: CutieGeo, parity_numbers: dict[str, np.ndarray]) -> None:
    images, labels = (torch.from_numpy(x) for x in synthetic_video(96, 128, 2))
    masks = torch.stack([labels[:1] == i for i in (1, 2, 3)], dim=1).float()
    fused: list[Tensor] = []
    hook = parity_model.pixel_fusion.register_forward_hook(lambda module, inputs, output: fused.append(output))
    with torch.inference_mode():
        first, second = parity_model.encode(images[:1]), parity_model.encode(images[1:])
        memory = parity_model.memorise(first, masks, parity_model.empty_sensory(first, 3))
        view = MemoryView(first.key, first.shrinkage, memory.value, memory.sensory, memory.summary, masks)
        parity_model.read(second, view, top_k=30)
    hook.remove()
    wanted = torch.from_numpy(parity_numbers["mod_fused"])
    assert float((fused[0][:, :, ::2] - wanted).abs().max()) <= 5e-5 * max(1.0, float(wanted.abs().max()))
