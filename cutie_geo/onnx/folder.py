"""Folder of exported graphs: its description, `model.json`, and the onnxruntime sessions."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

DESCRIPTION = "model.json"
FORMAT = "cutie_geo.onnx"
VERSION = 2
"""Version of the graphs' inputs and outputs."""
OPSET = 20
"""Opset of exported graphs: the newest that onnxruntime and onnxruntime-web optimise on every platform."""
GRAPHS = ("encode", "read", "decode", "combine", "embed", "memorise")
"""Graphs that every folder has, as `<name>.onnx`."""
PROMPT_GRAPHS = ("prompt", "look")
"""Graphs of models with a prompt head, which are loaded when they are needed; `look` is for encoders of any size."""
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Short names of onnxruntime's execution providers; full names are accepted as well."""


@dataclass(frozen=True)
class Description:
    """Content of `model.json` that the tracker needs."""

    model: str
    """Name of the exported model."""
    precision: str
    """Precision of weights and computation, "fp32" or "fp16"; inputs and outputs are float32."""
    size: tuple[int, int]
    """Height and width of the frames that `encode` takes."""
    padding: tuple[int, int, int, int]
    """Pixels that `encode` adds at the top, bottom, left and right; masks have the padded size."""
    antialias: bool
    """True if larger frames are shrunk with antialiasing."""
    max_mem_frames: int
    """Capacity of working memory in frames, including one frame of permanent memory."""
    permanent_frames: int
    """Capacity of permanent memory in frames."""
    max_objects: int
    mem_every: int
    stagger_updates: int
    top_k: int
    full_frame_every: int
    prompt_points: int
    """Number of clicks on an object that the prompt head takes; 0 without one."""
    prompt_multiple: int
    """Divisor of both sides of images for `look`, in pixels."""
    raw: Mapping[str, Any]
    """The whole content."""

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width with padding."""
        top, bottom, left, right = self.padding
        return self.size[0] + top + bottom, self.size[1] + left + right

    @property
    def tokens(self) -> int:
        """Memory tokens of one frame."""
        return (self.padded[0] // 16) * (self.padded[1] // 16)

    @property
    def capacity(self) -> int:
        """Rows of each memory table."""
        return (self.max_mem_frames - 1 + self.permanent_frames) * self.tokens

    def graph(self, name: str) -> Mapping[str, Any]:
        """Return the description of a graph: file, digest, inputs and outputs."""
        return self.raw["graphs"][name]

    def shape(self, graph: str, name: str) -> list[int | str]:
        """Return the shape of an input or output; names stand for free axes."""
        described = self.graph(graph)
        return (described["inputs"] | described["outputs"])[name]["shape"]


def read_description(folder: str | Path) -> Description:
    """Read and check `model.json`, without reading the graphs.

    Raises:
        ValueError: If the file is missing, damaged, or of another version or opset.
    """
    path = Path(folder).expanduser() / DESCRIPTION
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; expected a folder written by cutie-geo export onnx") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable ({error}); export the model again") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ValueError(f"{path}: not a description of exported graphs; expected format {FORMAT}")
    for name, expected in (("version", VERSION), ("opset", OPSET)):
        if raw.get(name) != expected:
            raise ValueError(f"{path}: {name}: got {raw.get(name)}, expected {expected}; export the model again with "
                             "this version of cutie_geo")  # fmt: skip
    try:
        return _described(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({type(error).__name__}: {error}); export the model again") from None


def _described(raw: dict[str, Any]) -> Description:
    frame, memory = raw["frame"], raw["memory"]
    height, width = (int(side) for side in frame["size"])
    top, bottom, left, right = (int(frame["padding"][side]) for side in ("top", "bottom", "left", "right"))
    described = Description(
        model=str(raw["model"]),
        precision=str(raw["precision"]),
        size=(height, width),
        padding=(top, bottom, left, right),
        antialias=bool(frame["antialias"]),
        max_mem_frames=int(memory["max_mem_frames"]),
        permanent_frames=int(memory["permanent_frames"]),
        max_objects=int(memory["max_objects"]),
        mem_every=int(memory["mem_every"]),
        stagger_updates=int(memory["stagger_updates"]),
        top_k=int(memory["top_k"]),
        full_frame_every=int(memory["full_frame_every"]),
        prompt_points=int(raw["prompt"]["points"]),
        prompt_multiple=int(raw["prompt"]["multiple"]),
        raw=raw,
    )
    positive = (*described.size, described.max_mem_frames, described.permanent_frames, described.max_objects)
    if min(positive) < 1 or min(described.padding) < 0 or any(side % 16 for side in described.padded):
        raise ValueError(f"size {described.size} with padding {described.padding}")
    for name in raw["graphs"]:
        graph = described.graph(name)
        _ = graph["sha256"], graph["inputs"], graph["outputs"]
    return described


class OnnxModel:
    """Sessions of an exported model, which several trackers may share.

    Args:
        folder: Folder written by `cutie-geo export onnx`.
        providers: Execution providers in order of preference, such as "cuda" or onnxruntime's full names, each with
            optional settings as a (name, settings) pair. Operators that none supports run on the CPU.
        threads: Threads of the CPU provider; None uses all cores.

    Raises:
        ValueError: For a folder with missing, changed or unsupported files, and for unavailable providers.
    """

    def __init__(
        self,
        folder: str | Path,
        providers: Sequence[str | tuple[str, dict[str, Any]]] = ("cpu",),
        threads: int | None = None,
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.description = read_description(self.folder)
        self.providers = _resolve(providers)
        self._options = options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # each graph has its own threads, which must not stay busy while those of the next one work
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if threads is not None:
            if threads < 1:
                raise ValueError(f"threads: got {threads}, expected 1 or more")
            options.intra_op_num_threads = threads
        self._sessions = {name: self._open(name) for name in self._names()}
        for name in PROMPT_GRAPHS:
            if name in self.description.raw["graphs"]:
                self._read(name)  # checks the file; the session is opened when it is needed

    def _names(self) -> list[str]:
        listed = self.description.raw["graphs"]
        absent = [name for name in GRAPHS if name not in listed]
        if absent:
            raise ValueError(
                f"{self.folder / DESCRIPTION}: graphs: missing {', '.join(absent)}; export the model again"
            )
        return list(GRAPHS)

    def _read(self, name: str) -> bytes:
        """Return the content of a graph's file. Raises ValueError if it is missing or changed."""
        path = self.folder / f"{name}.onnx"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}; expected the graph that model.json lists") from None
        found, expected = hashlib.sha256(content).hexdigest(), self.description.graph(name)["sha256"]
        if found != expected:
            raise ValueError(f"{path}: the digest is not that of model.json; got sha256 {found[:12]}..., expected "
                             f"{str(expected)[:12]}...; copy the folder or export the model again")  # fmt: skip
        return content

    def _open(self, name: str) -> onnxruntime.InferenceSession:
        path, content = self.folder / f"{name}.onnx", self._read(name)
        try:
            session = onnxruntime.InferenceSession(content, self._options, providers=self.providers)
        except Exception as error:  # onnxruntime has no common type for its errors
            raise ValueError(f"{path}: onnxruntime {onnxruntime.__version__} cannot load it: {_short(error)}") from None
        described = self.description.graph(name)
        for kind, found in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            names = [each.name for each in found]
            if names != list(described[kind]):
                raise ValueError(f"{path}: {kind}: got {names}, expected {list(described[kind])}")
        return session

    def run(self, graph: str, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run a graph; return its outputs in the order of `model.json`.

        Raises:
            ValueError: If onnxruntime fails, for example without enough memory.
        """
        if graph not in self._sessions:
            self._sessions[graph] = self._open(graph)
        try:
            outputs: list[Any] = list(self._sessions[graph].run(None, dict(feed)))
        except Exception as error:  # onnxruntime has no common type for its errors
            raise ValueError(f"{self.folder / graph}.onnx: {_short(error)}") from None
        return outputs


def _resolve(providers: Sequence[str | tuple[str, dict[str, Any]]]) -> list[Any]:
    """Return onnxruntime's names of providers, with the CPU last. Raises ValueError for those not available."""
    if isinstance(providers, str):
        providers = (providers,)
    available = [str(name) for name in onnxruntime.get_available_providers()]
    short = {full: name for name, full in PROVIDERS.items()}
    resolved: list[Any] = []
    for each in providers:
        name, *settings = (each,) if isinstance(each, str) else each
        full = PROVIDERS.get(name.lower(), name)
        if full not in available:
            known = ", ".join(short.get(found, found) for found in available)
            raise ValueError(f"providers: got {name}, expected some of {known}, which this onnxruntime offers")
        resolved.append((full, *settings) if settings else full)
    names = [each if isinstance(each, str) else each[0] for each in resolved]
    return resolved if PROVIDERS["cpu"] in names else [*resolved, PROVIDERS["cpu"]]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
