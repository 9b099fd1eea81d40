"""Export of a network to a folder of ONNX graphs, which run without torch."""

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from cutie_geo.config import TrackerConfig, require
from cutie_geo.data.io_threads import digest, write_bytes, write_json
from cutie_geo.export.onnx_graphs import HEIGHT, OBJECTS, WIDTH, Graph, Sizes, graphs_of
from cutie_geo.export.onnx_rewrites import replace_cubic_resizing, store_half
from cutie_geo.model.blocks import IMAGE_MEAN, IMAGE_STD
from cutie_geo.model.network import CutieGeo
from cutie_geo.onnx.folder import DESCRIPTION, FORMAT, OPSET, VERSION
from cutie_geo.ops import padding_to

PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16"}
MAX_BYTES = 2**31 - 2**20
"""Largest graph: protobuf's limit, and that of onnxruntime-web."""
MIN_SIDE = 32
MOST = {OBJECTS: 1024, HEIGHT: 512, WIDTH: 512}
"""Upper bounds of free axes, which the exporter needs to compare sizes."""
NOISY = ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")
"""Loggers that report each step of an export."""


@dataclass(frozen=True)
class OnnxOptions:
    """Sizes that an export fixes.

    Raises:
        ValueError: For invalid values.
    """

    size: tuple[int, int]
    """Height and width of frames."""
    max_mem_frames: int = TrackerConfig.max_mem_frames
    """Number of frames in working memory, including one frame of permanent memory."""
    permanent_frames: int = 1
    """Number of frames in permanent memory. More take time on every frame."""
    max_objects: int = 64
    """Number of objects that a tracker accepts, which bounds its memory."""
    top_k: int | None = None
    """Number of memory tokens that each position reads; None: the model's."""
    prompt_points: int = 16
    """Number of clicks on an object that the prompt head takes."""

    def __post_init__(self) -> None:
        require(min(self.size) >= MIN_SIDE, f"--size: got {self.size}, expected at least {MIN_SIDE} pixels a side")
        for name in ("max_mem_frames", "permanent_frames", "max_objects", "top_k", "prompt_points"):
            value = getattr(self, name)
            option = name.replace("_", "-")
            require(value is None or value >= 1, f"--{option}: got {value}, expected 1 or more")


def export_onnx(
    model: CutieGeo, name: str, output: Path, options: OnnxOptions, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Write the graphs of a model and their description, `model.json`; return the description.

    Args:
        model: Network on the CPU, in float32 or float16.
        name: Name of the model, for the description.
        output: Folder to write.
        options: Sizes of frames and memory.
        say: Called with a line for each file.

    Raises:
        ValueError: If the model's precision is neither, if a package is missing, or if a graph is too large.
    """
    require(model.precision in PRECISIONS, f"--precision: got {model.precision}, expected fp32 or fp16")
    require(model.device.type == "cpu", f"model: got device {model.device}, expected cpu")
    _require_packages()
    config = TrackerConfig(top_k=options.top_k).for_model(model.config)
    padding = padding_to(options.size, model.multiple)
    sizes = Sizes(options.size, padding, 0, 0, options.prompt_points)
    tokens = sizes.tokens[0] * sizes.tokens[1]
    capacity = (options.max_mem_frames - 1 + options.permanent_frames) * tokens
    assert config.top_k is not None, "resolved by for_model"
    sizes = sizes._replace(capacity=capacity, top_k=min(config.top_k, tokens))
    graphs = {}
    for graph, make in graphs_of(model).items():
        content, described = _exported(make(model, sizes))
        path = output / f"{graph}.onnx"
        write_bytes(path, content)
        sha256 = hashlib.sha256(content).hexdigest()
        graphs[graph] = {"file": path.name, "bytes": len(content), "sha256": sha256, **described}
        say(f"{path}: {len(content) / 1e6:.1f} MB")
    description = {
        "format": FORMAT,
        "version": VERSION,
        "model": name,
        "weights": f"sha256 {digest(model.loaded_from)}" if model.loaded_from else "none",
        "precision": PRECISIONS[model.precision],
        "opset": OPSET,
        "torch": torch.__version__,
        "frame": {
            "size": list(options.size),
            "padding": padding._asdict(),
            "padded": list(sizes.padded),
            "antialias": True,
            "color": "RGB",
            "range": [0, 1],
            "normalisation": {"mean": IMAGE_MEAN, "std": IMAGE_STD, "in_graph": True},
        },
        "memory": {
            "max_mem_frames": options.max_mem_frames,
            "permanent_frames": options.permanent_frames,
            "tokens_per_frame": tokens,
            "capacity": capacity,
            "max_objects": options.max_objects,
            "mem_every": config.mem_every,
            "stagger_updates": config.stagger_updates,
            "top_k": sizes.top_k,
            "full_frame_every": config.full_frame_every,
        },
        "prompt": {"points": options.prompt_points if "prompt" in graphs else 0, "multiple": model.multiple},
        "graphs": graphs,
    }
    write_json(output / DESCRIPTION, description)  # last: an interrupted export leaves no valid folder
    return description


def _require_packages() -> None:
    try:
        import onnx
        import onnxscript
    except ImportError as error:
        raise ValueError(f"export onnx: {error.name} is not installed; pip install 'cutie_geo[onnx-export]'") from None
    assert onnx and onnxscript


def _exported(graph: Graph) -> tuple[bytes, dict[str, Any]]:
    """Return a graph as a serialised ONNX model, and its inputs and outputs."""
    example = graph.example()
    axes = {name: Dim(name, min=1, max=MOST[name]) for name in (OBJECTS, HEIGHT, WIDTH)}
    free = tuple(
        {place: _dim(text, axes) for place, text in graph.axes[name].items()} if name in graph.axes else None
        for name in example
    )
    with torch.no_grad(), _quiet():
        # first, so that position tables are cached as tensors with values
        outputs = dict(zip(graph.outputs, graph(*example.values())))
        program = torch.onnx.export(
            graph, tuple(example.values()), input_names=list(example), output_names=list(graph.outputs),
            dynamic_shapes=(free,), opset_version=OPSET, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
        assert program is not None
        proto = program.model_proto
        replace_cubic_resizing(proto)
        if graph.model.precision == torch.float16:
            store_half(proto)
    require(proto.ByteSize() < MAX_BYTES, f"{type(graph).__name__.lower()}.onnx: got {proto.ByteSize() / 1e9:.1f} GB, "
            "expected less than 2 GB; --precision fp16 halves it")  # fmt: skip
    described = {
        kind: {name: {"shape": _shape(graph, name, x), "type": str(x.dtype).removeprefix("torch.")}
               for name, x in tensors.items()}
        for kind, tensors in (("inputs", example), ("outputs", outputs))
    }  # fmt: skip
    found = [x.name for x in proto.graph.input], [x.name for x in proto.graph.output]
    assert found == tuple(list(described[kind]) for kind in ("inputs", "outputs")), "torch keeps unused inputs"
    return proto.SerializeToString(), described


def _dim(text: str, axes: Mapping[str, Any]) -> Any:
    """Return a free axis, such as "objects" or "4*h", as torch's."""
    times, _, name = text.rpartition("*")
    return int(times) * axes[name] if times else axes[name]


def _shape(graph: Graph, name: str, x: torch.Tensor) -> list[int | str]:
    """Return a shape with the names of free axes."""
    free = graph.axes.get(name, {})
    return [free.get(place, side) for place, side in enumerate(x.shape)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's progress reports and its warnings about its own internals."""
    logs = [logging.getLogger(name) for name in NOISY]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels):
            log.setLevel(level)
