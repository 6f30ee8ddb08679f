"""Augmentation of training rows, on the device: one geometry for photograph and maps, then light, noise and blur.

Row n is a pure function of its photograph, its random key and those of row n xor 1, its partner, which may be laid over
it. Nothing else of the batch reaches it.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Key, Shaped

from jaxdbd.input import camera, layers, views
from jaxdbd.input.draws import Draws, between, draw
from jaxdbd.input.resample import Spans
from jaxdbd.input.views import WHOLE, Canvas, View

IN_FOCUS = 254  # mean of a mask, choice of ours: of a view in focus all over it is higher
T = TypeVar("T")
Row = dict[str, Shaped[Array, "..."]]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may happen to a training photograph. The paper states none; all of it is our choice.

    A share is a plain number: what has a share of 0 is not part of the program.
    """

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


def augment(canvases: Canvas, keys: Key[Array, " b"], size: int, settings: Augmentation, in_turn: bool = False) -> Row:
    """Random views of photographs.

    On several devices call it within `jax.shard_map`: left to itself, the compiler gathers rows to transform them.

    Args:
      canvases: with a leading axis of an even number of rows, the first of an even number in the stream.
      keys: one of each row.
      size: of the views, a multiple of 16.
      settings: what may happen.
      in_turn: one row after the other, so that each costs only what happens to it: for a CPU. Else all rows go through
        everything at once: for accelerators. The results are the same, up to rounding.

    Returns:
      `image` uint8 [b, size, size, 3], `mask` and `valid` uint8 [b, size, size, 1], and the maps of the canvases by
      their names: float16 [b, size, size, 1], features [b, h, w, c] on their own grid; NaN where not known.
    """

    def for_each(function, *rows):
        return jax.lax.map(lambda row: function(*row), rows) if in_turn else jax.vmap(function)(*rows)

    draws = jax.vmap(draw)(keys)
    plain = for_each(partial(plain_view, size=size, settings=settings, in_bands=in_turn), canvases, draws)
    partners = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape), plain)
    return for_each(partial(finished, settings=settings), plain, partners, draws)


def plain_view(canvas: Canvas, draws: Draws, size: int, settings: Augmentation, in_bands: bool = False) -> View:
    """A random part of a photograph, or a pattern of small copies of it, and nothing done to it yet."""
    return views.view(canvas, random_spans(canvas, draws, size, settings), size, in_bands)


def random_spans(canvas: Canvas, draws: Draws, size: int, settings: Augmentation) -> Spans:
    """What a random view shows of a photograph."""
    *window, flip = draws["window"]
    tiled, of_part, zoom, *offsets = draws["tiles"]
    box = views.random_box(jnp.stack(window), settings.min_area, settings.max_aspect)
    tiled, of_part = tiled < settings.tiled, of_part < 0.5
    part, found = jnp.array(WHOLE), jnp.array(False)
    if settings.tiled or settings.sharp:
        # Enlarged more than twice, even a part in focus looks blurred.
        least = jnp.where(tiled, size // 4, size // 2)
        wanted = jnp.where(tiled, of_part, draws["kind"] < settings.sharp)
        search = partial(views.sharp_box, draws["boxes"], canvas.mask, canvas.size, least)
        part, found = jax.lax.cond(wanted, search, lambda: (jnp.array(WHOLE), jnp.array(False)))
        tiled &= found | ~of_part
        box = jnp.where(found & ~tiled, part, box)
    spans = views.crop(box)
    if settings.tiled:
        # Photographs of many pixels are sharper at the network's size than CUHK's ever are, and so are small copies.
        # A small copy of a whole photograph is sharp in its ground too, which in CUHK is mostly blurred.
        of_whole = size * between(zoom, 1 / 6, 1 / 3.5) / canvas.size.max()
        scale = jnp.where(of_part, between(zoom, 0.4, 0.8), of_whole)
        pattern = views.tile(spans, part, canvas.size, scale, size, jnp.stack(offsets))
        spans = jax.tree.map(partial(jnp.where, tiled), pattern, spans._replace(copied=tiled))
    if settings.flip:
        spans = jax.tree.map(partial(jnp.where, flip < 0.5), views.mirrored(spans), spans)
    return spans


def finished(view: View, partner: View, draws: Draws, settings: Augmentation) -> Row:
    """A plain view after all else that may happen to it; `partner` is the plain view of another photograph."""
    kind, sky, (lay, radius) = draws["kind"], draws["sky"], draws["layer"]
    if settings.sky:
        condition = (view.mask.mean() > IN_FOCUS) & (sky[0] < settings.sky)
        add = partial(layers.add_sky, draws=sky[1:], skyline=draws["skyline"], clouds=draws["clouds"])
        view = _when(condition, add, view)
    # What is in focus all over would hide the photograph.
    lays = partner.mask.mean() <= IN_FOCUS
    if settings.pasted:
        view = _when(lays & (lay < settings.pasted), partial(layers.paste, above=partner), view)
    if settings.veiled:
        chosen = lays & (lay >= settings.pasted) & (lay < settings.pasted + settings.veiled)
        radius = len(view.mask) * layers.random_radius(radius, layers.VEILS)
        view = _when(chosen, partial(layers.veil, above=partner, radius=radius), view)
    if settings.blurred or settings.refocused:
        whole = (kind >= settings.sharp) & (kind < settings.sharp + settings.blurred)
        blur = partial(layers.blur, whole=whole, draws=draws["blur"], region=draws["region"])
        view = _when(whole | (kind > 1 - settings.refocused), blur, view)
    image = photographed(view.image, draws, settings)
    return {
        "image": jnp.moveaxis(image, 0, -1).astype(jnp.uint8),
        "mask": view.mask[..., None].astype(jnp.uint8),
        "valid": view.valid[..., None].astype(jnp.uint8),
        **{name: jnp.moveaxis(cells, 0, -1).astype(jnp.float16) for name, cells in view.maps.items()},
    }


def photographed(image: Float32[Array, "3 s s"], draws: Draws, settings: Augmentation) -> Float32[Array, "3 s s"]:
    """A picture in gray levels as a random camera shows it: of fewer pixels, with other colors, noise and JPEG."""
    size = image.shape[-1]
    *factors, colorless = draws["color"]
    (shrunk, reduction), (seed, sigma), (jpeg, quality) = draws["shrink"], draws["noise"], draws["jpeg"]
    side = jnp.int32(size)
    if settings.shrunk:
        smaller = jnp.round(size * between(reduction, 1 / 3, 1.0)).astype(jnp.int32)
        side = jnp.where(shrunk < settings.shrunk, smaller, size)
        image = _when(side < size, partial(camera.shrink, side=side), image)
    if settings.jitter:
        image = camera.jitter(image, 1 + settings.jitter * between(jnp.stack(factors), -1.0, 1.0), side)
    if settings.gray:
        image = _when(colorless < settings.gray, camera.without_color, image)
    if settings.noise:
        image = camera.add_noise(image, seed, sigma * settings.noise, side)
    if settings.jpeg:
        quality = jnp.floor(between(quality, 40.0, 96.0)).astype(jnp.int32)
        image = _when(jpeg < settings.jpeg, partial(camera.compress, quality=quality), image)
    if settings.shrunk:
        image = _when(side < size, partial(camera.enlarge, side=side), image)
    return image


def _when(condition: Bool[Array, ""], change: Callable[[T], T], unchanged: T) -> T:
    return jax.lax.cond(condition, change, lambda unchanged: unchanged, unchanged)
