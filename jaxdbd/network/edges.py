"""Crisp edges for a soft map: a guided filter pulls it to the edges of the photograph, and a slope makes it decided."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

EPSILON = 1e-4  # of the filter, choice of ours: what the photograph varies less than by a hundredth is even
REDUCED = 2  # the filter is fitted at a half of the map's size, where it is as good and takes a quarter of the time


def crisp(
    logits: Float[Array, "b h w"], images: Float[Array, "b h w 3"], radius: float, slope: float
) -> Float[Array, "b h w"]:
    """Logits that follow the edges of the photographs, `slope` times as steep.

    A guided filter with a color guide (He, Sun, Tang, TPAMI 2013, eq. 19 to 21) in its fast form (He and Sun, 2015):
    around each pixel the logits are fitted as a linear function of the colors, at half the size; the mean of these
    functions is applied to the colors at full size.

    Args:
      logits: of the network; h and w are even.
      images: the photographs, RGB in [0, 1].
      radius: of the windows, as a share of the longer side; 0 leaves the filter out.
      slope: factor of the logits.
    """
    if radius:
        logits = guided(logits, images, radius * max(logits.shape[1:]))
    return slope * logits


def guided(values: Float[Array, "b h w"], images: Float[Array, "b h w 3"], radius: float) -> Float[Array, "b h w"]:
    """The fast guided filter of `crisp`, with windows of `radius` pixels."""
    guide, target = (_reduced(x) for x in (images, values[..., None]))
    b, h, w, _ = guide.shape
    rows, columns = (window_means(n, radius / REDUCED) for n in (h, w))

    def mean(x):
        return jnp.einsum("ij,bjwc,vw->bivc", rows, x, columns)

    products = jnp.concatenate([guide * guide, guide * jnp.roll(guide, -1, axis=-1), guide * target], axis=-1)
    means = mean(jnp.concatenate([guide, target, products], axis=-1))
    of_guide, of_target, (squares, crossed, joint) = means[..., :3], means[..., 3:4], jnp.split(means[..., 4:], 3, -1)
    variance = squares - of_guide**2 + EPSILON  # of r, g, b
    covariance = crossed - of_guide * jnp.roll(of_guide, -1, axis=-1)  # of r and g, g and b, b and r
    slopes = solved(variance, covariance, joint - of_guide * of_target)
    offset = of_target - (slopes * of_guide).sum(axis=-1, keepdims=True)
    linear = mean(jnp.concatenate([slopes, offset], axis=-1))
    linear = jax.image.resize(linear, (b, *values.shape[1:], 4), "bilinear")
    return (linear[..., :3] * images).sum(axis=-1) + linear[..., 3]


def _reduced(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    b, h, w, c = x.shape
    return x.reshape(b, h // REDUCED, REDUCED, w // REDUCED, REDUCED, c).mean(axis=(2, 4))


def window_means(n: int, radius: float) -> Float32[np.ndarray, "n n"]:
    """The matrix that replaces each of n values by the mean of those within `radius`, of which what lies inside counts.

    A value at the end of a window counts by the part of it that lies inside.
    """
    distance = np.abs(np.arange(n)[:, None] - np.arange(n))
    weights = np.clip(radius + 1 - distance, 0, 1)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def solved(
    variance: Float[Array, "*s 3"], covariance: Float[Array, "*s 3"], joint: Float[Array, "*s 3"]
) -> Float[Array, "*s 3"]:
    """The solution x of C x = joint, by Cramer's rule, for symmetric C of three rows.

    Args:
      variance: the diagonal of C.
      covariance: its entries (1, 2), (2, 3) and (3, 1).
      joint: the right side.
    """
    a, d, f = (variance[..., i] for i in range(3))
    b, e, c = (covariance[..., i] for i in range(3))
    # The inverse of C is the adjugate over the determinant.
    aa, bb, cc = d * f - e * e, c * e - b * f, b * e - c * d
    dd, ee, ff = a * f - c * c, b * c - a * e, a * d - b * b
    x, y, z = (joint[..., i] for i in range(3))
    adjugate = jnp.stack([aa * x + bb * y + cc * z, bb * x + dd * y + ee * z, cc * x + ee * y + ff * z], axis=-1)
    return adjugate / (a * aa + b * bb + c * cc)[..., None]
