"""Affine and thin-plate-spline warps of images and masks.

Maps are backward, from a pixel of the result to a position in the source. Affine maps have their origin at the corner
of the first pixel, whose centre is (0.5, 0.5), so they apply to frames of any resolution.
"""

import math

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8, UInt16

MEAN_COLOUR = (124, 116, 104)
"""RGB of pixels outside the frame: the ImageNet mean."""
SOFTEN = 1.25
"""Shrink factor above which an area average precedes interpolation, to avoid aliasing."""
BEND_STEP = 4
"""Grid step, in pixels, of a computed bend, which is smooth and interpolated between grid points."""
TINY = 1e-6
"""Offset that keeps the logarithm of the spline's kernel finite. Source: Cutie specification, section 8.2.1."""

Affine = Float64[np.ndarray, "3 3"]
"""(x, y, 1) in the result to (x, y, 1) in the source."""
Image = UInt8[np.ndarray, "_ _ 3"]
"""RGB."""
Labels = UInt8[np.ndarray, "_ _"] | UInt16[np.ndarray, "_ _"]
"""Ids, 0 is background."""
Distance = Float32[np.ndarray, "_ _"]
"""Distance from the camera, NaN where it is unknown."""
Layer = Float32[np.ndarray, "_ _ 4"]
"""Premultiplied RGBA, from 0 to 1."""
Number = int | float


# -------------------------------------------------------------------------------------------------------------- affine
def turn_and_shear(size: tuple[int, int], degrees: Number, scale: Number, shear: Number) -> Affine:
    """Return the backward map of rotating clockwise by `degrees`, scaling and shearing along x about the centre of (H,
    W).

    Equal to torchvision's `affine` with these numbers.
    """
    turn, slant = math.radians(degrees), math.tan(math.radians(shear))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    back = np.linalg.inv(scale * rotation @ np.array([[1, -slant], [0, 1]]))
    centre = np.array([size[1] / 2, size[0] / 2])
    return _affine(back, centre - back @ centre)


def mirror(size: tuple[int, int]) -> Affine:
    """Return the map that flips a frame of `size` (H, W) horizontally."""
    return _affine(np.diag([-1.0, 1.0]), np.array([size[1], 0.0]))


def crop_box(top: Number, left: Number, height: Number, width: Number, crop: int) -> Affine:
    """Return the backward map that crops a box and resizes it to `crop` x `crop` pixels."""
    return _affine(np.diag([width / crop, height / crop]), np.array([left, top], float))


def _affine(linear: np.ndarray, offset: np.ndarray) -> Affine:
    return np.block([[linear, offset[:, None]], [np.array([[0.0, 0.0, 1.0]])]])


def shift_image(image: Image, back: Affine, size: tuple[int, int]) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Warp an image to `size` (H, W): bilinear, after an area average where it shrinks much."""
    shrink = math.sqrt(abs(np.linalg.det(back[:2, :2])))
    if shrink > SOFTEN:
        image, back = _shown_part(image, back, size, margin=math.ceil(shrink) + 1)
        height, width = image.shape[:2]
        smaller = max(round(width / shrink), 1), max(round(height / shrink), 1)
        back = np.diag([smaller[0] / width, smaller[1] / height, 1.0]) @ back
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return _warp(image, back, size, cv2.INTER_LINEAR, MEAN_COLOUR)


def _shown_part(image: Image, back: Affine, size: tuple[int, int], margin: int) -> tuple[Image, Affine]:
    """Crop an image to the part that `back` shows, with a margin; return it and the map into it."""
    height, width = size
    corners = back[:2] @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    low, high = np.floor(corners.min(1)).astype(int) - margin, np.ceil(corners.max(1)).astype(int) + margin
    left, top = np.clip(low, 0, None)
    right, bottom = np.minimum(high, image.shape[1::-1])
    if right <= left or bottom <= top:  # nothing of it is shown
        return image, back
    move = np.eye(3)
    move[:2, 2] = -left, -top
    return image[top:bottom, left:right], move @ back


def shift_labels(labels: Labels, back: Affine, size: tuple[int, int]) -> Labels:
    """Warp a label map to `size` (H, W): nearest neighbour, 0 outside."""
    return _warp(labels, back, size, cv2.INTER_NEAREST, 0)


def shift_distance(distance: Distance, back: Affine, size: tuple[int, int]) -> Distance:
    """Warp a distance map to `size` (H, W): nearest neighbour, NaN outside."""
    return _warp(distance, back, size, cv2.INTER_NEAREST, float("nan"))


def shift_layer(layer: Layer, back: Affine, size: tuple[int, int]) -> Layer:
    """Warp a layer to `size` (H, W): bilinear, transparent outside."""
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
    """Sample a random bend of an image of `size` (H, W) as source coordinates x and y in pixels, for `cv2.remap`.

    `points` control points, no two in one row or column, move by normal steps with a standard deviation of `strength`
    times the sides. A thin-plate spline interpolates between them. Source: Cutie specification, section 8.2.1.

    Raises:
        ValueError: if the image has fewer rows or columns than points.
    """
    height, width = size
    places = np.stack(
        [rng.choice(width, points, replace=False) / width, rng.choice(height, points, replace=False) / height], axis=1
    )
    moved = rng.normal(0, strength, (points, 2))
    coarse_y, coarse_x = (-(-side // BEND_STEP) + 1 for side in size)
    x, y = (np.arange(count, dtype=np.float32) * BEND_STEP for count in (coarse_x, coarse_y))
    shifts = spline(places, moved, x[None, :] / max(width - 1, 1), y[:, None] / max(height - 1, 1))
    dx, dy = (_between(shift, size) for shift in shifts)
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return columns[None, :] + dx * width, rows[:, None] + dy * height


def _between(coarse: Float32[np.ndarray, "h w"], size: tuple[int, int]) -> Float32[np.ndarray, "H W"]:
    """Interpolate a grid with a step of `BEND_STEP` pixels to `size`, bicubic."""
    matrix = np.diag([1 / BEND_STEP, 1 / BEND_STEP, 1.0])[:2]
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(coarse, matrix, size[::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def spline(
    places: Float64[np.ndarray, "K 2"],
    values: Float64[np.ndarray, "K D"],
    x: Float32[np.ndarray, "#H #W"],
    y: Float32[np.ndarray, "#H #W"],
) -> Float32[np.ndarray, "D H W"]:
    """Evaluate the thin-plate spline that interpolates `values` at `places`.

    x and y are broadcast against each other, so a row and a column make a grid. Source: F. L. Bookstein, "Principal
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
    """Return r^2 log r for squared distances, without the cost of a square root."""
    return square * np.log(square + TINY**2) / 2


def bend_image(image: Image, x: Float[np.ndarray, "H W"], y: Float[np.ndarray, "H W"]) -> Image:
    """Sample an image at (x, y), bilinear."""
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=MEAN_COLOUR)  # type: ignore[return-value]


def bend_labels(labels: Labels, x: Float[np.ndarray, "H W"], y: Float[np.ndarray, "H W"]) -> Labels:
    """Sample a label map at (x, y), nearest neighbour."""
    return cv2.remap(labels, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)  # type: ignore[return-value]


def bend_layer(layer: Layer, x: Float[np.ndarray, "H W"], y: Float[np.ndarray, "H W"]) -> Layer:
    """Sample a layer at (x, y), bilinear."""
    return cv2.remap(layer, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)  # type: ignore[return-value, call-overload]
