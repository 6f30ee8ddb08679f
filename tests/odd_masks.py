"""Pictures that are masks, and pictures that are none: for every command that reads masks."""

import numpy as np
from odd_files import half
from PIL import Image, ImageFilter

BINARY = half() // 255


def palette(*colors) -> Image.Image:
    picture = Image.fromarray(BINARY, "P")
    picture.putpalette([channel for color in colors for channel in color])
    return picture


def with_alpha(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([color, color, color, alpha])


WHITE = np.full_like(BINARY, 255)
MASKS = {
    "black and white": half(),
    "one bit": Image.fromarray(half()).convert("1"),
    "RGB": np.dstack([half()] * 3),
    "palette": palette((0, 0, 0), (255, 255, 255)),
    "constant alpha": with_alpha(half(), WHITE),
    "16 bits": half().astype(np.uint16) * 257,
    "16 bits, 8 shifted": half().astype(np.uint16) * 256,
    "all black": half() * 0,
    "soft edges": Image.fromarray(half(80, 120)).filter(ImageFilter.GaussianBlur(3)),
}
NO_MASKS = {
    "palette of colors": (palette((0, 0, 0), (128, 0, 0)), r"colors such as \(128, 0, 0\)"),
    "red": (np.dstack([half(), half() * 0, half() * 0]), r"colors such as \(255, 0, 0\)"),
    "0 and 1": (BINARY, "holds 0 and 1 as labels; save it with 0 and 255"),
    "1 and 2": (BINARY + 1, "holds 1 and 2 as labels"),
    "all 1": (BINARY * 0 + 1, "holds 1 as labels"),
    "0 and 128": (BINARY * 128, "holds 0 and 128 as labels"),
    "0, 1 and 255": (np.concatenate([half(), BINARY]), "holds 0, 1 and 255 as labels"),
    "trimap": (np.concatenate([half(), BINARY * 0 + 128]), "holds 0, 128 and 255 as labels"),
    "gray": (np.tile(np.arange(60, dtype=np.uint8) + 96, (40, 1)), "holds grays from 96 to 155"),
    "16 bits, 0 and 255": (half().astype(np.uint16), "holds 0 and 255 as labels; .* 0 and 65535"),
    "16 bits, 0 and 1": (BINARY.astype(np.uint16), "holds 0 and 1 as labels"),
    "in the alpha channel": (with_alpha(WHITE, half()), r"its alpha channel is not the same everywhere \(0 to 255\)"),
    "floating point": (BINARY.astype(np.float32), "floating point"),
}
