"""Exposure, blur, vignette and sensor noise."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from cutie_geo.data.render.config import Stage
from cutie_geo.data.render.grid import GRID
from cutie_geo.data.render.motion import Bend, Wave, draw_bend, draw_wave
from cutie_geo.data.render.surfaces import RgbImage


@dataclass(frozen=True)
class Lens:
    """Light, lens and sensor of a clip."""

    exposure: Wave  # logarithm
    cast: Wave  # logarithm, for R, G, B
    step: tuple[float, float]  # sudden change of exposure: frame and logarithm
    gamma: float
    vignette: float
    shade: Bend  # passing shade, summed over its two coordinates
    sigma: float  # blur, pixels
    grain: Shaped[np.ndarray, "a b 3"]  # int16, larger than the frame, which uses a window of it
    seed: int

    def tone(self, t: int) -> UInt8[np.ndarray, "1 256 3"]:
        """Return the lookup table from scene to sensor values."""
        gain = np.exp(self.exposure.at(t) + self.cast.at(t) + self.step[1] * (t >= self.step[0]))
        curve = (np.arange(256) / 255) ** self.gamma
        return np.clip(255 * curve[:, None] * gain, 0, 255).astype(np.uint8)[None]

    def light(self, t: int, h: int, w: int) -> UInt8[np.ndarray, "H W"]:
        """Return the light at each pixel; 255 is full light."""
        unit = np.stack(np.meshgrid(np.linspace(-1, 1, GRID), np.linspace(-1, 1, GRID)))
        shade = self.shade.at(unit, t).sum(0)
        light = (1 - self.vignette * (unit**2).sum(0) / 2) * (1 - np.clip(shade, 0, 0.7))
        return cv2.resize((255 * light).astype(np.uint8), (w, h), interpolation=cv2.INTER_LINEAR)

    def take(self, image: RgbImage, t: int) -> RgbImage:
        """Return `image` as the sensor records it."""
        h, w = image.shape[:2]
        if self.sigma > 0.25:
            image = cv2.GaussianBlur(image, (0, 0), self.sigma)
        image = cv2.LUT(image, self.tone(t))
        image = cv2.multiply(image, cv2.merge([self.light(t, h, w)] * 3), scale=1 / 255)
        y, x = np.random.default_rng([self.seed, t]).integers(0, np.array(self.grain.shape[:2]) - (h, w) + 1)
        return cv2.add(image, self.grain[y : y + h, x : x + w], dtype=cv2.CV_8U)


def draw_lens(rng: np.random.Generator, stage: Stage) -> Lens:
    config, slow = stage.config, (0.6 * stage.cycle, 2 * stage.cycle)
    light, noise_level, blur = rng.uniform(0, 1, 3) * [config.light, config.noise, config.blur]
    sudden = rng.random() < 0.3 * config.light
    grain = rng.standard_normal((config.height + 64, config.width + 64, 3), np.float32) * np.float32(12 * noise_level)
    return Lens(
        exposure=draw_wave(rng, 0.5 * light, slow),
        cast=draw_wave(rng, 0.15 * light, slow, 3),
        step=(rng.uniform(0.2, 0.8) * stage.cycle, rng.uniform(-0.5, 0.4)) if sudden else (0.0, 0.0),
        gamma=float(np.exp(rng.normal(0, 0.25 * config.light))),
        vignette=rng.uniform(0, 0.7) * config.light,
        shade=draw_bend(rng, 0.8 * light, stage.cycle),
        sigma=1.2 * blur * stage.pixels / 256,
        grain=np.rint(grain).astype(np.int16),
        seed=int(rng.integers(2**32)),
    )
