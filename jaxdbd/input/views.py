"""Which part of a photograph a view shows, and the plain view of it: one geometry for photograph, mask and maps."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float16, Float32, Int32, UInt8

from jaxdbd.input import maps
from jaxdbd.input.draws import between
from jaxdbd.input.resample import BICUBIC, BILINEAR, Span, Spans, resample

WHOLE = (0.0, 0.0, 1.0, 1.0)  # left, top, right, bottom as shares of a photograph
GRAIN = 4  # pixels: boxes in focus are looked for on a grid so coarse, which costs a sixteenth


class Canvas(NamedTuple):
    """A decoded photograph in the upper left corner of a padded array, with what is known of it."""

    image: UInt8[Array, "h w 3"]
    mask: UInt8[Array, "h w"]  # 255 = in focus
    valid: UInt8[Array, "h w"]  # 255 where the mask counts, 0 where it does not
    size: Int32[Array, "2"]  # height and width of the photograph; the rest is padding, which may hold anything
    maps: Mapping[str, Float16[Array, "_ _ _"]]  # [h, w, c], each of the whole photograph; NaN where not known


class View(NamedTuple):
    """A square view while it is augmented: channels first, all but the maps in whole gray levels."""

    image: Float32[Array, "3 s s"]
    mask: Float32[Array, "s s"]  # 255 = in focus
    valid: Float32[Array, "s s"]  # 255 where the mask counts
    maps: maps.Maps  # NaN where they are not known


def random_box(draws: Float32[Array, "4"], min_area: float, max_aspect: float) -> Float32[Array, "4"]:
    """A box of random area and aspect inside the photograph: left, top, right, bottom as shares of it."""
    area, stretch, left, top = draws
    area = between(area, min_area, 1.0)
    stretch = max_aspect ** (stretch - 0.5)
    w, h = jnp.minimum(jnp.sqrt(area) * stretch, 1), jnp.minimum(jnp.sqrt(area) / stretch, 1)
    left, top = left * (1 - w), top * (1 - h)
    return jnp.stack([left, top, left + w, top + h])


def sharp_box(
    draws: Float32[Array, "4 n"], mask: UInt8[Array, "h w"], size: Int32[Array, "2"], min_side: Int32[Array, ""] | int
) -> tuple[Float32[Array, "4"], Bool[Array, ""]]:
    """The largest of n random boxes that lie wholly in focus with sides of at least `min_side` pixels.

    Returns:
      (box, found): left, top, right, bottom as shares of the photograph, and whether there is one.
    """
    rows, columns = (n // GRAIN for n in mask.shape)
    grains = mask[: rows * GRAIN, : columns * GRAIN].reshape(rows, GRAIN, columns, GRAIN)
    in_focus = (grains > 127).sum(axis=(1, 3), dtype=jnp.int32).astype(jnp.float32)
    low = jnp.ceil(min_side / GRAIN)

    def spread(n, share, place):
        extents = low + jnp.floor(share * (n - low + 1))
        starts = jnp.floor(place * (n - extents + 1))
        return extents, starts

    h, w = (size // GRAIN).astype(jnp.float32)
    heights, tops = spread(h, draws[0], draws[2])
    widths, lefts = spread(w, draws[1], draws[3])

    def within(starts, extents, n):
        at = jnp.arange(n, dtype=jnp.float32)[None, :]
        return ((at >= starts[:, None]) & (at < (starts + extents)[:, None])).astype(jnp.float32)

    # Whole numbers up to 16, and 0 or 1: exact in any precision.
    by_column = within(tops, heights, rows) @ in_focus
    inside = (by_column * within(lefts, widths, columns)).sum(axis=1)
    areas = heights * widths
    # A box twice as long as wide would be squashed into another texture.
    fits = (inside >= 0.998 * GRAIN**2 * areas) & (jnp.maximum(heights, widths) < 2 * jnp.minimum(heights, widths))
    fits &= size.min() > min_side
    best = jnp.argmax(jnp.where(fits, areas, 0.0))
    corners = jnp.stack([lefts, tops, lefts + widths, tops + heights])[:, best]
    return corners * GRAIN / jnp.concatenate([size[::-1], size[::-1]]), fits.any()


def mirrored(spans: Spans) -> Spans:
    """The same part of a photograph, mirrored left to right."""
    columns = spans.columns
    return spans._replace(columns=columns._replace(start=columns.stop, stop=columns.start))


def crop(box: Float32[Array, "4"]) -> Spans:
    """The spans of a view that shows the part `box`: left, top, right, bottom as shares of the photograph."""
    zero, one = jnp.float32(0), jnp.float32(1)
    left, top, right, bottom = box
    return Spans(Span(top, bottom, zero, one, zero, one), Span(left, right, zero, one, zero, one), None)


def tile(
    window: Spans,
    part: Float32[Array, "4"],
    size: Int32[Array, "2"],
    scale: Float32[Array, ""],
    side: int,
    offsets: Float32[Array, "2"],
) -> Spans:
    """What `window` shows of a pattern instead of a photograph: its part, made smaller and mirrored over and over.

    Args:
      window: the part of the pattern that is shown.
      part: left, top, right, bottom of what is repeated, as shares of the photograph.
      size: height and width of the photograph in pixels.
      scale: pixels of the pattern per pixel of the photograph.
      side: of the pattern, in pixels.
      offsets: where in the pattern the first copy begins, down and right, as shares of the room that one copy leaves.
    """

    def copies(span, low, high, pixels, offset):
        length = jnp.maximum((high - low) * pixels * scale, 1.0) / side
        return span._replace(offset=offset * jnp.maximum(1 - length, 0.0), length=length, low=low, high=high)

    left, top, right, bottom = part
    rows = copies(window.rows, top, bottom, size[0], offsets[0])
    columns = copies(window.columns, left, right, size[1], offsets[1])
    return Spans(rows, columns, jnp.array(True))


def view(canvas: Canvas, spans: Spans, side: int, in_bands: bool = False) -> View:
    """What `spans` shows of a photograph, at side x side; the mask keeps soft edges.

    A pattern of copies is in focus all over, and counts all over.
    """
    shape = (side, side)
    image = resample(jnp.moveaxis(canvas.image, -1, 0), spans, shape, BICUBIC, canvas.size, in_bands=in_bands)

    def seen(mask):
        return resample(mask[None], spans, shape, BILINEAR, canvas.size, in_bands=in_bands)[0]

    mask = seen(canvas.mask)
    # Where only what is needed is computed, most photographs spare this.
    valid = jax.lax.cond((canvas.valid == 255).all(), lambda valid: jnp.full(shape, 255.0), seen, canvas.valid)
    if spans.copied is not None:
        mask, valid = (jnp.where(spans.copied, 255.0, plane) for plane in (mask, valid))
    return View(image, mask, valid, maps.view(canvas.maps, spans, side, canvas.size))
