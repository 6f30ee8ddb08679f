"""Maps that travel with a photograph: the teacher's depth, its features, and how blurred each pixel is.

Each covers its whole photograph on a grid of its own, with NaN where it is not known. One table says what differs
between them.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from jaxdbd.input.resample import BILINEAR, BOX, UNKNOWN, Spans, product, resample, weights

TOUCHED = 0.05  # share of a cell, choice of ours: with more of it covered a map that does not mix is unknown there
TRACE = 1e-3  # share of a cell, a quarter of a gray level: so little of a cover is none, and all but so little is all
Maps = dict[str, Float32[Array, "_ _ _"]]  # name: [c, h, w]


class Kind(NamedTuple):
    """What becomes of the maps of one kind when their photograph is changed."""

    own_grid: bool  # a view has them on the same grid as the photograph; else they get a value for each pixel
    copied: bool  # they are right in a pattern of small copies; else they are unknown there
    length: bool  # they are lengths: shares of the photograph's longer side, in a view shares of its side
    mixed: bool  # at the soft edges of what is laid over values are mixed; else they are unknown there
    sky: float  # what they are in a sky
    blurred: Callable[[Float32[Array, "_ _ _"], Float32[Array, ""]], Float32[Array, "_ _ _"]]  # by a disc of a diameter


# Nearness in [0, 1]. A sky is as far away as it goes; blur does not move things.
DEPTH = Kind(own_grid=False, copied=True, length=False, mixed=True, sky=0.0, blurred=lambda values, diameter: values)
# The diameter of the circle of confusion. Two discs one after the other spread light by the sum of their variances.
BLUR = Kind(
    own_grid=False,
    copied=True,
    length=True,
    mixed=False,
    sky=0.0,
    blurred=lambda values, diameter: jnp.sqrt(values**2 + diameter**2),
)
# The teacher saw the photograph as it is: neither blurred, nor beside other things.
FEATURES = Kind(
    own_grid=True,
    copied=False,
    length=False,
    mixed=False,
    sky=jnp.nan,
    blurred=lambda values, diameter: jnp.full_like(values, jnp.nan),
)


def kind(name: str) -> Kind:
    """The kind of the maps `name`: depth, blur or features_ and a stride. Raises KeyError for any other name."""
    return FEATURES if name.startswith("features_") else {"depth": DEPTH, "blur": BLUR}[name]


def view(maps: Mapping[str, Float[Array, "_ _ _"]], spans: Spans, size: int, true: Int32[Array, "2"]) -> Maps:
    """A view of maps [h, w, c] that each cover a photograph of `true` (height, width) pixels; channels first.

    What lies beside an unknown cell is unknown, since bilinear weights would mix both.
    """
    return {name: _view(cells, kind(name), spans, size, true) for name, cells in maps.items()}


def _view(cells, kind, spans, size, true):
    planes = jnp.moveaxis(cells.astype(jnp.float32), -1, 0)
    _, h, w = planes.shape
    shape = (h, w) if kind.own_grid else (size, size)
    known = jnp.where(jnp.isnan(planes).any(axis=0), UNKNOWN, planes)
    grid = jnp.array([h, w], jnp.int32)
    out = resample(known, spans, shape, BILINEAR, grid, finish=lambda values: values)
    # Any value is far below, and a share of 1e-6 of the unknown far above.
    out = jnp.where(out > UNKNOWN * 1e-8, jnp.nan, out)
    if kind.length:
        sides = spans.rows.step(1) * true[0], spans.columns.step(1) * true[1]
        out = out * (true.max() / jnp.sqrt(sides[0] * sides[1]))
    if not kind.copied and spans.copied is not None:
        out = jnp.where(spans.copied, jnp.nan, out)
    return out


def blurred(maps: Maps, diameter: Float32[Array, ""]) -> Maps:
    """Maps of a view that was blurred by a disc, its diameter a share of the view's side."""
    return {name: kind(name).blurred(cells, diameter) for name, cells in maps.items()}


def sky(maps: Maps) -> Maps:
    """Maps of the same shapes, of a sky."""
    return {name: jnp.full_like(cells, kind(name).sky) for name, cells in maps.items()}


def laid(below: Maps, cover: Float32[Array, "s s"], above: Maps) -> Maps:
    """Maps of a view over which another one was laid, with the opacity `cover` in [0, 1].

    What is unknown above is unknown where it covers, and only there.
    """
    return {name: _laid(cells, cover, above[name], kind(name)) for name, cells in below.items()}


def _laid(below, cover, above, kind):
    share = _by_cell(cover, below.shape[1:]) if kind.own_grid else cover
    share = share[None]
    least = TRACE if kind.mixed else TOUCHED
    between = below * (1 - share) + above * share if kind.mixed else jnp.nan
    return jnp.where(share <= least, below, jnp.where(share >= 1 - least, above, between))


def _by_cell(cover: Float32[Array, "s s"], shape: tuple[int, ...]) -> Float32[Array, "h w"]:
    """The mean of a cover over each cell of a coarser grid."""
    size = len(cover)
    for axis, n in enumerate(shape):
        centers = (jnp.arange(n, dtype=jnp.float32) + 0.5) * size / n
        scale, true = jnp.float32(size / n), jnp.int32(size)
        cover = product(cover[None], weights(centers, scale, size, true, BOX), axis + 1)[0]
    return cover
