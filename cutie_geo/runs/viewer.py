"""A window that shows results while they are made."""

import os
import re
import sys
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from cutie_geo.data.overlay import draw

QUIT = (27, ord("q"))
"""Keys that end the video: Esc and q."""


class Viewer:
    """Window with the overlay of the last frame. Calls come from the main thread, as window systems require."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._open = False

    def __call__(self, image: UInt8[np.ndarray, "H W 3"], labels: Int32[np.ndarray, "H W"]) -> bool:
        """Show a frame; return False once the user pressed q or Esc, or closed the window."""
        if self._open and cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1:
            return False
        if not self._open:
            cv2.namedWindow(self.title, cv2.WINDOW_NORMAL)
            self._open = True
        cv2.imshow(self.title, np.ascontiguousarray(draw(image, labels)[..., ::-1]))
        return cv2.waitKey(1) & 0xFF not in QUIT

    def close(self) -> None:
        """Close the window."""
        if self._open:
            cv2.destroyWindow(self.title)
            self._open = False


def require_window() -> None:
    """Raise ValueError if this computer or its OpenCV cannot open a window."""
    gui = re.search(r"GUI:\s*(\S+)", cv2.getBuildInformation())
    if gui is None or gui[1] == "NONE":
        raise ValueError("--show: this OpenCV has no windows; install opencv-python in place of opencv-python-headless")
    environment: Any = os.environ
    if sys.platform.startswith("linux") and not (environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")):
        raise ValueError("--show: no display; got neither DISPLAY nor WAYLAND_DISPLAY, expected a desktop session")
