"""What cameras and programs make of a picture: fewer pixels, other colors, noise, JPEG. All in whole gray levels.

A picture that was reduced lies in the upper left corner of a square that does not change; beyond its true side its last
row and column repeat, here and after every function.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, UInt32

from jaxdbd.input.resample import BICUBIC, PRECISION, levels, product, weights

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


# --- JPEG: colors at half resolution, and rounded cosine transforms of blocks of 8 x 8 pixels ---

# As libjpeg does it for Pillow (ITU-T T.81, JFIF): 4:2:0, the standard tables scaled by a quality, decoded with its
# smooth ("fancy") enlargement of the colors. The example tables of T.81, annex K: for luminance and for color.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
COLOR = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)


def table(standard: tuple[tuple[int, ...], ...], quality: Int32[Array, ""]) -> Float32[Array, "8 8"]:
    """The steps of the coefficients at a quality in 1..100, by libjpeg's rule."""
    percent = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return jnp.clip((jnp.array(standard, jnp.int32) * percent + 50) // 100, 1, 255).astype(jnp.float32)


def _cosines() -> Float32[np.ndarray, "64 64"]:
    """The matrix of the orthonormal cosine transform of a block of 8 x 8 pixels, row by row."""
    u, x = np.mgrid[:8, :8]
    one_axis = np.sqrt(np.where(u == 0, 1, 2) / 8) * np.cos((2 * x + 1) * u * np.pi / 16)
    return np.kron(one_axis, one_axis).astype(np.float32)


def _coded(planes: Float32[Array, "c s s"], steps: Float32[Array, "8 8"]) -> Float32[Array, "c s s"]:
    """Planes in gray levels after transform, rounding to steps, and back."""
    c, size, _ = planes.shape
    n = size // 8
    blocks = planes.reshape(c, n, 8, n, 8).swapaxes(2, 3).reshape(-1, 64)
    cosines, steps = _cosines(), steps.reshape(1, 64)
    ratios = jnp.matmul(blocks - 128, cosines.T, precision=PRECISION) / steps
    rounded = jnp.sign(ratios) * jnp.floor(jnp.abs(ratios) + 0.5)
    blocks = levels(jnp.matmul(rounded * steps, cosines, precision=PRECISION) + 128)
    return blocks.reshape(c, n, n, 8, 8).swapaxes(2, 3).reshape(c, size, size)


def _halved(planes: Float32[Array, "c s s"]) -> Float32[Array, "c s2 s2"]:
    """Means of 2 x 2 pixels; halves are rounded down in even columns and up in odd ones, as libjpeg does."""
    c, size, _ = planes.shape
    sums = planes.reshape(c, size // 2, 2, size // 2, 2).sum(axis=(2, 4))
    return jnp.floor((sums + 1 + (jnp.arange(size // 2) % 2)[None, None, :]) / 4)


def _doubled(planes: Float32[Array, "c _ _"], axis: int) -> Float32[Array, "c _ _"]:
    """Two pixels of each: three quarters its own level, and one quarter that of the neighbor on their side."""
    n = planes.shape[axis]
    edges = [(0, 0)] * 3
    edges[axis] = (1, 1)
    framed = jnp.pad(planes, edges, mode="edge")
    sides = [jax.lax.slice_in_dim(framed, i, i + n, axis=axis) for i in (0, 2)]
    pairs = jnp.stack([0.75 * planes + 0.25 * side for side in sides], axis + 1)
    return jax.lax.collapse(pairs, axis, axis + 2)


def compress(image: Float32[Array, "3 s s"], quality: Int32[Array, ""]) -> Float32[Array, "3 s s"]:
    """What JPEG leaves of a picture at a quality in 1..100; all in whole gray levels. s is a multiple of 16.

    A smaller picture that lies in the corner of this one comes out as if by itself, if its last row and column repeat
    beyond it; but for the colors of these, by a level or two.
    """
    red, green, blue = image
    luminance = levels(0.299 * red + 0.587 * green + 0.114 * blue)
    colors = jnp.stack(
        [
            levels(-0.168735892 * red - 0.331264108 * green + 0.5 * blue + 128),
            levels(0.5 * red - 0.418687589 * green - 0.081312411 * blue + 128),
        ]
    )
    [luminance] = _coded(luminance[None], table(LUMINANCE, quality))
    colors = _coded(_halved(colors), table(COLOR, quality))
    toward_blue, toward_red = levels(_doubled(_doubled(colors, 1), 2)) - 128
    return levels(
        jnp.stack(
            [
                luminance + 1.402 * toward_red,
                luminance - 0.344136286 * toward_blue - 0.714136286 * toward_red,
                luminance + 1.772 * toward_blue,
            ]
        )
    )
