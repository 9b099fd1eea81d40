"""Methods that learn nothing, as floors for those that do. Each is a `Segmenter`: it stands where a tracker does."""

from cutie_geo.baselines.propagation import CopyMask, FlowMask

__all__ = ["CopyMask", "FlowMask"]
