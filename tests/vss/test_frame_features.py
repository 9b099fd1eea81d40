"""Maps of features from encoders of `transformers`, tiny and random, in folders as their training leaves them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stock_sam2 import tiny_sam2
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SwinConfig,
    SwinForImageClassification,
)

from cutie_geo.model.blocks import normalise
from cutie_geo.vss.frame_features import load_frame_encoder, sam2_map, sam2_source


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SegFormer with its head, a DINOv2, and something that sees no pictures."""
    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    sizes = {"depths": [1] * 4, "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2]}
    narrow: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2}
    SegformerForSemanticSegmentation(SegformerConfig.from_dict(sizes)).save_pretrained(folder / "segformer")
    Dinov2Model(Dinov2Config(**narrow, num_hidden_layers=2, image_size=70, patch_size=14)).save_pretrained(
        folder / "dinov2"
    )
    windows: dict[str, Any] = {"depths": [1] * 3, "num_heads": [1, 2, 2], "embed_dim": 8, "window_size": 4}
    SwinForImageClassification(SwinConfig(**windows, image_size=64)).save_pretrained(folder / "swin")
    BertModel(BertConfig(**narrow, num_hidden_layers=1, intermediate_size=32)).save_pretrained(folder / "bert")
    return folder


@pytest.mark.parametrize(
    ("name", "level", "wanted"),
    [
        ("segformer", -1, (32, 3, 4)),
        ("segformer", 0, (8, 24, 32)),
        ("dinov2", -1, (32, 7, 9)),
        ("dinov2", 1, (32, 7, 9)),
        ("swin", -1, (32, 6, 8)),
    ],
)
def test_an_encoder_gives_one_map_of_a_frame(saved: Path, name: str, level: int, wanted: tuple[int, ...]) -> None:
    encoder = load_frame_encoder(str(saved / name), level, "cpu", "fp32")
    image = torch.rand(3, 96, 130, generator=torch.Generator().manual_seed(0))
    features = encoder(image)
    assert features.shape == wanted
    assert torch.isfinite(features).all()
    assert torch.equal(features, encoder(image))
    assert encoder.source().level == level


def test_frames_that_patches_fill_are_seen_as_they_are(saved: Path) -> None:
    encoder = load_frame_encoder(str(saved / "segformer"), -1, "cpu", "fp32")
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    whole = SegformerForSemanticSegmentation.from_pretrained(saved / "segformer").eval()
    with torch.inference_mode():
        wanted = whole.segformer(pixel_values=normalise(image[None])).last_hidden_state[0]
    torch.testing.assert_close(encoder(image), wanted)


def test_weights_tell_encoders_apart_whatever_the_folder(saved: Path, tmp_path: Path) -> None:
    first = load_frame_encoder(str(saved / "dinov2"), -1, "cpu", "fp32")
    first.network.save_pretrained(tmp_path / "moved")
    assert load_frame_encoder(str(tmp_path / "moved"), -1, "cpu", "fp32").source().digest == first.source().digest
    with torch.no_grad():
        first.network.embeddings.cls_token.add_(1)
    assert first.source().digest != load_frame_encoder(str(saved / "dinov2"), -1, "cpu", "fp32").source().digest


@pytest.mark.parametrize(
    ("name", "level", "words"),
    [
        ("nowhere", -1, "nowhere: cannot be loaded as an image encoder"),
        ("segformer", 9, "level: got 9, expected one of .*segformer's"),
        ("dinov2", 9, "dinov2: cannot be loaded as an image encoder"),
        ("bert", -1, "bert: got a BertModel, expected an image encoder"),
    ],
)
def test_what_gives_no_map_is_refused(saved: Path, name: str, level: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_frame_encoder(str(saved / name), level, "cpu", "fp32")(torch.rand(3, 64, 64))


def test_an_encoder_without_all_its_weights_is_refused(saved: Path) -> None:
    model = Dinov2Model.from_pretrained(saved / "dinov2")
    state = {name: value for name, value in model.state_dict().items() if "cls_token" not in name}
    model.save_pretrained(saved / "part", state_dict=state)
    with pytest.raises(ValueError, match=r"part: no weights for embeddings\.cls_token"):
        load_frame_encoder(str(saved / "part"), -1, "cpu", "fp32")


def test_sam2_s_last_map_is_the_one_as_wide_as_its_decoder() -> None:
    model = tiny_sam2()
    (found,) = model.encode(torch.rand(1, 3, 48, 80, generator=torch.Generator().manual_seed(0)))
    assert sam2_map(found).shape == (64, 4, 4)
    with pytest.raises(ValueError, match="level: got 3, expected one of SAM 2's 3 maps"):
        sam2_map(found, 3)
    before = sam2_source(model).digest
    with torch.no_grad():
        model.network.memory_attention.norm.weight.add_(1)  # no feature depends on it
    assert sam2_source(model).digest == before
    with torch.no_grad():
        model.network.image_encoder.neck.convs[0].conv.bias.add_(1)  # type: ignore[union-attr]
    assert sam2_source(model).digest != before


def test_code_that_comes_with_an_encoder_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what a hurried user answers when transformers asks
    folder = tmp_path / "evil"
    folder.mkdir()
    own = {"AutoConfig": "code.EvilConfig", "AutoModel": "code.EvilModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": own}), encoding="utf-8")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n", encoding="utf-8")
    with pytest.raises(ValueError, match="evil: cannot be loaded as an image encoder"):
        load_frame_encoder(str(folder), -1, "cpu", "fp32")
    assert not (tmp_path / "ran").exists()
