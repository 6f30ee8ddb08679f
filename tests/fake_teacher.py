"""A depth teacher as a small ONNX file, whose graph has feature maps."""

from pathlib import Path

import pytest


def onnx_teacher(path: Path, side: int = 16, batch: int | str = "n") -> Path:
    """Writes a model for inputs of `side` pixels; skips the test where onnx is not installed.

    Its graph has `half` and `eighth`, means over blocks of the input, `half_again`, which is the same as `half`, and
    `rows`, which is no map. Its depth is the mean of the input's channels.
    """
    onnx = pytest.importorskip("onnx", reason="needs the optional extra: pip install 'jaxdbd[onnx]'")
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        node("AveragePool", ["x"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", ["half"], ["eighth"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Relu", ["half"], ["half_again"]),
        node("ReduceMax", ["x"], ["rows"], axes=[3], keepdims=0),
        node("ReduceMean", ["x"], ["y"], axes=[1]),
    ]
    shapes = [batch, 3, side, side], [batch, 1, side, side]
    values = [info(name, onnx.TensorProto.FLOAT, shape) for name, shape in zip("xy", shapes, strict=True)]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path
