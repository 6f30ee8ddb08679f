"""What is laid over a view: a sky, what is in focus of another photograph, sharp or blurred, or blur of its own."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32
from scipy.fft import next_fast_len

from jaxdbd.input import maps
from jaxdbd.input.draws import between, centered
from jaxdbd.input.resample import BICUBIC, BOX, Kernel, levels, product, weights
from jaxdbd.input.views import View

# --- Blur in linear light, as a lens out of focus makes it ---

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
    return next_fast_len(side + 2 * reach, real=True)  # pyright: ignore[reportReturnType]  # its body is written in C


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


# --- Layers ---

MIXED = 0.2  # choice of ours: a pixel half of whose light is from a blurred thing, give or take this, is of no class
# Radii of discs, of the side, choices of ours.
DEFOCUS = (0.012, WIDEST)  # from where blur cannot be taken for sharpness, 3 pixels of 256, to where little is left
VEILS = (0.006, 0.03)  # of what is laid over blurred: 2 to 10 pixels of 320


def mix(
    below: Float32[Array, "3 s s"], above: Float32[Array, "3 s s"], cover: Float32[Array, "s s"]
) -> Float32[Array, "3 s s"]:
    """Two images in gray levels, the second with the opacity `cover` in [0, 1]."""
    return levels(below * (1 - cover[None]) + above * cover[None])


def _bent(
    knots: Float32[Array, "c h w"], axis: int, size: int, true: Float32[Array, ""] | int, kernel: Kernel
) -> Float32[Array, "c _ _"]:
    """Knots of which the first `true` are spread over `size` pixels, with values between them by a kernel."""
    n = knots.shape[axis]
    centers = (jnp.arange(size, dtype=jnp.float32) + 0.5) * true / size
    return product(knots, weights(centers, jnp.float32(1), n, jnp.asarray(true, jnp.int32), kernel), axis)


def smooth_noise(draws: Float32[Array, "h w"], size: int) -> Float32[Array, "s s"]:
    """Noise on a grid of knots, of a mean of 0 and a standard deviation of 1, bent smoothly into a square."""
    rows, columns = draws.shape
    return _bent(_bent(centered(draws)[None], 1, size, rows, BICUBIC), 2, size, columns, BICUBIC)[0]


def _outline(draws: Float32[Array, " n"], size: int) -> Float32[Array, " s"]:
    """Hills or roofs: noise of between 4 and 15 knots, bent smoothly or in steps."""
    hilly, count, *_ = draws
    knots = centered(draws[2:])[None, None]
    true = jnp.floor(between(count, 4.0, float(knots.shape[-1])))
    hills, roofs = (_bent(knots, 2, size, true, kernel)[0, 0] for kernel in (BICUBIC, BOX))
    return jnp.where(hilly < 0.5, hills, roofs)


def add_sky(
    view: View, draws: Float32[Array, "8"], skyline: Float32[Array, "18"], clouds: Float32[Array, "4 6"]
) -> View:
    """Lays a plain sky, as far away as depth goes, over a view down to a random skyline; the mask stays.

    CUHK's plain grounds are blurred: a network that sees nothing else takes any sky for blur.
    """
    size = len(view.mask)
    height, roughness, brightness, blueness, paleness, haze, cloudy, cloudiness = draws
    line = size * (between(height, 0.1, 0.7) + 0.1 * roughness * _outline(skyline, size))
    cover = jnp.clip(line[None, :] - jnp.arange(size, dtype=jnp.float32)[:, None], 0, 1)
    # Blue or gray above, paler at the horizon; clear or with soft clouds.
    zenith = between(brightness, 90.0, 255.0) * (1 - blueness * jnp.array([0.7, 0.4, 0.0]))
    horizon = zenith + paleness * (between(haze, 180.0, 255.0) - zenith)
    down = jnp.linspace(0, 1, size)[None, :, None]
    colors = zenith[:, None, None] * (1 - down) + horizon[:, None, None] * down
    sky = colors + jnp.where(cloudy < 0.5, 0.0, 20 * cloudiness) * smooth_noise(clouds, size)[None]
    image = mix(view.image, jnp.clip(sky, 0, 255), cover)
    return view._replace(image=image, maps=maps.laid(view.maps, cover, maps.sky(view.maps)))


def paste(below: View, above: View) -> View:
    """Lays what is in focus of the view `above` over the one `below`.

    The result has in focus what either has in focus, and counts where both count.
    """
    cover = _cover(above)
    image = mix(below.image, above.image, cover)
    mask, valid = jnp.maximum(below.mask, above.mask), jnp.minimum(below.valid, above.valid)
    return View(image, mask, valid, maps.laid(below.maps, cover, above.maps))


def _cover(above: View) -> Float32[Array, "s s"]:
    return soften(above.mask / 255, len(above.mask) / 512)


def veil(below: View, above: View, radius: Float32[Array, ""]) -> View:
    """Lays what is in focus of the view `above` over the one `below`, blurred by a disc of `radius` pixels.

    A pixel is out of focus where most of its light is from the blurred one, and does not count where some of it is.
    """
    cover = _cover(above)[None]
    layer = disc_blur(jnp.concatenate([linear(above.image) * cover, cover]), radius)
    cover = jnp.clip(layer[3], 0, 1)
    image = developed(linear(below.image) * (1 - cover[None]) + layer[:3])
    mask = jnp.where(cover < 0.5, below.mask, 0.0)
    uncertain = (jnp.abs(cover - 0.5) < MIXED) & (below.mask > 0)
    valid = jnp.where(cover >= 0.5 + MIXED, 255.0, jnp.where(uncertain, 0.0, below.valid))
    over = maps.blurred(above.maps, 2 * radius / len(mask))
    return View(image, mask, valid, maps.laid(below.maps, cover, over))


def random_region(draws: Float32[Array, "4 4"], share: Float32[Array, ""], size: int) -> Float32[Array, "s s"]:
    """1 in a smooth shape that covers between a fifth and four fifths of a square, 0 elsewhere, soft in between."""
    field = smooth_noise(draws, size)
    step = max(size // 32, 1)
    coarse = field[step // 2 :: step, step // 2 :: step]  # good enough of what is so smooth, and soon sorted
    edge = jnp.quantile(coarse, between(share, 0.2, 0.8))
    return soften((field > edge).astype(jnp.float32), max(size / 128, 1.0))


def refocus(view: View, region: Float32[Array, "s s"], radius: Float32[Array, ""]) -> View:
    """Blurs a view where `region` is 1, by a disc of `radius` pixels so wide that nothing of it counts as in focus."""
    size = len(view.mask)
    image = mix(view.image, defocus(view.image, radius), region)
    mask = jnp.floor(view.mask * (1 - region) + 0.5)
    valid = jnp.maximum(view.valid, jnp.floor(region * 255))
    return View(image, mask, valid, maps.laid(view.maps, region, maps.blurred(view.maps, 2 * radius / size)))


def blur(view: View, whole: Bool[Array, ""], draws: Float32[Array, "2"], region: Float32[Array, "4 4"]) -> View:
    """Blurs all of a view, or else a random region of it, by a random radius."""
    share, radius = draws
    size = len(view.mask)
    cover = jnp.where(whole, 1.0, random_region(region, share, size))
    return refocus(view, cover, size * random_radius(radius, DEFOCUS))


def random_radius(share: Float32[Array, "*s"], limits: tuple[float, float]) -> Float32[Array, "*s"]:
    """Between `limits`, evenly spread on a scale of ratios where `share` is evenly spread over [0, 1)."""
    low, high = limits
    return low * (high / low) ** share
