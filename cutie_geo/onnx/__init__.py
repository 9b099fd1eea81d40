"""Video object segmentation with exported graphs: numpy and onnxruntime only, torch is never imported.

`cutie-geo export onnx` writes the folder that this package runs. Its loop is also the reference for programs in other
languages (docs/deployment.md).
"""

from cutie_geo.onnx.folder import OnnxModel
from cutie_geo.onnx.prompts import PromptedMask
from cutie_geo.onnx.tracker import OnnxTracker

__all__ = ["OnnxModel", "OnnxTracker", "PromptedMask"]
