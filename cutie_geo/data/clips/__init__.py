"""Training clips: sampling, augmentation, copy-paste and loading, deterministic for a seed.

A sample depends only on `(seed, epoch, index, progress)` and on the files. It does not depend on the worker or process
that draws it, or on earlier samples.
"""

from cutie_geo.data.clips.cutouts import CutoutSource
from cutie_geo.data.clips.dataset import (
    Clip,
    ClipDataset,
    build_sources,
    fingerprint,
    require_known,
    selected,
    source_root,
)
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
    "require_known",
    "selected",
    "source_root",
    "steps_of",
]
