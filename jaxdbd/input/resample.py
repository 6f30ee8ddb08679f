"""Antialiased resampling by two small matrices, one for each axis, as Pillow does it."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Shaped

PRECISION = jax.lax.Precision.HIGH  # of a GPU's TF32, a TPU's three passes: both far under half a gray level
BAND = 32  # outputs that share one run of inputs: faster on a CPU than 16 or 64
UNKNOWN = 1e30  # stands for a value that is not known: outweighs any other, however small its share
Finish = Callable[[Float32[Array, "..."]], Float32[Array, "..."]]


class Kernel(NamedTuple):
    """A filter: its weight at a distance in cells, and the distance beyond which that is 0."""

    weight: Callable[[Float32[Array, "..."]], Float32[Array, "..."]]
    support: float


def _cubic(x: Float32[Array, "..."]) -> Float32[Array, "..."]:
    x = jnp.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2  # Keys 1981, with a = -1/2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


BICUBIC = Kernel(_cubic, 2.0)
BILINEAR = Kernel(lambda x: jnp.maximum(1 - jnp.abs(x), 0.0), 1.0)
BOX = Kernel(lambda x: ((x > -0.5) & (x <= 0.5)).astype(jnp.float32), 0.5)


class Span(NamedTuple):
    """What a view shows along one axis; all as shares of the photograph, or of the pattern of its copies.

    The view goes from `start` to `stop`, which is the smaller one where it is mirrored. Of a pattern, the first copy
    begins at `offset`, each is `length` long and shows what is from `low` to `high` of the photograph, every second
    mirrored. The photograph itself is one copy: 0, 1, 0, 1.
    """

    start: Float32[Array, ""]
    stop: Float32[Array, ""]
    offset: Float32[Array, ""]
    length: Float32[Array, ""]
    low: Float32[Array, ""]
    high: Float32[Array, ""]

    def centers(self, n: int) -> Float32[Array, " n"]:
        """Where the centers of n cells of the view lie, as shares of the photograph."""
        along = self.start + (jnp.arange(n, dtype=jnp.float32) + 0.5) / n * (self.stop - self.start)
        copies = (along - self.offset) / self.length
        return self.low + (1 - jnp.abs(copies % 2 - 1)) * (self.high - self.low)

    def step(self, n: int) -> Float32[Array, ""]:
        """How far each of n cells of the view reaches, as a share of the photograph."""
        return jnp.abs(self.stop - self.start) * (self.high - self.low) / self.length / n


class Spans(NamedTuple):
    """What a view shows along both axes."""

    rows: Span
    columns: Span
    copied: Bool[Array, ""] | None  # whether it shows a pattern of copies; None: it never does


def levels(x: Float32[Array, "*s"]) -> Float32[Array, "*s"]:
    """Rounds to whole gray levels in [0, 255]."""
    return jnp.clip(jnp.floor(x + 0.5), 0, 255)


def weights(
    centers: Float32[Array, " m"], scale: Float32[Array, ""], cells: int, true: Int32[Array, ""], kernel: Kernel
) -> Float32[Array, "m n"]:
    """The matrix that resamples an axis of n = `cells` cells, of which the first `true` count and the others weigh 0.

    Args:
      centers: where the output's cells lie, in cells of the input; its first cell goes from 0 to 1.
      scale: input cells per output cell; above 1 the kernel is as much wider.
      cells: of the input, with its padding.
      true: how many of them are not padding.
      kernel: the filter.
    """
    at = jnp.arange(cells, dtype=jnp.float32) + 0.5
    distance = (at[None, :] - centers[:, None]) / jnp.maximum(scale, 1.0)
    raw = jnp.where((at < true)[None, :], kernel.weight(distance), 0.0)
    return raw / raw.sum(axis=1, keepdims=True)


def product(planes: Shaped[Array, "c h w"], matrix: Float32[Array, "m n"], axis: int) -> Float32[Array, "c h2 w2"]:
    """Resamples one axis, 1 or 2, by the matrix of `weights`."""
    equation = "chw,mh->cmw" if axis == 1 else "chw,mw->chm"
    return jnp.einsum(equation, planes.astype(jnp.float32), matrix, precision=PRECISION)


def _resample_axis(planes, span, copied, n, axis, kernel, true, in_bands):
    cells = planes.shape[axis]
    centers, scale = span.centers(n) * true, span.step(n) * true
    widest = max(cells / n, 1.0)  # `scale` is at most that, unless copies are made smaller
    reach = int(np.ceil(BAND * widest + 2 * kernel.support * widest)) + 2

    def at_once(planes):
        return product(planes, weights(centers, scale, cells, true, kernel), axis)

    def band(planes, centers):
        first = jnp.minimum(centers[0], centers[-1]) - kernel.support * jnp.maximum(scale, 1.0)
        start = jnp.clip(jnp.floor(first).astype(jnp.int32), 0, cells - reach)
        matrix = weights(centers - start, scale, reach, true - start, kernel)
        return product(jax.lax.dynamic_slice_in_dim(planes, start, reach, axis), matrix, axis)

    def by_bands(planes):
        bands = jax.vmap(partial(band, planes), out_axes=axis)(centers.reshape(-1, BAND))
        return jax.lax.collapse(bands, axis, axis + 2)

    if not in_bands or n % BAND or reach > cells / 2:
        return at_once(planes)
    return by_bands(planes) if copied is None else jax.lax.cond(copied, at_once, by_bands, planes)


def resample(
    planes: Shaped[Array, "c h w"],
    spans: Spans,
    shape: tuple[int, int],
    kernel: Kernel,
    true: Int32[Array, "2"],
    finish: Finish = levels,
    in_bands: bool = False,
) -> Float32[Array, "c h2 w2"]:
    """The view `spans` of padded planes, at `shape` (height, width), antialiased.

    Args:
      planes: uint8 or float32; what lies beyond `true` (height, width) is padding, which never shows.
      spans: what the view shows.
      shape: of the result.
      kernel: the filter, as wide as the reduction asks for.
      true: the height and width of `planes` without its padding.
      finish: what is done to the values after each axis, columns first: Pillow rounds twice.
      in_bands: leaves out most products with 0, which pays on a CPU; the result is the same.
    """
    across = finish(_resample_axis(planes, spans.columns, spans.copied, shape[1], 2, kernel, true[1], in_bands))
    return finish(_resample_axis(across, spans.rows, spans.copied, shape[0], 1, kernel, true[0], in_bands))
