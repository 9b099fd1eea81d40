"""A program: segment a simulated camera that drops frames, and print the memory of the process over time.

Arguments: folder of the results, number of frames, frames per second, height and width, model and its weights. Prints
JSON: resident bytes at every hundredth frame, and the report of the video.
"""

import json
import sys
import time
from collections.abc import Iterator

import numpy as np
import psutil

import cutie_geo

folder, model, weights = sys.argv[1], sys.argv[6], sys.argv[7]
frames, fps, height, width = (int(word) for word in sys.argv[2:6])
memory: list[int] = []


def camera() -> Iterator[np.ndarray]:
    """Noise in coarse blocks that drifts, at the rate of the camera."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = np.kron(coarse, np.ones((height // 8, width // 8, 1), np.uint8))
    start = time.monotonic()
    for number in range(frames):
        time.sleep(max(0.0, start + number / fps - time.monotonic()))
        if number % 100 == 0:
            memory.append(psutil.Process().memory_info().rss)
        yield np.roll(image, number, axis=1)


mask = np.zeros((height, width), np.uint8)
mask[height // 4 : height // 2, width // 4 : width // 2] = 1
options = {"weights": weights, "device": "cpu", "live": True, "drop_frames": True}
run = cutie_geo.segment(camera(), mask, output=folder, model=model, **options)
print(json.dumps({"memory": memory, "report": run["videos"]["video"]}))
