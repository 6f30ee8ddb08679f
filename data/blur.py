"""How blurred each pixel of a rendered photograph is: the diameter of its circle of confusion."""

import numpy as np
from jaxtyping import Float, Float16

# Choices of ours.
SIDE = 320  # pixels of the longer side of the map that is stored
MIXED = 0.25  # light from diameters that spread by more than this share of their mean has no one diameter
LEAST = 0.004  # of the longer side: a spread of a quarter of this is none


def blur_map(mean: Float[np.ndarray, "h w"], mean_square: Float[np.ndarray, "h w"]) -> Float16[np.ndarray, "h2 w2 1"]:
    """The diameter of each pixel as a share of the photograph's longer side; NaN where its light is of several.

    At the edges of what is near and blurred, light from behind shines through. The map is thinned to at most `SIDE`
    pixels, not averaged: an average would be the blur of nothing.

    Args:
        mean: over the light of each pixel, of the diameters that it was spread by; in pixels of the photograph.
        mean_square: of their squares.
    """
    side = max(mean.shape)
    spread = np.sqrt(np.maximum(mean_square - mean**2, 0))
    share = np.where(spread <= MIXED * np.maximum(mean, LEAST * side), mean / side, np.nan)
    h, w = (max(1, round(n * min(SIDE / side, 1))) for n in mean.shape)
    rows, columns = ((np.arange(n) + 0.5) * of / n for n, of in zip((h, w), mean.shape, strict=True))
    return share[np.ix_(rows.astype(int), columns.astype(int))].astype(np.float16)[..., None]
