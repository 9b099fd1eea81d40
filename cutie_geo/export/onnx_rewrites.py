"""Changes of exported graphs that make them faster or smaller."""

import math
from typing import Any

import numpy as np

MIN_HALVED = 256
"""Smallest number of elements of a weight that is stored in float16."""
HALF = 10
"""Number of float16 among the types of ONNX."""


def replace_cubic_resizing(proto: Any) -> None:
    """Replace bicubic resizing of a fixed size by two matrix products, which onnxruntime computes many times faster."""
    from onnx import helper, numpy_helper

    graph = proto.graph
    shapes = {x.name: [d.dim_value for d in x.type.tensor_type.shape.dim] for x in (*graph.input, *graph.value_info)}
    freed: set[str] = set()
    for place in range(len(graph.node) - 1, -1, -1):
        node = graph.node[place]
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        before, after = shapes.get(node.input[0] if node.input else "", []), shapes.get(node.output[0], [])
        fixed = len(before) == len(after) == 4 and min(*before, *after) > 0
        if node.op_type != "Resize" or not fixed or not _is_plain_cubic(options):
            continue
        name, a = node.output[0], options.get("cubic_coeff_a", -0.75)
        rows, columns = cubic_matrix(before[2], after[2], a), cubic_matrix(before[3], after[3], a).T
        for part, matrix in (("rows", rows), ("columns", columns)):
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(matrix), f"{name}.{part}"))
        products = [
            helper.make_node("MatMul", [f"{name}.rows", node.input[0]], [f"{name}.tall"], name=f"{name}.rows"),
            helper.make_node("MatMul", [f"{name}.tall", f"{name}.columns"], [name], name=f"{name}.columns"),
        ]
        freed |= set(node.input)
        graph.node.remove(node)
        for product in reversed(products):
            graph.node.insert(place, product)
    used = {name for node in graph.node for name in node.input} | {x.name for x in graph.output}
    for weight in [weight for weight in graph.initializer if weight.name in freed - used]:
        graph.initializer.remove(weight)


def _is_plain_cubic(options: dict[str, Any]) -> bool:
    """Return True for bicubic resizing as torch exports it: aligned pixel centres, repeated borders."""
    centred = options.get("coordinate_transformation_mode", b"half_pixel") in (b"half_pixel", b"pytorch_half_pixel")
    return (
        options.get("mode") == b"cubic" and centred and not (options.get("antialias") or options.get("exclude_outside"))
    )


def cubic_matrix(length: int, target: int, a: float) -> np.ndarray:
    """Return the matrix (target, length) of cubic convolution with coefficient `a`, in float32."""
    position = (np.arange(target) + 0.5) * length / target - 0.5
    low = np.floor(position).astype(np.int64)
    matrix = np.zeros((target, length))
    for tap in range(-1, 3):
        x = np.abs(position - low - tap)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = a * (((x - 5) * x + 8) * x - 4)
        np.add.at(matrix, (np.arange(target), np.clip(low + tap, 0, length - 1)), np.where(x <= 1, near, far))
    return matrix.astype(np.float32)


SAME_TYPE = ("Conv", "Gemm", "LayerNormalization", "MatMul")
"""Operators whose inputs must have one type; torch computes some of them with float16 inputs and float32 weights."""


def match_types(proto: Any) -> None:
    """Convert the weights of operators with inputs of both types to the type of their first input."""
    from onnx import TensorProto, helper

    graph, floats = proto.graph, (TensorProto.FLOAT, TensorProto.FLOAT16)
    types = {x.name: x.type.tensor_type.elem_type for x in (*graph.input, *graph.value_info)}
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        wanted = types.get(node.input[0]) if node.op_type in SAME_TYPE else None
        for place, name in enumerate(node.input[1:], start=1):
            if wanted in floats and types.get(name, wanted) in floats and types.get(name, wanted) != wanted:
                converted = f"{name}.for.{node.output[0]}"
                nodes.append(helper.make_node("Cast", [name], [converted], name=converted, to=wanted))
                node.input[place] = converted
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def store_half(proto: Any) -> None:
    """Store all weights in float16. Operators that compute in float32 convert theirs when the graph is loaded."""
    from onnx import TensorProto, helper, numpy_helper

    match_types(proto)
    graph, uses = proto.graph, {}
    for node in graph.node:
        for name in node.input:
            uses.setdefault(name, []).append(node)
    gone, renamed, widened = [], {}, []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT or math.prod(weight.dims) < MIN_HALVED:
            continue
        name, halved = weight.name, numpy_helper.to_array(weight).astype("float16")
        weight.CopyFrom(numpy_helper.from_array(halved, f"{name}.half"))
        casts = [node for node in uses.get(name, []) if _halves(node)]
        renamed |= {node.output[0]: weight.name for node in casts}
        gone += casts
        if len(casts) < len(uses.get(name, [])):
            widened.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    nodes = [node for node in graph.node if node not in gone]
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend([*widened, *nodes])


def _halves(node: Any) -> bool:
    """Return True for a conversion to float16."""
    return node.op_type == "Cast" and any(a.name == "to" and a.i == HALF for a in node.attribute)
