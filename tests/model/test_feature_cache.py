"""Features on disk are those of the same pixels and the same encoder, or none."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from cutie_geo.model.feature_cache import FeatureCache, pixel_keys


class Counted:
    """An encoder that counts the images that it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        self.seen += len(images)
        return images.mean(1, keepdim=True), images[:, :, ::2, ::2] * 2


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


def test_a_frame_is_encoded_once(tmp_path: Path) -> None:
    encoder, x = Counted(), images()
    cache = FeatureCache(tmp_path)
    first = cache.fetch("vision-1", x, encoder)
    again = FeatureCache(tmp_path).fetch("vision-1", x[[2, 0]], encoder)
    assert encoder.seen == 3
    assert all(torch.equal(a[[2, 0]], b) for a, b in zip(first, again))
    assert (cache.hits, cache.misses) == (0, 3)


def test_new_frames_and_known_ones_keep_their_places(tmp_path: Path) -> None:
    encoder, x = Counted(), images(4)
    cache = FeatureCache(tmp_path)
    cache.fetch("a", x[1:3], encoder)
    found = cache.fetch("a", x, encoder)
    assert encoder.seen == 4
    assert all(torch.equal(a, b) for a, b in zip(found, Counted()(x)))


def test_another_encoder_or_one_other_pixel_is_another_frame(tmp_path: Path) -> None:
    encoder, x = Counted(), images(1)
    cache = FeatureCache(tmp_path)
    cache.fetch("a", x, encoder)
    cache.fetch("b", x, encoder)
    x[0, 1, 3, 4] += 2**-20
    cache.fetch("a", x, encoder)
    assert encoder.seen == 3


def test_keys_differ_for_all_that_differs_and_only_for_that() -> None:
    x = images(1)
    changed = [x.flip(-1), x.flip(1), x.roll(1, -1), -x, x.transpose(-1, -2), x[..., :7], torch.zeros_like(x)]
    keys = [pixel_keys(each)[0] for each in (x, *changed)]
    assert len(set(keys)) == len(keys)
    assert pixel_keys(x.clone()) == pixel_keys(x) == pixel_keys(x.contiguous(memory_format=torch.channels_last))


def test_half_a_file_is_no_file(tmp_path: Path) -> None:
    encoder, x = Counted(), images(1)
    FeatureCache(tmp_path).fetch("a", x, encoder)
    path = next(tmp_path.rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:50])
    found = FeatureCache(tmp_path).fetch("a", x, encoder)
    assert torch.equal(found[1], Counted()(x)[1])
    assert encoder.seen == 2


def test_a_full_disk_ends_the_keeping_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cutie_geo.model.feature_cache.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    encoder, cache = Counted(), FeatureCache(tmp_path)
    for _ in range(2):
        assert len(cache.fetch("a", images(), encoder)) == 2
    assert encoder.seen == 6
    assert caplog.text.count("no more features are kept") == 1
    assert not list(tmp_path.rglob("*.safetensors"))
