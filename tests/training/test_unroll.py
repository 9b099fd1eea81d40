"""Training sees what inference sees, and a clip doesn't know which others it is trained beside."""

import pytest
import torch
from parity_rules import synthetic_video
from torch import Tensor

from cutie_geo.checkpoints.load import load_model
from cutie_geo.config import LossConfig, UnrollConfig
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.structures import ClipBatch
from cutie_geo.training.losses import batch_losses
from cutie_geo.training.sampling import deep_updates, generators, reference_frames
from cutie_geo.training.unroll import _view, encode_clips, encode_with_depth, unroll, with_distance

FRAMES = 5


def clips(seeds: tuple[int, ...] = (0,), objects: tuple[int, ...] = (3,)) -> ClipBatch:
    """The synthetic video, later frames for later clips, with its first objects only."""
    images, labels = (torch.from_numpy(x) for x in synthetic_video(64, 96, FRAMES + len(seeds)))
    rows = torch.stack([torch.arange(FRAMES) + b for b in range(len(seeds))])
    labels = labels[rows]
    for b, count in enumerate(objects):
        labels[b][labels[b] > count] = 0
    names = tuple(str(seed) for seed in seeds)
    return ClipBatch(images[rows], labels, torch.tensor(objects), torch.tensor(seeds), names)


def rows(batch: ClipBatch, *which: int) -> ClipBatch:
    """Some of the clips."""
    index = torch.tensor(which)
    tensors = (field[index] for field in (batch.images, batch.labels, batch.num_objects, batch.seeds))
    return ClipBatch(*tensors, tuple(batch.names[b] for b in which))


@torch.no_grad()
def test_training_gives_what_inference_gives_on_the_same_frames(tiny_model: CutieGeo) -> None:
    batch = clips()
    said = unroll(tiny_model, batch, UnrollConfig(reference_frames=FRAMES), [True] * FRAMES)
    # every frame enters memory, nothing leaves it, and every token is read: what training does
    tracker = Tracker(tiny_model, mem_every=1, max_mem_frames=FRAMES, top_k=10**6)
    tracker.step(batch.images[0, 0], batch.labels[0, 0])
    for t in range(1, FRAMES):
        wanted = tracker.step(batch.images[0, t])
        got = said.logits[0, t - 1].softmax(0)
        # the tracker aggregates the given mask once, training takes it as it is
        assert float((wanted - got).abs().max()) < 1e-4, t
    assert float(wanted.argmax(0).unique().numel()) > 1, "nothing to compare but background"


@torch.no_grad()
def test_the_memory_read_of_training_is_that_of_inference(tiny_model: CutieGeo) -> None:
    batch, past = clips(), [0, 1, 2]
    features = encode_clips(tiny_model, batch.images)
    tracker = Tracker(tiny_model, mem_every=1, max_mem_frames=FRAMES, top_k=10**6)
    memory = []
    for t in past:
        tracker.step(batch.images[0, t], batch.labels[0, t] if t == 0 else None)
        assert tracker.last_mask is not None
        empty = tiny_model.empty_sensory(features[t], 3)
        memory.append(tiny_model.memorise(features[t], tracker.last_mask, empty))  # values don't hang on sensory memory
    assert tracker.last_mask is not None
    assert tracker.memory.sensory is not None
    _, theirs = next(tracker.memory.views(tracker.last_mask))
    ours = _view(features, memory, [past], tracker.memory.sensory, tracker.last_mask)
    trained = tiny_model.read(features[3], ours, selector=torch.ones(1, 3))
    inferred = tiny_model.read(tracker.encode(batch.images[0, 3]), theirs, top_k=tracker.config.top_k)
    assert ours.key.shape[1] == theirs.key.shape[1] == 3 * 4 * 6
    for name in ("features", "query_logits", "usage"):
        wanted = getattr(inferred, name)
        limit = 1e-4 * max(1.0, float(wanted.abs().max()))
        assert float((getattr(trained, name) - wanted).abs().max()) < limit, name


@torch.no_grad()
def test_a_clip_does_not_depend_on_those_beside_it(tiny_model: CutieGeo) -> None:
    both, config = clips(seeds=(5, 6), objects=(3, 1)), UnrollConfig(reference_frames=2)
    together = unroll(tiny_model, both, config, [True, False, True, False, False])
    for b, channels in enumerate((4, 2)):
        alone = unroll(tiny_model, rows(both, b), config, [True, False, True, False, False])
        assert alone.logits.shape[2] == channels
        difference = alone.logits[0] - together.logits[b][:, :channels]
        assert float(difference.abs().max()) < 1e-3, "logits run to 16 either way"
        assert torch.equal(alone.logits[0].argmax(1), together.logits[b].argmax(1))


@torch.no_grad()
def test_clips_read_the_references_of_their_own_seeds(tiny_model: CutieGeo) -> None:
    config = UnrollConfig(reference_frames=1)
    seeds = [s for s in range(50) if reference_frames(s, FRAMES, 1)[4] == [0]][:1] + [
        s for s in range(50) if reference_frames(s, FRAMES, 1)[4] == [3]
    ][:1]
    last = [unroll(tiny_model, clips((seed,)), config, [True] * FRAMES).logits[0, 3] for seed in seeds]
    assert not torch.equal(*last)


