"""ONNX nodes: a graph under construction, with a method for each layer that the network has."""

from typing import Any

import numpy as np
import onnx
from flax.traverse_util import flatten_dict
from onnx import helper, numpy_helper

from jaxdbd.inference import BLOCK
from jaxdbd.network.model import BLUR_SIDE, SHARPNESS_LIMIT
from jaxdbd.weights import Variables


class Graph:
    """A graph under construction: each method appends a node and returns the name of its output, a feature map."""

    def __init__(self, variables: Variables):
        self.weights = {name: np.asarray(leaf, np.float32) for name, leaf in flatten_dict(variables, sep="/").items()}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node; returns the name of its output."""
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def split(self, x: str, parts: int, axis: int) -> list[str]:
        """Cuts a tensor into equal parts along an axis; returns their names."""
        names = [f"Split_{len(self.nodes)}_{i}" for i in range(parts)]
        self.nodes.append(helper.make_node("Split", [x], names, axis=axis))
        return names

    def first(self, x: str, channels: int) -> str:
        """The first of a map's channels."""
        limits = {"channel_0": 0, f"channel_{channels}": channels, "channel_axis": 1}  # start, end, axis
        return self.add("Slice", x, *(self.constant(name, [value], np.int64) for name, value in limits.items()))

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        """Stores a tensor under a name, and returns the name."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values, dtype), name)
        return name

    def has(self, layer: str) -> bool:
        """Whether the network has a layer of this name."""
        return any(name.startswith(f"params/{layer}/") for name in self.weights)

    def channels(self, layer: str) -> int:
        """Output channels of a convolution."""
        return self.kernel(layer).shape[-1]

    def kernel(self, layer: str) -> np.ndarray:
        """A kernel as [k, k, in, out]; that of a `Dense` is a 1x1 convolution's."""
        kernel = self.weights[f"params/{layer}/kernel"]
        return kernel if kernel.ndim == 4 else kernel[None, None]

    def conv(self, x: str, layer: str, pads=None, stride: int = 1, dilation: int = 1, groups: int = 1) -> str:
        """A convolution, by default of unchanged size; `pads` is (top, left, bottom, right)."""
        kernel, bias = self.kernel(layer), self.weights.get(f"params/{layer}/bias")
        k = kernel.shape[0]
        inputs = [x, self.constant(f"{layer}/kernel", kernel.transpose(3, 2, 0, 1))]
        inputs += [] if bias is None else [self.constant(f"{layer}/bias", bias)]
        return self.add(
            "Conv",
            *inputs,
            kernel_shape=[k, k],
            pads=pads or [dilation * (k // 2)] * 4,
            strides=[stride] * 2,
            dilations=[dilation] * 2,
            group=groups,
        )

    def batch_norm(self, x: str, layer: str, epsilon: float) -> str:
        """BatchNorm on its running statistics."""
        leaves = {"params": ("scale", "bias"), "batch_stats": ("mean", "var")}
        names = [f"{place}/{layer}/{leaf}" for place, of_layer in leaves.items() for leaf in of_layer]
        return self.add("BatchNormalization", x, *(self.constant(n, self.weights[n]) for n in names), epsilon=epsilon)

    def relu(self, x: str, limit: float | None = None) -> str:
        """ReLU, or with `limit` the clipped one."""
        return self.add("Relu", x) if limit is None else self.clip(x, 0.0, limit)

    def clip(self, x: str, low: float, high: float) -> str:
        """Cuts values off at both ends."""
        return self.add("Clip", x, *(self.constant(f"limit_{limit}", limit) for limit in (low, high)))

    def stretched(self, x: str) -> str:
        """A map [B, S, S] stretched between the least and greatest block mean, as `inference.stretched` does it."""
        axis = self.constant("channel_axis", [1], np.int64)
        means = self.add("AveragePool", self.add("Unsqueeze", x, axis), kernel_shape=[BLOCK] * 2, strides=[BLOCK] * 2)
        low, high = (
            self.add("Squeeze", self.add(op, means, axes=[1, 2, 3], keepdims=1), axis)
            for op in ("ReduceMin", "ReduceMax")
        )
        span = self.add("Max", self.add("Sub", high, low), self.constant("least_span", 1e-6))
        return self.clip(self.add("Div", self.add("Sub", x, low), span), 0.0, 1.0)

    def diameter(self, x: str, size: int) -> str:
        """`model.diameter` as a share of `size` pixels. ONNX has no expm1; exp(x) - 1 differs by a rounding of 1."""
        grown = self.add("Sub", self.add("Exp", x), self.constant("one", 1.0))
        return self.add("Mul", grown, self.constant("sharpness_limit", SHARPNESS_LIMIT * BLUR_SIDE / size))

    def resize(self, x: str, factor: int, mode: str) -> str:
        """Enlarges by a whole factor, bilinearly ("linear") or by repetition ("nearest")."""
        how: dict[str, Any] = {"coordinate_transformation_mode": "half_pixel" if mode == "linear" else "asymmetric"}
        how |= {"nearest_mode": "floor"} if mode == "nearest" else {}
        return self.add("Resize", x, "", self.constant(f"enlarge_{factor}", [1, 1, factor, factor]), mode=mode, **how)
