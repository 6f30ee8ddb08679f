"""Panels that show photograph, mask, focus, depth and blur side by side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxdbd.inference import Prediction
from jaxdbd.input.geometry import resize, size_within
from jaxdbd.input.records import Example
from jaxdbd.machine.files import whole_file
from jaxdbd.photographs.overlay import blur_colors, depth_colors
from jaxdbd.scoring.blur import WIDEST
from jaxdbd.scoring.depth import fitted_to


def gray(focus: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """A map in [0, 1] as gray, 1 = white."""
    return np.repeat(np.rint(np.clip(focus, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=-1)


def panel(
    rows: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]],
    titles: Sequence[str],
    side: int = 224,
    captions: Sequence[str] = (),
) -> UInt8[np.ndarray, "h w 3"]:
    """A grid of pictures, each fitted into a square of `side` pixels, a title over each column; uint8 [H, W, 3].

    A row is as high as its highest picture, and may be shorter than `titles`. `captions`, where there are any, give
    each row a line of text above it.
    """
    gap, head, line = 4, 22, 20 if captions else 0
    sizes = [[size_within(picture.shape[:2], side) for picture in row] for row in rows]
    heights = [max(height for height, _ in row) + line for row in sizes]
    sheet = Image.new("RGB", (len(titles) * (side + gap) - gap, head + sum(heights) + gap * (len(rows) - 1)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, title in enumerate(titles):
        draw.text((column * (side + gap) + side / 2, head / 2), title, "black", font, anchor="mm")
    top = head
    for number, (row, row_sizes, height) in enumerate(zip(rows, sizes, heights, strict=True)):
        if captions:
            draw.text((gap, top + line / 2), captions[number], "black", font, anchor="lm")
        for x, (picture, size) in enumerate(zip(row, row_sizes, strict=True)):
            place = x * (side + gap) + (side - size[1]) // 2, top + line + (height - line - size[0]) // 2
            sheet.paste(Image.fromarray(resize(picture, size)), place)
        top += height + gap
    return np.asarray(sheet)


def save_picture(path: Path, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes a picture as a PNG, whole or not at all."""
    with whole_file(path) as unfinished:
        Image.fromarray(pixels).save(unfinished, "PNG")


def example_panel(examples: Sequence[Example], predictions: Sequence[Prediction]) -> UInt8[np.ndarray, "h w 3"]:
    """A row per photograph: photo, mask, focus and, where they are known, both depths and blur, the network's and true.

    The network's depth is relative: beside the teacher's it is drawn with the scale and shift that fit best.
    """
    titles, rows = ["photograph", "mask", "focus"], []
    titles += ["teacher's depth"] * (examples[0].depth is not None) + ["depth"] * (predictions[0].depth is not None)
    if predictions[0].blur is not None:
        titles += ["blur"] + ["true blur"] * any(example.blur is not None for example in examples)
    for example, prediction in zip(examples, predictions, strict=True):
        row = [example.image, gray(example.mask / 255), gray(prediction.focus)]
        if example.depth is not None:
            height, width = example.mask.shape
            row.append(depth_colors(resize(example.depth.astype(np.float32), (height, width))))
        depth = prediction.depth
        if depth is not None and example.depth is not None:
            depth = fitted_to(depth, example.depth.astype(np.float32))
        if depth is not None:
            row.append(depth_colors(depth))
        if prediction.blur is not None:
            row.append(blur_colors(prediction.blur / max(prediction.blur.shape), WIDEST))
            if example.blur is not None:
                row.append(blur_colors(example.blur.astype(np.float32), WIDEST))
        rows.append(row)
    return panel(rows, titles)
