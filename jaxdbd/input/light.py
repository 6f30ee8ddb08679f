"""Blur in linear light, as a lens out of focus makes it, and the soft edges of what is laid over a photograph."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from jaxdbd.input.resample import levels

GAMMA = 2.2
WIDEST = 0.04  # radius of the widest disc, of the side: choice of ours, so much leaves little of a photograph


def linear(image: Float32[Array, "3 s s"]) -> Float32[Array, "3 s s"]:
    """Linear light in [0, 1] of gray levels, by a gamma of 2.2."""
    # On a CPU `**` calls a function for each value, and takes five times as long.
    return jnp.exp(GAMMA * jnp.log(image / 255))


def developed(light: Float32[Array, "3 s s"]) -> Float32[Array, "3 s s"]:
    """The inverse of `linear`, in whole gray levels."""
    return levels(255 * jnp.exp(jnp.log(jnp.clip(light, 0, 1)) / GAMMA))


def _transform_side(side: int, reach: int) -> int:
    """The least side with room for the borders of which fast Fourier transforms are fast: factors of 2, 3 and 5."""
    n = side + 2 * reach
    while n != 2 ** _power(n, 2) * 3 ** _power(n, 3) * 5 ** _power(n, 5):
        n += 1
    return n


def _power(n: int, base: int) -> int:
    return 0 if n % base else 1 + _power(n // base, base)


def disc_blur(planes: Float32[Array, "c s s"], radius: Float32[Array, ""]) -> Float32[Array, "c s s"]:
    """Blurs with an even disc of `radius` pixels, at most `WIDEST` of the side, by Fourier transforms.

    The disc has a soft edge one pixel wide and a sum of 1. Beyond the borders lies the mirror image.
    """
    side = planes.shape[-1]
    reach = int(np.ceil(WIDEST * side + 0.5))
    n = _transform_side(side, reach)
    at = jnp.arange(n, dtype=jnp.float32)
    distance = jnp.minimum(at, n - at)
    disc = jnp.clip(radius + 0.5 - jnp.hypot(distance[:, None], distance[None, :]), 0, 1)
    spectrum = jnp.fft.rfft2(disc / disc.sum())
    after = (reach, n - side - reach)
    framed = jnp.pad(planes, ((0, 0), after, after), mode="symmetric")
    blurred = jnp.fft.irfft2(jnp.fft.rfft2(framed) * spectrum[None], s=(n, n))
    return blurred[:, reach : reach + side, reach : reach + side]


def defocus(image: Float32[Array, "3 s s"], radius: Float32[Array, ""]) -> Float32[Array, "3 s s"]:
    """Blurs gray levels with a disc of `radius` pixels in linear light."""
    return developed(disc_blur(linear(image), radius))


def soften(plane: Float32[Array, "s s"], sigma: float) -> Float32[Array, "s s"]:
    """Blurs with a Gaussian of `sigma` pixels, cut off at four; the pixels at the borders are mirrored around."""
    reach = round(4 * sigma)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    bell = (bell / bell.sum()).tolist()
    framed = jnp.pad(plane, reach, mode="reflect")
    side = len(plane)
    zero = jnp.zeros(())
    down = sum((weight * framed[i : i + side] for i, weight in enumerate(bell)), zero)
    return sum((weight * down[:, i : i + side] for i, weight in enumerate(bell)), zero)
