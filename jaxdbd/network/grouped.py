"""Depthwise and grouped convolutions as sums and as plain convolutions: XLA and cuDNN are slow at them as they are."""

import math
from functools import reduce
from operator import add

import jax
import jax.numpy as jnp

from jaxdbd.network.bilinear import Form
from jaxdbd.network.plain import padded_grouped_conv

# --- Depthwise: k*k multiply-adds, which XLA fuses into one loop on a CPU and into one kernel on a GPU ---


def same_padding(size: int, k: int, stride: int) -> tuple[int, int]:
    """TensorFlow's 'SAME' rule along one axis: (before, after), the odd pixel after."""
    total = max((-(-size // stride) - 1) * stride + k - size, 0)
    return total // 2, total - total // 2


def shifted_views(padded, k, stride, h, w):
    """The k*k views [b, h, w, c] of a padded map that meet each entry of a kernel, row by row."""
    return [
        padded[:, i : i + (h - 1) * stride + 1 : stride, j : j + (w - 1) * stride + 1 : stride]
        for i in range(k)
        for j in range(k)
    ]


def same_padded(x, k, stride):
    """A map with the padding that 'SAME' says."""
    return jnp.pad(x, ((0, 0), *(same_padding(side, k, stride) for side in x.shape[1:3]), (0, 0)))


def same_views(x, k, stride):
    """The views of a map with the padding that 'SAME' says, float32."""
    padded = same_padded(x, k, stride).astype(jnp.float32)
    return shifted_views(padded, k, stride, *(-(-side // stride) for side in x.shape[1:3]))


def weighted_sum(views, kernel):
    """The sum of k*k views, each times its entry of a depthwise kernel."""
    k, kernel = kernel.shape[0], kernel.astype(jnp.float32)
    taps = [kernel[i : i + 1, j : j + 1] for i in range(k) for j in range(k)]
    return reduce(add, (view * tap for view, tap in zip(views, taps, strict=True)))


def shifted_depthwise(x, kernel, stride):
    """Depthwise convolution with 'SAME' padding."""
    return weighted_sum(same_views(x, kernel.shape[0], stride), kernel).astype(x.dtype)


def shifted_by_x(kernel, dy, shape, stride):
    """Its gradient by x: dy, its pixels `stride` apart, convolved with the turned kernel.

    Input row r meets kernel row i in output row (r + before - i) / stride. Autodiff would add k*k padded maps.
    """
    k = kernel.shape[0]
    config = [(0, 0, 0)]
    for side, out in zip(shape[1:3], dy.shape[1:3], strict=True):
        before, _ = same_padding(side, k, stride)
        config.append((k - 1 - before, side + before - ((out - 1) * stride + 1), stride - 1))
    spread = jax.lax.pad(dy, jnp.zeros((), dy.dtype), [*config, (0, 0, 0)]).astype(jnp.float32)
    return weighted_sum(shifted_views(spread, k, 1, *shape[1:3]), kernel[::-1, ::-1])


def one_reduction(x, dy, shape, stride):
    """Its gradient by the kernel, in one reduction with k*k operands, which reads x and dy once."""
    k = shape[0]
    products = tuple(view * dy for view in same_views(x, k, stride))
    sums = jax.lax.reduce(products, (jnp.float32(0),) * (k * k), lambda a, b: tuple(map(add, a, b)), (1, 2))
    # The sum over images comes after, so that a sharded batch reduces on its own device first.
    return jnp.stack([s.sum(axis=0) for s in sums]).reshape(shape)


def stacked(x, dy, shape, stride):
    """The same as one sum over the stack of views: a GPU would write the products of the reduction above to memory.

    The padding is written first. In the same kernel every view would test for its border, and it would compile for
    twice as long.
    """
    k = shape[0]
    padded = jax.lax.optimization_barrier(same_padded(x, k, stride)).astype(jnp.float32)
    views = shifted_views(padded, k, stride, *dy.shape[1:3])
    return (jnp.stack(views) * dy[None]).sum(axis=(1, 2, 3)).reshape(shape)


SHIFTED_CPU = Form(shifted_depthwise, shifted_by_x, one_reduction)
SHIFTED_CUDA = Form(shifted_depthwise, shifted_by_x, stacked)

# --- In groups ---

MERGED = 16  # input channels of a convolution that stands for some groups: our choice, from docs/performance.md


def split_grouped_conv(x, kernel, groups, stride=1):
    """A grouped 3x3 convolution as plain ones, each of a few groups, with zeros in its kernel from group to group."""
    k, _, c, _ = kernel.shape
    together = math.gcd(groups, max(1, MERGED // c))
    by_group = kernel.reshape(k, k, c, groups // together, together, -1)
    merged = jnp.einsum("ijcpgd,hg->pijhcgd", by_group, jnp.eye(together, dtype=kernel.dtype))
    merged = merged.reshape(groups // together, k, k, together * c, -1)
    parts = zip(jnp.split(x, groups // together, axis=-1), merged, strict=True)
    return jnp.concatenate([padded_grouped_conv(part, each, 1, stride) for part, each in parts], axis=-1)
