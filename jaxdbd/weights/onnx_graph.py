"""The network as an ONNX graph, written layer by layer from the weights: what network/ computes, in ONNX's words.

ONNX is NCHW and its kernels OIHW; every layer here is the plain one that convolutions.py computes in a faster form.
"""

from functools import partial, reduce

import numpy as np
import onnx
from onnx import TensorProto, helper

from jaxdbd.network.edges import EPSILON, REDUCED, window_means
from jaxdbd.network.encoders import EFFICIENTNET_FACTORS, EFFICIENTNET_STAGES, ENCODERS, RESNEXT_DEPTHS, VGG_DEPTHS
from jaxdbd.network.grouped import same_padding
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.weights import Variables
from jaxdbd.weights.onnx_nodes import Graph

OPSET = 17  # the oldest with every operator used; of 2022


def build(model: DepthDistilledDBD, variables: Variables) -> onnx.ModelProto:
    """A model with input `image` uint8 [B, S, S, 3] and as outputs [B, S, S] `model.heads()`: `focus`, `depth`, `blur`.

    S is `model.size`; B is free. Values are as `jaxdbd.predict` has them before it resizes to the photograph.
    """
    g, spec = Graph(variables), ENCODERS[model.encoder]
    levels = g.add("Transpose", g.add("Cast", "image", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    mean, std = (g.constant(name, np.reshape(getattr(spec, name), (3, 1, 1))) for name in ("mean", "std"))
    taps = encode(g, model, g.add("Div", g.add("Sub", levels, mean), std))
    sides = decode(g, model, taps)

    # All fusions as one 1x1 convolution of all side maps: [focus, depth] of level 1, of level 2, ...
    outputs = model.heads()
    kernel = np.zeros((len(outputs), len(outputs) * len(sides), 1, 1), np.float32)
    for i, name in enumerate(outputs):
        kernel[i, i :: len(outputs), 0, 0] = g.weights[f"params/fuse_{name}/kernel"][:, 0]
    bias = np.concatenate([g.weights[f"params/fuse_{name}/bias"] for name in outputs])
    coarsest = 16 if model.full_resolution else 32
    resized = [g.resize(side, coarsest >> i, "linear") for i, side in enumerate(sides)]
    weights = g.constant("fuse/kernel", kernel), g.constant("fuse/bias", bias)
    fused = g.add("Conv", g.add("Concat", *resized, axis=1), *weights, kernel_shape=[1, 1])
    maps = g.split(fused, len(outputs), axis=1) if len(outputs) > 1 else [fused]
    rgb = g.add("Div", levels, g.constant("white", 255.0))
    maps[0] = crisp(g, maps[0], rgb, model.size, model.edge_radius, model.edge_slope)
    maps = [g.add("Squeeze", x, g.constant("channel_axis", [1], np.int64)) for x in maps]
    g.nodes.append(helper.make_node("Sigmoid", [maps[0]], ["focus"]))
    if model.depth_head:
        g.nodes.append(helper.make_node("Identity", [g.stretched(maps[1])], ["depth"]))
    if model.blur_head:
        g.nodes.append(helper.make_node("Identity", [g.diameter(g.relu(maps[-1]), model.size)], ["blur"]))

    square = ["batch", model.size, model.size]
    graph = helper.make_graph(
        g.nodes,
        "jaxdbd",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [*square, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, square) for name in outputs],
        list(g.constants.values()),
    )
    # IR version 8 is opset 17's own; onnx would stamp its newest, which older runtimes refuse.
    onnx_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(onnx_model, full_check=True)
    return onnx_model


# --- The encoders; see encoders.py ---


def encode(g: Graph, model: DepthDistilledDBD, x: str) -> list[str]:
    """The five taps at strides 2 to 32."""
    if model.encoder in VGG_DEPTHS:
        return encode_vgg(g, x, VGG_DEPTHS[model.encoder])
    if model.encoder in EFFICIENTNET_FACTORS:
        return encode_efficientnet(g, x, model.size)
    return encode_resnext(g, x)


def encode_vgg(g: Graph, x: str, depths: tuple[int, ...]) -> list[str]:
    """`encoders.VGG`."""
    taps = []
    for stage, depth in enumerate(depths, start=1):
        for i in range(1, depth + 1):
            x = g.relu(g.conv(x, f"encoder/conv{stage}_{i}"))
        x = g.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        taps.append(x)
    return taps


def encode_resnext(g: Graph, x: str) -> list[str]:
    """`encoders.ResNeXt101`."""

    def conv_norm(x, layer, **how):
        return g.batch_norm(g.conv(x, f"{layer}/conv", **how), f"{layer}/bn", 1e-5)

    x = g.relu(conv_norm(x, "encoder/stem", stride=2))
    taps = [x]
    x = g.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, depth in enumerate(RESNEXT_DEPTHS, start=1):
        for i in range(1, depth + 1):
            block, stride = f"encoder/stage{stage}_{i}", 2 if stage > 1 and i == 1 else 1
            y = g.relu(conv_norm(x, f"{block}/reduce"))
            y = g.relu(conv_norm(y, f"{block}/grouped", stride=stride, groups=32))
            y = conv_norm(y, f"{block}/expand")
            x = conv_norm(x, f"{block}/shortcut", stride=stride) if g.has(f"{block}/shortcut") else x
            x = g.relu(g.add("Add", x, y))
        taps.append(x)
    return taps


def encode_efficientnet(g: Graph, x: str, size: int) -> list[str]:
    """`encoders.EfficientNetLite`, at an input side of `size`: TensorFlow's 'SAME' padding depends on it."""

    def conv_norm(x, layer, conv="/conv", **how):
        return g.batch_norm(g.conv(x, layer + conv, **how), f"{layer}/bn", 1e-3)

    def same(k, stride):
        before, after = same_padding(size, k, stride)
        return {"pads": [before, before, after, after], "stride": stride}

    x = g.relu(conv_norm(x, "encoder/stem", **same(3, 2)), 6.0)
    size //= 2
    taps = []
    for stage, (_, k, stride, _, _) in enumerate(EFFICIENTNET_STAGES, start=1):
        if stride == 2:
            taps.append(x)
        i = 1
        while g.has(block := f"encoder/stage{stage}_{i}"):
            step = stride if i == 1 else 1
            y = g.relu(conv_norm(x, f"{block}/expand"), 6.0) if g.has(f"{block}/expand") else x
            y = conv_norm(y, f"{block}/depthwise", "", **same(k, step), groups=g.channels(f"{block}/depthwise"))
            y = conv_norm(g.relu(y, 6.0), f"{block}/project")
            # The shortcut joins where the block keeps size and channels: all but the first of a stage.
            x = g.add("Add", x, y) if i > 1 else y
            size //= step
            i += 1
    return [*taps, x]


# --- The decoder; see model.py and blocks.py ---


def decode(g: Graph, model: DepthDistilledDBD, taps: list[str]) -> list[str]:
    """The five side maps, coarse to fine: channels as of `model.heads()`, focus as a logit."""
    joining = [*taps[-2::-1], None] if model.full_resolution else taps[::-1]
    x, sides = taps[-1], []
    for level, tap in enumerate(joining, start=1):
        name = f"level{level}"
        if tap and g.has(f"carry{level}"):
            tap = g.conv(tap, f"carry{level}")
        if model.full_resolution or level > 1:
            x = g.resize(x, 2, "nearest")
        x = conv_relu_norm(g, x, f"{name}/reduce")
        x = conv_relu_norm(g, x, f"{name}/plain") if model.srfb == "none" else srfb(g, model, x, f"{name}/srfb")
        x = conv_relu_norm(g, x, f"{name}/expand")
        if not model.full_resolution:
            x = g.add("Add", x, tap)
        sides.append(g.conv(x, f"side{level}"))
        if level < len(joining):
            if model.sab:
                seen = g.first(sides[-1], 1 + model.depth_head) if model.blur_head else sides[-1]
                hidden = conv_relu_norm(g, seen, f"sab{level}/hidden")
                x = g.add("Mul", x, g.add("Sigmoid", g.conv(hidden, f"sab{level}/attention")))
            if model.full_resolution:
                x = g.add("Add", x, tap)
    return sides


def conv_relu_norm(g: Graph, x: str, layer: str) -> str:
    """`blocks.ConvReluNorm`."""
    return g.batch_norm(g.relu(g.conv(x, f"{layer}/conv")), f"{layer}/bn", 1e-5)


def srfb(g: Graph, model: DepthDistilledDBD, x: str, layer: str) -> str:
    """`blocks.SRFB`; its attention is computed as 1x1 convolutions of the averaged map, stacked on the third axis."""
    branches = [x]
    for i, k in enumerate((3, 5, 7), start=1):
        y = g.conv(branches[-1] if model.srfb == "cascaded" else x, f"{layer}/branch{i}", dilation=k)
        branches.append(g.relu(g.batch_norm(y, f"{layer}/bn{i}", 1e-5)))
    total = g.add("Sum", *branches)
    if not model.srfb_select:
        return total
    z = g.conv(g.add("GlobalAveragePool", total), f"{layer}/squeeze")
    scores = g.add("Concat", *(g.conv(z, f"{layer}/excite{i}") for i in range(4)), axis=2)
    weights = g.split(g.add("Softmax", scores, axis=2), 4, axis=2)
    return g.add("Sum", *(g.add("Mul", w, y) for w, y in zip(weights, branches, strict=True)))


# --- Crisp edges; see edges.py ---


def crisp(g: Graph, logits: str, rgb: str, size: int, radius: float, slope: float) -> str:
    """Logits [B, 1, S, S] made crisp by the photographs `rgb` [B, 3, S, S] in [0, 1], as `network.edges.crisp` does."""
    if radius:
        logits = guided(g, logits, rgb, size, radius * size)
    return g.add("Mul", logits, g.constant("edges/slope", slope))


def guided(g: Graph, values: str, rgb: str, size: int, radius: float) -> str:
    """The fast guided filter with windows of `radius` pixels."""
    windows = window_means(size // REDUCED, radius / REDUCED)
    rows, columns = g.constant("edges/rows", windows), g.constant("edges/columns", windows.T)

    def mean(x: str) -> str:
        return g.add("MatMul", g.add("MatMul", rows, x), columns)

    half = partial(g.add, "AveragePool", kernel_shape=[REDUCED] * 2, strides=[REDUCED] * 2)
    guide, target = half(rgb), half(values)
    mul, less, plus = (partial(g.add, op) for op in ("Mul", "Sub", "Add"))
    turned = _turned(g, guide)
    of_guide, of_target = mean(guide), mean(target)
    variance = plus(less(mean(mul(guide, guide)), mul(of_guide, of_guide)), g.constant("edges/epsilon", EPSILON))
    covariance = less(mean(mul(guide, turned)), mul(of_guide, _turned(g, of_guide)))
    slopes = solved(g, variance, covariance, less(mean(mul(guide, target)), mul(of_guide, of_target)))
    offset = less(of_target, _sum(g, mul(slopes, of_guide)))
    linear = g.resize(mean(g.add("Concat", slopes, offset, axis=1)), REDUCED, "linear")
    a, b, c, offset = g.split(linear, 4, axis=1)
    return plus(_sum(g, mul(g.add("Concat", a, b, c, axis=1), rgb)), offset)


def solved(g: Graph, variance: str, covariance: str, joint: str) -> str:
    """`network.edges.solved` on maps of three channels each."""
    (a, d, f), (b, e, c), (x, y, z) = (g.split(maps, 3, axis=1) for maps in (variance, covariance, joint))

    def products(*pairs: tuple[str, str]) -> list[str]:
        return [g.add("Mul", *pair) for pair in pairs]

    def minor(first: tuple[str, str], second: tuple[str, str]) -> str:
        return g.add("Sub", *products(first, second))

    def dot(*pairs: tuple[str, str]) -> str:
        return reduce(lambda total, each: g.add("Add", total, each), products(*pairs))

    aa, bb, cc = minor((d, f), (e, e)), minor((c, e), (b, f)), minor((b, e), (c, d))
    dd, ee, ff = minor((a, f), (c, c)), minor((b, c), (a, e)), minor((a, d), (b, b))
    rows = [dot((aa, x), (bb, y), (cc, z)), dot((bb, x), (dd, y), (ee, z)), dot((cc, x), (ee, y), (ff, z))]
    return g.add("Div", g.add("Concat", *rows, axis=1), dot((a, aa), (b, bb), (c, cc)))


def _turned(g: Graph, maps: str) -> str:
    """Three channels, the first one last: each meets the next."""
    order = g.constant("edges/order", [1, 2, 0], np.int64)
    return g.add("Gather", maps, order, axis=1)


def _sum(g: Graph, maps: str) -> str:
    """The sum of the channels, as one channel."""
    return g.add("ReduceSum", maps, g.constant("channel_axis", [1], np.int64), keepdims=1)
