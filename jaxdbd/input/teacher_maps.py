"""A teacher's features on the host: maps [h, w, c] of a whole photograph, of which a view shows a part.

The teacher saw the photograph as it is. Cells of a view that show something else, or nothing sharp of it, are unknown:
NaN in all channels, and left out of the loss.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image

from jaxdbd.errors import UserError

PREFIX = "features_"  # and the stride: the name of a map in the shards and in batches
STRIDES = (2, 4, 8, 16, 32)  # of an encoder's taps
TOUCHED = 0.05  # share of a cell, choice of ours: with more of it covered or blurred the cell is unknown
Maps = dict[str, Float32[np.ndarray, "_ _ _"]]
Shapes = Mapping[str, tuple[int, int, int]]


def tap_of(name: str) -> int:
    """Which of an encoder's taps has the stride of the maps `name`, from 0 on."""
    return STRIDES.index(int(name.removeprefix(PREFIX)))


def shapes(parts: Sequence[Sequence[dict]]) -> Shapes:
    """(height, width, channels) of the feature maps that records of the parts of a mixture hold; {} without any.

    Parts may lack them. Raises UserError where two have other ones.
    """
    found = [{n: a.shape for n, a in records[0].items() if n.startswith(PREFIX)} for records in parts]
    different = [each for each in found if each]
    if any(each != different[0] for each in different):
        raise UserError("the parts of config.dataset hold features of different teachers: build them with the same one")
    return different[0] if different else {}


def part(maps: Float32[np.ndarray, "h w c"], box: tuple[float, ...], flip: bool) -> Float32[np.ndarray, "h w c"]:
    """The part `box` (left, top, right, bottom as fractions) on the same grid, bilinearly, mirrored with `flip`.

    What lies beside an unknown cell becomes unknown, since bilinear weights would mix both.
    """
    height, width, channels = maps.shape
    rows, columns = _weights(height, box[1], box[3]), _weights(width, box[0], box[2])
    columns = columns[::-1] if flip else columns
    unknown = np.asarray(np.isnan(maps).any(axis=-1))
    known = np.where(unknown[..., None], np.float32(0), maps)
    out = np.matmul(columns, (rows @ known.reshape(height, -1)).reshape(height, width, channels))
    out[rows @ unknown.astype(np.float32) @ columns.T > 1e-6] = np.nan
    return out


def _weights(n: int, low: float, high: float) -> Float32[np.ndarray, "n n"]:
    """Bilinear weights of n cells in each of n cells spread over the part from `low` to `high`."""
    at = np.clip((low + (np.arange(n) + 0.5) / n * (high - low)) * n - 0.5, 0, n - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n))).astype(np.float32)


def covered(maps: Maps, cover: Float[np.ndarray, "h w"], above: Maps | None = None) -> Maps:
    """Maps of a view over which something was laid, where `cover` is 1; or which was blurred there.

    Cells that it leaves alone stay, cells that it covers take those of `above`, if given, and all others are unknown.
    """
    return {name: _covered(cells, cover, (above or {}).get(name)) for name, cells in maps.items()}


def _covered(cells: np.ndarray, cover: np.ndarray, above: np.ndarray | None) -> np.ndarray:
    picture = Image.fromarray(cover.astype(np.float32))
    share = np.asarray(picture.resize(cells.shape[1::-1], Image.Resampling.BOX))[..., None]
    out = np.where(share <= TOUCHED, cells, np.float32(np.nan))
    return out if above is None else np.where(share >= 1 - TOUCHED, above, out)
