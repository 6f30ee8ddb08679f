"""Augmentation on the host: one geometry for image, mask and depth, then light, noise and blur as cameras make them."""

import dataclasses
import io
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageEnhance

from jaxdbd.input.geometry import WHOLE, Box, View, crop_and_resize, resize
from jaxdbd.input.teacher_maps import covered

MIXED = 0.2  # choice of ours: a pixel half of whose light is from a blurred thing, give or take this, is of no class
VEILS = (0.006, 0.03)  # radius of the disc of what is laid over blurred, of the side; 2 to 10 pixels of 320

cv2.setNumThreads(1)  # the pipeline already runs one example per thread


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may happen to a training photograph. The paper states none; all of it is our choice."""

    flip: bool = True  # mirror half of them
    min_area: float = 0.4  # a crop covers between this fraction of the photograph and all of it
    max_aspect: float = 4 / 3  # and is stretched by at most this factor
    jitter: float = 0.1  # brightness, contrast and saturation change by at most this fraction (D-DFFNet's value)
    sharp: float = 0.0  # share replaced by a part wholly in focus, mask all 1
    tiled: float = 0.0  # share replaced by a pattern of small copies of it or of a part in focus, mask all 1
    sky: float = 0.0  # share of those wholly in focus that get a sky above, mask still all 1
    blurred: float = 0.0  # share blurred as a whole until nothing is in focus, mask all 0
    refocused: float = 0.0  # share of which a random region is blurred, mask 0 there
    pasted: float = 0.0  # share that gets what is in focus of another photograph laid over it
    veiled: float = 0.0  # share that gets the same laid over it, but blurred, mask 0 there
    shrunk: float = 0.0  # share reduced up to three times and, at the end, enlarged again: small photographs are soft
    gray: float = 0.0  # share without color
    noise: float = 0.0  # largest standard deviation of added noise, in gray levels
    jpeg: float = 0.0  # share compressed again, at quality 40 to 95


def random_box(rng: np.random.Generator, min_area: float, max_aspect: float) -> Box:
    """A box of random area and aspect that lies inside the photograph."""
    area = rng.uniform(min_area, 1.0)
    stretch = np.exp(rng.uniform(-1, 1) * np.log(max_aspect) / 2)
    w, h = min(np.sqrt(area) * stretch, 1.0), min(np.sqrt(area) / stretch, 1.0)
    left, top = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
    return left, top, left + w, top + h


def sharp_box(rng: np.random.Generator, mask: UInt8[np.ndarray, "h w"], min_side: int) -> Box | None:
    """The largest of many random boxes that lie wholly in focus with sides of at least `min_side` pixels, or None."""
    h, w = mask.shape
    if min(h, w) <= min_side:
        return None
    sums = cv2.integral((mask > 127).astype(np.uint8))
    heights, widths = rng.integers(min_side, h + 1, 256), rng.integers(min_side, w + 1, 256)
    tops = (rng.random(256) * (h - heights + 1)).astype(int)
    lefts = (rng.random(256) * (w - widths + 1)).astype(int)
    bottoms, rights = tops + heights, lefts + widths
    inside = sums[bottoms, rights] - sums[tops, rights] - sums[bottoms, lefts] + sums[tops, lefts]
    # A box twice as long as wide would be squashed into another texture.
    fits = (inside >= 0.998 * heights * widths) & (np.maximum(heights, widths) < 2 * np.minimum(heights, widths))
    if not fits.any():
        return None
    best = np.argmax(np.where(fits, heights * widths, 0))
    return lefts[best] / w, tops[best] / h, rights[best] / w, bottoms[best] / h


def tile(view: View, box: Box, scale: float, size: int, rng: np.random.Generator) -> View:
    """The part `box` of a photograph, resized by `scale` and mirrored over and over, all in focus.

    The teacher has seen no such pattern: its features are not known.
    """
    h, w = view.mask.shape
    shape = max(round((box[3] - box[1]) * h * scale), 1), max(round((box[2] - box[0]) * w * scale), 1)
    missing = [max(size - n, 0) for n in shape]
    before = [int(rng.integers(m + 1)) for m in missing]
    padding = [(b, m - b) for b, m in zip(before, missing, strict=True)]

    def repeat(array, resample):
        part = resize(array, shape, box, resample)
        return np.pad(part, padding + [(0, 0)] * (array.ndim - 2), mode="symmetric")[:size, :size]

    image = repeat(view.image, Image.Resampling.BICUBIC)
    depth = None if view.depth is None else repeat(view.depth, Image.Resampling.BILINEAR)
    return View(image, np.full((size, size), 255, np.uint8), depth, None)


def random_part(mask: UInt8[np.ndarray, "h w"], size: int, rng: np.random.Generator) -> tuple[Box, float] | None:
    """What to `tile`: a part wholly in focus, or all of a photograph so small that its blur is gone, with the scale.

    None where nothing large enough is in focus. Photographs of many pixels are sharper at the network's size than
    CUHK's ever are, and so are these copies. A small copy of a whole photograph is sharp in its ground too, which in
    CUHK is mostly blurred.
    """
    if rng.random() < 0.5:
        return WHOLE, size * rng.uniform(1 / 6, 1 / 3.5) / max(mask.shape)
    box = sharp_box(rng, mask, size // 4)
    return None if box is None else (box, rng.uniform(0.4, 0.8))


def smooth_noise(rng: np.random.Generator, knots: tuple[int, int], size: int) -> Float32[np.ndarray, "s s"]:
    """Normal noise on a grid of `knots` (rows, columns), bent smoothly into a square between them."""
    return cv2.resize(rng.standard_normal(knots).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)


def add_sky(view: View, rng: np.random.Generator) -> View:
    """Lays a plain sky, as far away as depth goes, over a photograph down to a random skyline.

    CUHK's plain grounds are blurred: a network that sees nothing else takes any sky for blur.
    """
    size = len(view.image)
    knots = rng.standard_normal((1, int(rng.integers(4, 16)))).astype(np.float32)
    hills_or_roofs = int(rng.choice([cv2.INTER_CUBIC, cv2.INTER_NEAREST]))
    outline = cv2.resize(knots, (size, 1), interpolation=hills_or_roofs)
    skyline = size * (rng.uniform(0.1, 0.7) + rng.uniform(0, 0.1) * outline)
    alpha = np.clip(skyline - np.arange(size, dtype=np.float32)[:, None], 0, 1).astype(np.float32)
    # Blue or gray above, paler at the horizon; clear or with soft clouds.
    zenith = rng.uniform(90, 255) * (1 - rng.uniform() * np.array([0.7, 0.4, 0.0]))
    horizon = zenith + rng.uniform() * (rng.uniform(180, 255) - zenith)
    height = np.linspace(0, 1, size)[:, None, None]
    clouds = smooth_noise(rng, (4, 6), size)
    sky = zenith * (1 - height) + horizon * height + rng.choice([0, rng.uniform(0, 20)]) * clouds[..., None]
    image = cv2.blendLinear(view.image, np.clip(sky, 0, 255).astype(np.uint8), 1 - alpha, alpha)
    return view._replace(
        image=image,
        depth=None if view.depth is None else view.depth * (1 - alpha),
        features=view.features and covered(view.features, alpha),
    )


def linear(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    """Linear light in [0, 1], by a gamma of 2.2."""
    return cv2.LUT(image, (np.arange(256, dtype=np.float32) / 255) ** 2.2)


def developed(light: Float32[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The inverse of `linear`."""
    return (cv2.pow(np.clip(light, 0, 1), 1 / 2.2) * 255 + 0.5).astype(np.uint8)


