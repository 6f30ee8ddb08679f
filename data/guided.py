"""The guided filter (He, Sun, Tang, ECCV 2010): smooths a map, and keeps the edges that a photograph has there."""

import cv2
import numpy as np
from jaxtyping import Float


def guided_filter(
    values: Float[np.ndarray, "h w"], guide: Float[np.ndarray, "h w"], radius: int, epsilon: float
) -> Float[np.ndarray, "h w"]:
    """Fits `values` by a line of `guide` in the square around each pixel, and averages what those lines say of it.

    Args:
        values: what to smooth, in any unit.
        guide: luminance of the photograph, [0, 1].
        radius: half the side of the square, pixels.
        epsilon: variance of the guide below which there is no edge to keep.
    """

    def mean(of: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(of, -1, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    mean_guide, mean_values = mean(guide), mean(values)
    slope = mean(guide * values) - mean_guide * mean_values
    slope /= np.maximum(mean(guide * guide) - mean_guide**2, 0) + epsilon
    return mean(slope) * guide + mean(mean_values - slope * mean_guide)
