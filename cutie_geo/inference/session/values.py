"""Checks of a session's values, from the user and from its file."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool

from cutie_geo.config import require
from cutie_geo.data.session_file import Info
from cutie_geo.inference.inputs import object_ids
from cutie_geo.inference.session.plan import DIRECTIONS
from cutie_geo.structures import ObjectId, Prompt

Numbers: TypeAlias = Sequence[Any] | np.ndarray
"""Points, labels or a box, as nested sequences or an array."""
Mask = Bool[np.ndarray, "H W"]


def as_object_id(value: Any) -> ObjectId:
    """Return an object id as a plain number. Raises ValueError for invalid ones."""
    return object_ids([value])[0]


def as_prompt(points: Numbers, labels: Numbers | None, box: Numbers | None, where: str) -> Prompt:
    """Return a prompt of clicks and a box. Raises ValueError beginning with `where`."""
    try:
        places = [(float(x), float(y)) for x, y in points]
        signs = [1] * len(places) if labels is None else [int(label) for label in labels]
        corners = None if box is None else tuple(float(x) for x in box)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: got {points!r:.60}, {box!r:.60}, expected (x, y) points and a box") from None
    require(len(signs) == len(places), f"{where}: got {len(signs)} labels for {len(places)} points, expected as many")
    require(set(signs) <= {0, 1}, f"{where}: got labels {signs}, expected 1 on the object and 0 beside it")
    require(bool(places) or box is not None, f"{where}: got no prompt, expected points or a box")
    if corners is not None:
        require(len(corners) == 4, f"{where}: got a box of {len(corners)} numbers, expected x0, y0, x1, y1")
        upright = corners[0] < corners[2] and corners[1] < corners[3]
        require(upright, f"{where}: got box {corners}, expected the upper left corner first")
    return Prompt(tuple((x, y, sign) for (x, y), sign in zip(places, signs)), corners)  # type: ignore[arg-type]


def prompt_in(info: Info) -> Prompt:
    """Return the prompt in an anchor's info."""
    points = tuple((float(x), float(y), int(label)) for x, y, label in info["points"])
    box = info["box"]
    return Prompt(points, None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3])))


def as_mask(mask: Any, size: tuple[int, int], where: str) -> Mask:
    """Return a mask as bool. Raises ValueError beginning with `where` for another shape or values besides 0 and 1."""
    array = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    require(array.shape == size, f"{where}: got shape {array.shape}, expected {size}, the size of the frames")
    values = np.unique(array).tolist() if array.dtype.kind in "biuf" else ["?"]
    plain = set(values) <= {0, 1} or set(values) <= {0, 255}
    require(plain, f"{where}: got values {values[:4]} of {array.dtype}, expected bool or 0 and 1")
    return np.ascontiguousarray(array != 0)


def _check_object(info: Info) -> None:
    assert isinstance(info["name"], str) and isinstance(info["order"], int)


def _check_anchor(info: Info) -> None:
    prompt_in(info)
    object_ids(info["over"])


def _check_layer(info: Info) -> None:
    assert isinstance(info["stale"], bool) and info["sides"] in DIRECTIONS and isinstance(info["pass"], int)
    assert info["presence"] is None or isinstance(info["presence"], float)
    assert all(isinstance(info.get(name), int | None) for name in ("origin", "given", "agreeing"))
    object_ids(info["over"])


def _check_lock(info: Info) -> None:
    object_ids([*info["objects"], *info["held"]])


CHECKS: dict[str, Callable[[Info], None]] = {
    "object": _check_object,
    "anchor": _check_anchor,
    "layer": _check_layer,
    "lock": _check_lock,
}
"""Checks of the infos of cells, which raise some error."""