def disc(radius: float) -> Float32[np.ndarray, "k k"]:
    """What a lens out of focus makes of a point: an even disc of `radius` pixels, of sum 1."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    values = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return values / values.sum()


def defocus(image: UInt8[np.ndarray, "h w 3"], radius: float) -> UInt8[np.ndarray, "h w 3"]:
    """Blurs a whole photograph with a disc of `radius` pixels in linear light, as a lens out of focus does."""
    return developed(cv2.filter2D(linear(image), -1, disc(radius), borderType=cv2.BORDER_REFLECT))


def random_blur(image: UInt8[np.ndarray, "s s 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "s s 3"]:
    """Blurs a photograph so far that nothing of it counts as in focus, by a random radius."""
    # From where a blur can no longer be taken for sharpness (3 pixels at 256) to where little is left.
    return defocus(image, len(image) * np.exp(rng.uniform(np.log(0.012), np.log(0.04))))


def random_region(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "s s"]:
    """1 in a smooth shape that covers between a fifth and four fifths of a square, 0 elsewhere, soft in between."""
    field = smooth_noise(rng, (4, 4), size)
    region = (field > np.quantile(field, rng.uniform(0.2, 0.8))).astype(np.float32)
    return cv2.GaussianBlur(region, (0, 0), max(size / 128, 1))


def paste(below: View, above: View) -> View:
    """Lays what is in focus of the photograph `above` over the one `below`, of one size.

    The result has in focus what either has in focus, and counts where both count.
    """
    alpha = cv2.GaussianBlur(above.mask.astype(np.float32) / 255, (0, 0), len(below.mask) / 512)
    depth, valid = below.depth, below.valid
    if depth is not None and above.depth is not None:
        depth = cv2.blendLinear(depth, above.depth, 1 - alpha, alpha)
    if above.valid is not None:
        valid = above.valid if valid is None else np.minimum(valid, above.valid)
    image = cv2.blendLinear(below.image, above.image, 1 - alpha, alpha)
    features = below.features and covered(below.features, alpha, above.features)
    return View(image, np.maximum(below.mask, above.mask), depth, valid, features)


def veil(below: View, above: View, radius: float) -> View:
    """Lays what is in focus of the photograph `above` over the one `below`, of one size, blurred by a disc.

    A pixel is out of focus where most of its light is from the blurred one, and does not count where some of it is.
    """
    alpha = cv2.GaussianBlur(above.mask.astype(np.float32) / 255, (0, 0), len(below.mask) / 512)
    layer = np.dstack([linear(above.image) * alpha[..., None], alpha])
    layer = cv2.filter2D(layer, -1, disc(radius), borderType=cv2.BORDER_REFLECT)
    alpha = np.clip(layer[..., 3], 0, 1)
    image = developed(linear(below.image) * (1 - alpha[..., None]) + layer[..., :3])
    mask = np.where(alpha < 0.5, below.mask, np.uint8(0))
    uncertain = (np.abs(alpha - 0.5) < MIXED) & (below.mask > 0)
    valid = np.where(uncertain, np.uint8(0), np.uint8(255) if below.valid is None else below.valid)
    valid = np.where(alpha >= 0.5 + MIXED, np.uint8(255), valid)
    depth = below.depth
    if depth is not None and above.depth is not None:
        depth = cv2.blendLinear(depth, above.depth, 1 - alpha, alpha)
    return View(image, mask, depth, valid, below.features and covered(below.features, alpha))


def jitter_colors(image: UInt8[np.ndarray, "h w 3"], amount: float, rng) -> UInt8[np.ndarray, "h w 3"]:
    """Changes brightness, contrast and saturation by factors in 1 +- amount."""
    picture = Image.fromarray(image)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = change(picture).enhance(rng.uniform(1 - amount, 1 + amount))
    return np.asarray(picture)


def add_noise(image: UInt8[np.ndarray, "h w 3"], sigma: float, rng) -> UInt8[np.ndarray, "h w 3"]:
    """Adds Gaussian noise of `sigma` gray levels, in whole levels."""
    noise = np.empty((image.shape[0], image.size // image.shape[0]), np.int16)  # sigma is for one channel
    cv2.setRNGSeed(int(rng.integers(2**31)))  # of this thread's generator, thrice as fast as NumPy's
    cv2.randn(noise, np.zeros(1), np.full(1, sigma))
    return cv2.add(image, noise.reshape(image.shape), dtype=cv2.CV_8U)


def compress(image: UInt8[np.ndarray, "h w 3"], quality: int) -> UInt8[np.ndarray, "h w 3"]:
    """What JPEG leaves of an image at `quality`."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def augment(
    view: View,
    size: int,
    settings: Augmentation,
    rng: np.random.Generator,
    above: View | None = None,
    lay: Callable[[View, View], View] = paste,
) -> View:
    """One random view of a photograph, at size x size, with the same part of `above`, another one, laid over it."""
    if settings.tiled and rng.random() < settings.tiled:
        part = random_part(view.mask, size, rng)
        if part is not None:
            view = tile(view, *part, size, rng)
    kind = rng.random()
    box = None
    if kind < settings.sharp:
        # Enlarged more than twice, even a sharp part looks blurred.
        box = sharp_box(rng, view.mask, size // 2)
    if box is None:
        box = random_box(rng, settings.min_area, settings.max_aspect)
    view = crop_and_resize(view, size, box, settings.flip and rng.random() < 0.5)
    if settings.sky and view.mask.mean() > 254 and rng.random() < settings.sky:
        view = add_sky(view, rng)
    if above is not None:
        view = lay(view, crop_and_resize(above, size, box, settings.flip and rng.random() < 0.5))
    image, mask, depth, valid, features = view
    if settings.sharp <= kind < settings.sharp + settings.blurred:
        image, mask, valid, features = random_blur(image, rng), np.zeros_like(mask), None, None
    elif kind > 1 - settings.refocused:
        region = random_region(rng, size)
        image = cv2.blendLinear(image, random_blur(image, rng), 1 - region, region)
        mask = (mask * (1 - region) + 0.5).astype(np.uint8)
        valid = None if valid is None else np.maximum(valid, (region * 255).astype(np.uint8))
        features = features and covered(features, region)
    if settings.shrunk and rng.random() < settings.shrunk:
        side = round(size * rng.uniform(1 / 3, 1))
        image = resize(image, (side, side))
    if settings.jitter:
        image = jitter_colors(image, settings.jitter, rng)
    if settings.gray and rng.random() < settings.gray:
        image = np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
    if settings.noise:
        image = add_noise(image, rng.uniform(0, settings.noise), rng)
    if rng.random() < settings.jpeg:
        image = compress(image, int(rng.integers(40, 96)))
    if len(image) < size:
        image = resize(image, (size, size))
    return View(image, mask, depth, valid, features)
