"""Records as `open_split` gives them, of small made-up photographs."""

import io

import numpy as np
from PIL import Image


def encode(array: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def make_part(name: str, count: int, shape: tuple[int, int] = (40, 60), **extras) -> list[dict]:
    """Photographs `name`0, `name`1, ... of which photograph i is in focus on its leftmost i of `count` parts."""
    rng = np.random.default_rng(count)
    made = []
    for i in range(count):
        mask = np.zeros(shape, np.uint8)
        mask[:, : shape[1] * i // count] = 255
        image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        made.append({"id": f"{name}{i}".encode(), "image": encode(image), "mask": encode(mask), **extras})
    return made


def depth(value: float = 0.5) -> np.ndarray:
    """A teacher's nearness, the same everywhere."""
    return np.full((8, 8, 1), value, np.float16)


def half_valid(shape: tuple[int, int] = (40, 60)) -> bytes:
    """Where a mask counts: on its right half."""
    valid = np.full(shape, 255, np.uint8)
    valid[:, : shape[1] // 2] = 0
    return encode(valid)
