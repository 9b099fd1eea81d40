"""Pictures bent and moved: by an affine map, and by a thin-plate spline; image and mask by the same numbers.

Maps go backwards, from a pixel of the result to a place in the source. Affine ones count from the corner of the first
pixel, whose centre lies at (0.5, 0.5), so that they fit frames of any resolution.
"""

import math

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8, UInt16

MEAN_COLOUR = (124, 116, 104)
"""RGB of what lies outside of a frame: the mean of ImageNet."""
SOFTEN = 1.25
"""Shrinking by more than this is preceded by an average over areas, without which fine patterns would flicker."""
TINY = 1e-6
"""Keeps the logarithm of the spline's kernel finite. Source: Cutie specification, section 8.2.1."""

Affine = Float64[np.ndarray, "3 3"]
"""(x, y, 1) in the result to (x, y, 1) in the source."""
Image = UInt8[np.ndarray, "_ _ 3"]
"""RGB."""
Labels = UInt8[np.ndarray, "_ _"] | UInt16[np.ndarray, "_ _"]
"""Ids, 0 is background."""
Distance = Float32[np.ndarray, "_ _"]
"""From the camera, NaN where it isn't known."""
Layer = Float32[np.ndarray, "_ _ 4"]
"""RGB times alpha, and alpha, from 0 to 1."""
Number = int | float


# -------------------------------------------------------------------------------------------------------------- affine
def turn_and_shear(size: tuple[int, int], degrees: Number, scale: Number, shear: Number) -> Affine:
    """The backward map of turning clockwise by `degrees`, scaling and shearing along x, about the middle of (H, W).

    The same as torchvision's `affine` with these numbers.
    """
    turn, slant = math.radians(degrees), math.tan(math.radians(shear))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    back = np.linalg.inv(scale * rotation @ np.array([[1, -slant], [0, 1]]))
    centre = np.array([size[1] / 2, size[0] / 2])
    return _affine(back, centre - back @ centre)


def mirror(size: tuple[int, int]) -> Affine:
    """The map that swaps left and right in a frame of `size` (H, W)."""
    return _affine(np.diag([-1.0, 1.0]), np.array([size[1], 0.0]))


def crop_box(top: Number, left: Number, height: Number, width: Number, crop: int) -> Affine:
    """The backward map of cutting out a box and bringing it to `crop` x `crop` pixels."""
    return _affine(np.diag([width / crop, height / crop]), np.array([left, top], float))


def _affine(linear: np.ndarray, offset: np.ndarray) -> Affine:
    return np.block([[linear, offset[:, None]], [np.array([[0.0, 0.0, 1.0]])]])


def shift_image(
    image: Image, back: Affine, size: tuple[int, int], nearest: bool = False
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """What `back` shows of an image, at `size` (H, W): bilinear, after an average over areas where it shrinks much."""
    shrink = math.sqrt(abs(np.linalg.det(back[:2, :2])))
    if shrink > SOFTEN and not nearest:
        height, width = image.shape[:2]
        smaller = max(round(width / shrink), 1), max(round(height / shrink), 1)
        back = np.diag([smaller[0] / width, smaller[1] / height, 1.0]) @ back
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return _warp(image, back, size, how, MEAN_COLOUR)


def shift_labels(labels: Labels, back: Affine, size: tuple[int, int]) -> Labels:
    """What `back` shows of a label map, at `size` (H, W): the nearest pixel, 0 outside."""
    return _warp(labels, back, size, cv2.INTER_NEAREST, 0)


def shift_distance(distance: Distance, back: Affine, size: tuple[int, int]) -> Distance:
    """What `back` shows of distances, at `size` (H, W): the nearest pixel, NaN outside."""
    return _warp(distance, back, size, cv2.INTER_NEAREST, float("nan"))


def shift_layer(layer: Layer, back: Affine, size: tuple[int, int]) -> Layer:
    """What `back` shows of a layer, at `size` (H, W): bilinear, nothing outside."""
    return _warp(layer, back, size, cv2.INTER_LINEAR, 0)


def _warp(pixels: np.ndarray, back: Affine, size: tuple[int, int], how: int, outside: object) -> np.ndarray:
    half = np.array([0.5, 0.5])
    matrix = back[:2].copy()
    matrix[:, 2] += matrix[:, :2] @ half - half  # OpenCV counts from the centre of the first pixel
    flags = how | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=outside)  # type: ignore[call-overload]


# -------------------------------------------------------------------------------------------------------------- spline
def draw_bend(
    size: tuple[int, int], points: int, strength: float, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Where each pixel of a bent picture of `size` (H, W) comes from: x and y in pixels, as `cv2.remap` takes them.

    `points` control points, no two in one row or column, move by normal steps whose standard deviation is `strength`
    times the sides. Between them the movement is the thin-plate spline through theirs. Raises ValueError if the
    picture has fewer rows or columns than points. Source: Cutie specification, section 8.2.1.
    """
    height, width = size
    places = np.stack(
        [rng.choice(width, points, replace=False) / width, rng.choice(height, points, replace=False) / height], axis=1
    )
    moved = rng.normal(0, strength, (points, 2))
    x, y = np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32)
    dx, dy = spline(places, moved, x[None, :], y[:, None])
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return columns[None, :] + dx * width, rows[:, None] + dy * height


def spline(
    places: Float64[np.ndarray, "K 2"],
    values: Float64[np.ndarray, "K D"],
    x: Float32[np.ndarray, "#H #W"],
    y: Float32[np.ndarray, "#H #W"],
) -> Float32[np.ndarray, "D H W"]:
    """The thin-plate spline that takes `values` at `places`, everywhere else: the least bent of all such surfaces.

    x and y are broadcast against each other: a row and a column give a grid. Source: F. L. Bookstein, "Principal
    Warps", PAMI 1989.
    """
    count = len(places)
    plane = np.concatenate([np.ones((count, 1)), places], axis=1)
    squares = np.square(places[:, None] - places[None]).sum(axis=2)
    system = np.block([[_kernel(squares), plane], [plane.T, np.zeros((3, 3))]])
    weights = np.linalg.solve(system, np.concatenate([values, np.zeros((3, values.shape[1]))])).astype(np.float32)
    across, down = places.astype(np.float32).T[:, :, None, None]
    bent = np.tensordot(weights[:count].T, _kernel(np.square(x - across) + np.square(y - down)), axes=1)
    constant, along_x, along_y = weights[count:, :, None, None]
    return bent + constant + along_x * x + along_y * y


def _kernel(square: np.ndarray) -> np.ndarray:
    """r^2 log r of squared distances: without a root, which would take longer than all the rest."""
    return square * np.log(square + TINY**2) / 2


def bend_image(image: Image, x: Float[np.ndarray, "H W"], y: Float[np.ndarray, "H W"]) -> Image:
    """The image with each pixel taken from (x, y), bilinear."""
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=MEAN_COLOUR)  # type: ignore[return-value]


def bend_labels(labels: Labels, x: Float[np.ndarray, "H W"], y: Float[np.ndarray, "H W"]) -> Labels:
    """The label map with each pixel taken from the one nearest to (x, y)."""
    return cv2.remap(labels, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)  # type: ignore[return-value]


def bend_layer(layer: Layer, x: Float[np.ndarray, "H W"], y: Float[np.ndarray, "H W"]) -> Layer:
    """The layer with each pixel taken from (x, y), bilinear."""
    return cv2.remap(layer, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)  # type: ignore[return-value, call-overload]
