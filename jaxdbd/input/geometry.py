"""Geometry on the host: resizing, the network's square, and maps back at the photograph's size."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

Box = tuple[float, float, float, float]  # left, top, right, bottom as fractions of the photograph
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def size_within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """A (height, width) with its longer side at `side` pixels."""
    height, width = (max(1, round(n * side / max(size))) for n in size)
    return height, width


def resize(array: np.ndarray, size: tuple[int, int], box: Box = WHOLE, resample=Image.Resampling.BICUBIC) -> np.ndarray:
    """Resamples `box` of a uint8 [h, w(, 3)] or float32 [h, w] array to `size` (height, width), antialiased.

    Bicubic is the authors' choice for photographs [their code].
    """
    h, w = array.shape[:2]
    height, width = size
    pixels = (box[0] * w, box[1] * h, box[2] * w, box[3] * h)
    return np.asarray(Image.fromarray(array).resize((width, height), resample, box=pixels))


def to_square(image: np.ndarray, side: int) -> UInt8[np.ndarray, "s s 3"]:
    """A photograph squashed to a square, as in training. Raises ValueError for anything but uint8 [h, w, 3]."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"an image must be a uint8 array [h, w, 3], not {image.dtype} {list(image.shape)}")
    return resize(image, (side, side))


def to_size(square: Float32[np.ndarray, "s s"], size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """A square map in [0, 1], bilinearly at a photograph's (height, width)."""
    if min(size) < len(square):
        return resize(square, size, resample=Image.Resampling.BILINEAR).clip(0, 1)  # antialiased
    # Only enlarged, where both libraries agree to a rounding, and OpenCV is thirty times as fast.
    enlarged = cv2.resize(square, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.clip(enlarged, 0, 1, out=enlarged)  # in its place: of a large photograph it is the largest of all arrays


def rows_to_size(square: Float32[np.ndarray, "s s"], size: tuple[int, int], rows: slice) -> Float32[np.ndarray, "r w"]:
    """Those `rows` of `to_size(square, size)`, up to a rounding, without the others."""
    box = (0.0, rows.start / size[0], 1.0, rows.stop / size[0])
    return resize(square, (rows.stop - rows.start, size[1]), box, Image.Resampling.BILINEAR).clip(0, 1)
