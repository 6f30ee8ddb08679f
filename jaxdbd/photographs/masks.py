"""Masks as files: one channel of black and white, and a refusal for anything else."""

from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped, UInt8
from PIL import Image

from jaxdbd.errors import UserError
from jaxdbd.machine.files import shown
from jaxdbd.machine.parallel import in_turn, strips_of
from jaxdbd.photographs.decoding import decoded, largest_of_color, opened, strips

LOSSY = ("JPEG", "MPO", "WEBP", "HEIF", "AVIF", "JPEG2000")
NOISE = 24  # of 255, choice of ours: how far lossy compression may take black, white and gray from what they were
# Choices of ours: shares of the pixels. Gray along edges is spread over many values; that of labels and trimaps is not.
MOST_OF_ONE_GRAY, MOST_GRAY = 0.1, 0.5


def read_mask(path: str | Path) -> UInt8[np.ndarray, "h w"]:
    """A mask of black and white, as it is drawn: 0 to 255, gray along edges. Turned upright as its EXIF says.

    Raises UserError for what no mask can be: colors, labels such as 0 and 1, mostly gray, 16 bits that use 8, an alpha
    channel that varies; and for a file that cannot be read.
    """
    with opened(path) as picture, in_turn(picture.width * picture.height):
        lossy = picture.format in LOSSY
        gray, top = _one_channel(path, decoded(path, picture), lossy)
    # In strips: counting takes eight bytes a pixel.
    counts = np.sum([_counts(gray[rows], top) for rows in strips_of(gray)], axis=0)
    if reason := not_black_and_white(counts, lossy):
        raise UserError(f"{shown(path)}: {reason}")
    return gray if top == 255 else (gray >> 8).astype(np.uint8)


def read_map(path: str | Path) -> UInt8[np.ndarray, "h w"]:
    """A map of 8 bits, any grays. Raises UserError for colors, more bits, an alpha channel that varies, and damage."""
    with opened(path) as picture, in_turn(picture.width * picture.height):
        gray, top = _one_channel(path, decoded(path, picture), picture.format in LOSSY)
    if top != 255:
        raise UserError(f"{shown(path)}: not an 8-bit image: save it with 0..255")
    return gray


def not_black_and_white(counts: Int[np.ndarray, " levels"], lossy: bool = False) -> str | None:
    """Why pixels of these values, `counts[v]` of value v, are no mask; None where they are one."""
    top = len(counts) - 1
    counts = counts.astype(np.float64)
    if lossy and counts[: NOISE + 1].any() and counts[-NOISE - 1 :].any():
        counts[0], counts[-1] = counts[: NOISE + 1].sum(), counts[-NOISE - 1 :].sum()
        counts[1 : NOISE + 1] = counts[-NOISE - 1 : -1] = 0
    if top > 255:  # 255 in the high byte is white, too
        counts[-1] = counts[-256:].sum()
        counts[-256:-1] = 0
    values = np.flatnonzero(counts)
    grays = counts[1:-1] / counts.sum()
    at_ends = {values[0], values[-1]} <= {0, top}
    if at_ends and grays.max() <= MOST_OF_ONE_GRAY and grays.sum() <= MOST_GRAY:
        return None
    if len(values) > 6:
        return f"holds grays from {values[0]} to {values[-1]} and is no mask; save it in black and white, 0 and {top}"
    listing = " and ".join(filter(None, (", ".join(map(str, values[:-1])), str(values[-1]))))
    deep = f" (or, with 16 bits, 0 and {top})" if top > 255 else ""
    return f"holds {listing} as labels; save it with 0 and 255{deep}"


def _counts(gray: Shaped[np.ndarray, "h w"], top: int) -> Int[np.ndarray, " levels"]:
    """The pixels of each value, in a strip. Most masks hold two values, which is found out in a tenth of the time."""
    black, white = np.count_nonzero(gray == 0), np.count_nonzero(gray == top)
    if black + white < gray.size:
        return np.bincount(gray.ravel(), minlength=top + 1)
    counts = np.zeros(top + 1, np.int64)
    counts[[0, top]] = black, white
    return counts


def _one_channel(path: str | Path, picture: Image.Image, lossy: bool) -> tuple[Shaped[np.ndarray, "h w"], int]:
    """The gray values of a picture of any kind, and the largest that there can be, 255 or 65535."""
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        gray = np.empty((picture.height, picture.width), np.uint16)
        for at, strip in strips(picture):
            values = np.asarray(strip)
            if values.min() < 0 or values.max() > 65535:
                raise UserError(f"{shown(path)}: holds {values.min()} to {values.max()}; save it with 0 and 255")
            gray[at : at + len(values)] = values
        return gray, 65535
    if picture.mode == "F":
        raise UserError(f"{shown(path)}: not an 8-bit image (floating point): save it with 0 and 255")
    if "sixteen_bits" in picture.info and (largest := largest_of_color(path, picture)) < 256:
        raise UserError(
            f"{shown(path)}: of 16 bits it uses 8, its largest value is {largest:.0f}; save it with 0 and 255 in 8 bits"
        )
    alpha = set()
    gray = np.empty((picture.height, picture.width), np.uint8)
    for at, strip in strips(picture):
        if picture.has_transparency_data:
            strip = strip.convert("RGBA")
            alpha |= set(strip.getchannel("A").getextrema())
            if len(alpha) > 1:
                raise UserError(
                    f"{shown(path)}: its alpha channel is not the same everywhere ({min(alpha)} to {max(alpha)}): "
                    "is the mask in it? save the mask alone, in black and white without transparency"
                )
        elif picture.mode in ("1", "L"):
            gray[at : at + strip.height] = np.asarray(strip.convert("L"))
            continue
        color = np.asarray(strip.convert("RGB"))
        red, spread = color[..., 0], color.max(-1) - color.min(-1)
        if spread.max() > (NOISE if lossy else 0):
            value = tuple(int(v) for v in color.reshape(-1, 3)[spread.argmax()])
            raise UserError(f"{shown(path)}: holds colors such as {value}; save it in black and white, 0 and 255")
        gray[at : at + len(color)] = np.asarray(strip.convert("L")) if lossy else red
    return gray, 255