def test_references_are_all_frames_while_these_are_few_and_drawn_after() -> None:
    drawn = [reference_frames(seed, 8, 3) for seed in range(200)]
    assert all(row[t] == list(range(t)) for row in drawn for t in range(4))
    assert all(len(row[7]) == 3 and row[7] == sorted(set(row[7])) and max(row[7]) < 7 for row in drawn)
    assert {t for row in drawn for t in row[7]} == set(range(7))
    assert any(0 not in row[7] for row in drawn), "the first frame is not guaranteed"


def test_deep_updates_are_the_same_in_every_process_and_as_frequent_as_asked() -> None:
    assert deep_updates(3, 7, 8, 0.2) == deep_updates(3, 7, 8, 0.2)
    draws = [deep for step in range(500) for deep in deep_updates(0, step, 8, 0.2)[1:]]
    assert 0.17 < sum(draws) / len(draws) < 0.23
    assert all(deep_updates(0, step, 8, 0.0) == [True] + [False] * 7 for step in range(5))


@pytest.mark.parametrize("at_once", [1, 2, 7])
@torch.no_grad()
def test_encoding_in_parts_changes_nothing_but_rounding(tiny_model: CutieGeo, at_once: int) -> None:
    batch = clips(seeds=(0, 1), objects=(2, 2))
    whole, parts = encode_clips(tiny_model, batch.images), encode_clips(tiny_model, batch.images, at_once)
    for a, b in zip(whole, parts, strict=True):
        assert a.image.shape == (2, 3, 64, 96)
        for x, y in zip(a, b):
            assert (x is None and y is None) or float((x - y).abs().max()) < 1e-4  # type: ignore[operator]


def test_bytes_and_floats_are_the_same_images(tiny_model: CutieGeo) -> None:
    batch = clips()
    quantised = batch.images.mul(255).round().byte()
    config, deep = UnrollConfig(), [True] * FRAMES
    with torch.no_grad():
        a = unroll(tiny_model, batch._replace(images=quantised), config, deep)
        b = unroll(tiny_model, batch._replace(images=quantised.float() / 255), config, deep)
    assert torch.equal(a.logits, b.logits)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_back_through_every_frame(tiny_model: CutieGeo, checkpointing: bool) -> None:
    images: Tensor = clips().images.clone().requires_grad_()
    said = unroll(tiny_model, clips()._replace(images=images), UnrollConfig(checkpointing=checkpointing), [True] * 5)
    said.logits[:, -1].sum().backward()
    assert images.grad is not None
    reached = images.grad.abs().flatten(2).sum(-1)[0]
    tiny_model.zero_grad(set_to_none=True)
    assert (reached > 0).all(), "the last frame's masks depend on all frames"


# --------------------------------------------------------------------------------------------------------------- depth
@pytest.fixture(scope="module")
def geo_model() -> CutieGeo:
    """The smallest model with a geometry encoder, at random."""
    return load_model("cutie-geo-nano", "none", "cpu", "fp32").train()


@torch.no_grad()
@pytest.mark.parametrize("chosen", [[0], [1, 2], [0, 1, 2]])
def test_depth_is_told_of_first_frames_and_changes_no_features(geo_model: CutieGeo, chosen: list[int]) -> None:
    images = torch.rand(3, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features, depth = encode_with_depth(geo_model, images, chosen)
    for got, wanted in zip(features, encode_clips(geo_model, images)):
        for a, b in zip(got[:-1], wanted[:-1]):
            assert torch.allclose(a, b, atol=1e-5)  # type: ignore[arg-type]
    alone = geo_model.encode(images[chosen, 0], with_depth=True).depth
    assert alone is not None
    assert torch.allclose(depth, alone, atol=1e-5)
    assert depth.shape == (len(chosen), 56, 56)


def test_clips_with_distances_are_found_and_one_is_taken_where_there_is_none() -> None:
    batch = clips((0, 1, 2), (3, 3, 3))
    assert with_distance(batch) == [0]
    distance = torch.full(batch.labels.shape, torch.nan)
    assert with_distance(batch._replace(distance=distance)) == [0]
    distance[2, 0, 5, 5] = 1.0
    assert with_distance(batch._replace(distance=distance)) == [2]
    distance[1, 1] = 1.0
    assert with_distance(batch._replace(distance=distance)) == [2], "later frames' depth is not told"


@pytest.mark.parametrize("known", [True, False])
def test_training_with_depth_reaches_every_weight(geo_model: CutieGeo, known: bool) -> None:
    images = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, 3, 64, 64, dtype=torch.long)
    labels[:, :, 16:48, 16:48] = 1
    batch = ClipBatch(images, labels, torch.tensor([1, 1]), torch.tensor([0, 1]), ("a", "b"))
    batch = batch._replace(distance=1 + images[:, :, 0]) if known else batch
    said = unroll(geo_model, batch, UnrollConfig(), [True] * 3, with_depth=True)
    losses, _ = batch_losses(said, batch, LossConfig(depth_weight=0.1), generators([0, 1], torch.device("cpu")))
    losses["total"].backward()
    unreached = {name for name, weight in geo_model.named_parameters() if weight.grad is None}
    geo_model.zero_grad(set_to_none=True)
    assert {name for name in unreached if ".head." in name} == set()
    assert unreached <= {"encoder.geometry.model.backbone.embeddings.mask_token"} | {
        name for name in unreached if "residual_layer1" in name
    }
