"""The guided filter of network/edges.py as nodes of an ONNX graph."""

from functools import partial, reduce

import numpy as np

from jaxdbd.network.edges import EPSILON, REDUCED, window_means
from jaxdbd.weights.onnx_nodes import Graph


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
