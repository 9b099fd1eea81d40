"""Clips to train on: sources of short videos with masks, varied, merged and dealt out in an order that a seed fixes.

A sample is a function of `(seed, epoch, index, progress)` and of the files alone. Which worker or process draws it, and
what was drawn before it, changes nothing.
"""

from cutie_geo.data.clips.cutouts import CutoutSource
from cutie_geo.data.clips.dataset import Clip, ClipDataset, build_sources, fingerprint, selected, source_root
from cutie_geo.data.clips.loader import clip_loader, collate, steps_of
from cutie_geo.data.clips.sources import ClipSource, ImageSource, RenderedSource, UnusableFile, VideoClip, VideoSource

__all__ = [
    "Clip",
    "ClipDataset",
    "ClipSource",
    "CutoutSource",
    "ImageSource",
    "RenderedSource",
    "UnusableFile",
    "VideoClip",
    "VideoSource",
    "build_sources",
    "clip_loader",
    "collate",
    "fingerprint",
    "selected",
    "source_root",
    "steps_of",
]
