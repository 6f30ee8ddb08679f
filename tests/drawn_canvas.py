"""Drawn photographs as the input keeps them: padded, with mask and maps."""

import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxdbd.input.views import Canvas


def drawn(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Something like a photograph, uint8 [h, w, 3]: colors of all sizes, and edges."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 110.0)
    for cells, strength in ((3, 60), (9, 30), (27, 15), (81, 8)):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        image += strength / 64 * (np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float64) - 128)
    image[height // 3 : height // 2, width // 5 : width // 2] *= 0.4
    return np.clip(image, 0, 255).astype(np.uint8)


def padded(array: np.ndarray, shape: tuple[int, int], filling) -> np.ndarray:
    """An array [h, w, ...] in the upper left corner of a larger one."""
    height, width = array.shape[:2]
    out = np.broadcast_to(np.asarray(filling, array.dtype), (*shape, *array.shape[2:])).copy()
    out[:height, :width] = array
    return out


def canvas(image, mask=None, valid=None, shape=None, filling=0, **maps) -> Canvas:
    """The photograph uint8 [h, w, 3] with mask and `valid` uint8 [h, w], by default 255, and `maps` [h, w, c]."""
    height, width = image.shape[:2]
    full = np.full((height, width), 255, np.uint8)
    arrays = image, full if mask is None else mask, full if valid is None else valid
    image, mask, valid = (jnp.asarray(padded(a, shape or (height, width), filling)) for a in arrays)
    maps = {name: jnp.asarray(cells, jnp.float16) for name, cells in maps.items()}
    return Canvas(image, mask, valid, jnp.array([height, width], jnp.int32), maps)
