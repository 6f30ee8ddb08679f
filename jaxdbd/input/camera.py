"""What cameras and programs make of a picture: fewer pixels, other colors, noise. All of it in whole gray levels.

A picture that was reduced lies in the upper left corner of a square that does not change; beyond its true side its last
row and column repeat, here and after every function.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32, UInt32

from jaxdbd.input.resample import BICUBIC, levels, product, weights

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601


def shrink(image: Float32[Array, "3 s s"], side: Int32[Array, ""]) -> Float32[Array, "3 s s"]:
    """Reduces a picture to side x side pixels, in the corner of the square."""
    size = image.shape[-1]
    at = jnp.minimum(jnp.arange(size), side - 1)
    matrix = weights((at + 0.5) * size / side, size / side, size, jnp.int32(size), BICUBIC)
    return levels(product(levels(product(image, matrix, 2)), matrix, 1))


def enlarge(image: Float32[Array, "3 s s"], side: Int32[Array, ""]) -> Float32[Array, "3 s s"]:
    """Enlarges what `shrink` left to the square again."""
    size = image.shape[-1]
    centers = (jnp.arange(size, dtype=jnp.float32) + 0.5) * side / size
    matrix = weights(centers, jnp.float32(1), size, side, BICUBIC)
    return levels(product(levels(product(image, matrix, 2)), matrix, 1))


def gray(image: Float32[Array, "3 s s"]) -> Float32[Array, "s s"]:
    """The gray level of each pixel."""
    red, green, blue = image
    return jnp.floor((LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue) + 0.5)


def without_color(image: Float32[Array, "3 s s"]) -> Float32[Array, "3 s s"]:
    """The picture in gray."""
    return jnp.broadcast_to(gray(image)[None], image.shape)


def jitter(
    image: Float32[Array, "3 s s"], factors: Float32[Array, "3"], side: Int32[Array, ""] | int
) -> Float32[Array, "3 s s"]:
    """Changes brightness, contrast and saturation by factors around 1, as Pillow's ImageEnhance does.

    Contrast is around the mean of the picture, of side x side pixels.
    """
    image = _enhance(jnp.zeros_like(image), image, factors[0])
    inside = jnp.arange(image.shape[-1]) < side
    mean = jnp.where(inside[:, None] & inside[None, :], gray(image), 0.0).sum() / (1.0 * side * side)
    image = _enhance(jnp.floor(mean + 0.5), image, factors[1])
    return _enhance(gray(image)[None], image, factors[2])


def _enhance(without: Float32[Array, "..."], image: Float32[Array, "3 s s"], factor: Float32[Array, ""]):
    return jnp.clip(jnp.floor(without + factor * (image - without)), 0, 255)


def add_noise(
    image: Float32[Array, "3 s s"], seed: Float32[Array, ""], sigma: Float32[Array, ""], side: Int32[Array, ""] | int
) -> Float32[Array, "3 s s"]:
    """Adds normal noise of a standard deviation of `sigma` gray levels, in whole levels.

    The sum of eight bytes is normal as far as whole levels show. Random words by hashing the number of each value take
    a CPU a tenth of the time of jax.random's.
    """
    size = image.shape[-1]
    at = jnp.minimum(jnp.arange(size), side - 1).astype(jnp.uint32)
    channel = jnp.arange(3, dtype=jnp.uint32)
    number = (channel[:, None, None] * size + at[None, :, None]) * size + at[None, None, :]
    first = _hash(number ^ _hash(jax.lax.bitcast_convert_type(seed, jnp.uint32)))
    words = first, _hash(first ^ jnp.uint32(0x9E3779B9))
    total = sum(((word >> shift) & 255).astype(jnp.float32) for word in words for shift in (0, 8, 16, 24))
    spread = (8 * (256**2 - 1) / 12) ** 0.5  # standard deviation of the sum of eight evenly spread bytes
    noise = (total - 8 * 127.5) * (sigma / spread)
    return jnp.clip(image + jnp.round(noise), 0, 255)


def _hash(word: UInt32[Array, "*s"]) -> UInt32[Array, "*s"]:
    """Mixes the bits of 32-bit words (lowbias32, Wellons 2018)."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)
