"""Objects that are decoded around their masks instead of in the whole frame."""

import torch

from cutie_geo.inference.tracker import Tracker
from cutie_geo.inference.windows import choose_windows, mask_windows
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import soft_aggregate, upsample
from cutie_geo.regions import ABSENT, LARGEST_SHARE, Window

CELLS = (12, 20)
UNSEEN = torch.full((1, 1, *CELLS), -10.0)


def mask_of(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, *(16 * side for side in CELLS))
    mask[..., top * 16 : bottom * 16, left * 16 : right * 16] = 1
    return mask


def test_a_window_holds_the_last_mask_with_a_margin() -> None:
    assert choose_windows(mask_of(4, 6, 8, 12), UNSEEN) == [Window(3, 7, 7, 13)]
    assert choose_windows(mask_of(0, 8, 0, 8), UNSEEN) == [Window(0, 10, 0, 10)], "ends at the frame's edge"


def test_a_window_reaches_where_the_coarse_mask_is() -> None:
    coarse = UNSEEN.clone()
    coarse[..., 9, 15] = 3.0
    (window,) = choose_windows(mask_of(4, 6, 8, 12), coarse)
    assert window is not None
    assert window.bottom >= 11
    assert window.right >= 17


def test_lost_and_large_objects_are_decoded_in_the_whole_frame() -> None:
    lost = torch.zeros(1, 1, *(16 * side for side in CELLS))
    assert choose_windows(lost, UNSEEN) == [None]
    large = mask_of(0, 11, 0, 19)
    assert LARGEST_SHARE * CELLS[0] * CELLS[1] < 11 * 19
    assert choose_windows(large, UNSEEN) == [None]
    assert choose_windows(torch.cat([lost, mask_of(4, 6, 8, 12)], 1), UNSEEN.expand(1, 2, *CELLS)) == [
        None,
        Window(3, 7, 7, 13),
    ]


@torch.inference_mode()
def test_decoding_in_windows_changes_nothing_inside_and_removes_the_object_outside(tiny_model: CutieGeo) -> None:
    numbers = torch.Generator().manual_seed(0)
    features = tiny_model.encode(torch.rand(1, 3, 192, 320, generator=numbers))
    dim = tiny_model.config.value_dim
    readout, sensory = (torch.randn(1, 2, dim, *CELLS, generator=numbers) for _ in range(2))
    plain = tiny_model.decode(features, readout, sensory)
    windows = [Window(2, 11, 4, 18), None]
    decoded = tiny_model.decode(features, readout, sensory, windows=windows)
    assert plain.sensory is not None
    assert decoded.sensory is not None
    assert torch.allclose(decoded.sensory[:, 1], plain.sensory[:, 1], atol=1e-4), "the whole frame"
    inner = Window(5, 8, 8, 14)  # beyond the reach of the padding at the window's edge
    assert torch.allclose(inner.crop(decoded.sensory[:, 0]), inner.crop(plain.sensory[:, 0]), atol=1e-4)
    assert torch.allclose(inner.crop(decoded.logits, 16), inner.crop(plain.logits, 16), atol=1e-3)
    assert torch.equal(decoded.sensory[:, 0, :, :2], sensory[:, 0, :, :2]), "unchanged outside"
    absent = upsample(soft_aggregate(torch.full((1, 1, 8, 80), ABSENT).sigmoid()), 4)[:, 1]
    assert torch.allclose(decoded.logits[:, 1, :24], absent[:, :24], atol=1e-3)


@torch.inference_mode()
def test_masks_are_encoded_in_windows_over_shared_surroundings(tiny_model: CutieGeo) -> None:
    numbers = torch.Generator().manual_seed(0)
    features = tiny_model.encode(torch.rand(1, 3, 192, 320, generator=numbers))
    masks = torch.cat([mask_of(2, 5, 2, 5), mask_of(7, 10, 14, 18), torch.zeros(1, 1, 192, 320)], 1)
    sensory = torch.zeros(1, 3, tiny_model.config.value_dim, *CELLS)
    windows = mask_windows(masks)
    assert windows == [Window(1, 6, 1, 6), Window(6, 11, 13, 19), Window(0, 1, 0, 1)]
    plain = tiny_model.memorise(features, masks, sensory)
    assert all(
        torch.allclose(x, y, atol=1e-4)
        for x, y in zip(plain, tiny_model.memorise(features, masks, sensory, windows=[None] * 3))
    )
    inputs = torch.cat([features.image.expand(3, -1, -1, -1)[None], masks[:, :, None], masks.sum(1)[:, None, None]
                        - masks[:, :, None]], 2)  # fmt: skip
    encoder = tiny_model.mask_encoder
    (own,) = encoder._encode_windows(inputs, [Window(0, 12, 0, 17), *windows[1:]])
    alone, surroundings = encoder._encode(inputs[:, 0])[0], encoder._encode(inputs[:, 2])[0]
    inner = Window(0, 12, 0, 10)
    assert torch.allclose(inner.crop(own[0]), inner.crop(alone), atol=1e-3)
    assert not torch.allclose(inner.crop(own[2]), inner.crop(alone), atol=1e-2)
    assert torch.equal(own[2, :, 1:], surroundings[:, 1:]), "an absent object shares the surroundings"
    near = tiny_model.memorise(features, masks, sensory, windows=windows)
    inner = Window(2, 5, 2, 5)
    assert torch.allclose(inner.crop(near.sensory[:, 0]), inner.crop(plain.sensory[:, 0]), atol=0.2)
    assert torch.equal(near.sensory[:, 0, :, 7:], sensory[:, 0, :, 7:]), "unchanged outside"


def test_only_models_that_ask_for_windows_use_them(tiny_model: CutieGeo) -> None:
    assert Tracker(tiny_model).config.full_frame_every == 1
    tracker = Tracker(tiny_model, full_frame_every=3)
    image, mask = torch.rand(3, 96, 128), torch.zeros(96, 128, dtype=torch.long)
    mask[30:50, 40:60] = 1
    tracker.step(image, mask)
    seen = []
    for _ in range(6):
        seen.append(tracker._windows(torch.zeros(1, 1, 6, 8)) is None)
        tracker.step(image)
    assert seen == [False, False, True, False, False, True]
    again = Tracker(tiny_model)
    again.load_state_dict(tracker.state_dict())
    assert again.config.full_frame_every == 3
