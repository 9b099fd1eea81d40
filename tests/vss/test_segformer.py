"""SegFormer gives classes of frames: a tiny random one, saved and loaded as published ones are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from cutie_geo.vss.segformer import Segformer, load_segformer

CLASSES = 124
SIZES = {
    "depths": [1] * 4,
    "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}
"""Of the smallest one that has every part."""


def write_segformer(folder: Path, classes: int = CLASSES, seed: int = 0) -> SegformerForSemanticSegmentation:
    """A tiny one with random weights, saved to a folder."""
    config = SegformerConfig.from_dict(SIZES | {"num_labels": classes})
    torch.manual_seed(seed)
    network = SegformerForSemanticSegmentation(config).eval()
    network.save_pretrained(folder)
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("segformer")
    write_segformer(path)
    return path


def test_classes_are_those_of_the_network_on_the_whole_frame(folder: Path) -> None:
    assert (folder / "model.safetensors").is_file()
    model = load_segformer(str(folder), CLASSES, "cpu", "fp32")
    assert (model.classes, model.network.training) == (CLASSES, False)
    image = torch.rand(3, 61, 95, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(x)[:, None, None] for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        logits = model.network(pixel_values=((image - mean) / std)[None]).logits
    wanted = torch.nn.functional.interpolate(logits, (61, 95), mode="bilinear", align_corners=False)[0].argmax(0)
    labels = model(image)
    np.testing.assert_array_equal(labels, wanted.numpy())
    assert len(np.unique(labels)) > 1


def test_other_weights_have_another_digest(folder: Path, tmp_path: Path) -> None:
    write_segformer(tmp_path, seed=1)
    digests = {load_segformer(str(path), CLASSES, "cpu", "fp32").digest() for path in (folder, folder, tmp_path)}
    assert len(digests) == 2


def test_what_is_no_segformer_of_these_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 124 classes, expected at most 19"):
        load_segformer(str(folder), 19, "cpu", "fp32")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match="cannot be loaded as a SegFormer"):
        load_segformer(str(tmp_path), CLASSES, "cpu", "fp32")
    model = Segformer(load_segformer(str(folder), CLASSES, "cpu", "fp32").network)
    with pytest.raises(ValueError, match=r"got a frame of \(31, 64\), expected at least 32"):
        model(torch.rand(3, 31, 64))
