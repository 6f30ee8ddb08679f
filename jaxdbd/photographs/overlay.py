"""Pictures of one prediction, to look at: the photograph with what is in focus outlined, depth and blur as colors."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxdbd.machine.parallel import strips_of
from jaxdbd.network.model import SHARPNESS_LIMIT

OUTLINE = (255, 196, 0)  # amber: rare in photographs, and seen well on dark and on bright


def overlay(image: UInt8[np.ndarray, "h w 3"], in_focus: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The photograph with the in-focus region as it is, outlined, and the rest dark and nearly gray."""
    picture = np.empty_like(image)
    for rows in strips_of(image):
        gray = cv2.cvtColor(cv2.cvtColor(image[rows], cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        dimmed = cv2.addWeighted(image[rows], 0.16, gray, 0.30, 0)
        picture[rows] = np.where(in_focus[rows, :, None], image[rows], dimmed)
    # Edge pixels are repeated outwards, so that no line runs along the photograph's own border.
    width = max(2, round(0.003 * (image.shape[0] * image.shape[1]) ** 0.5))
    margin = 2 * width + 2
    padded = cv2.copyMakeBorder(in_focus.view(np.uint8), margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    contours, _ = cv2.findContours(padded, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=(-margin, -margin))
    for color, thickness in (((0, 0, 0), width + 2), (OUTLINE, width)):
        cv2.drawContours(picture, contours, -1, color, thickness, cv2.LINE_AA)
    return picture


def outlined_levels(in_focus: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """0 where it is in focus, 1 elsewhere, 2 along the line between them: an overlay to lay over a small picture."""
    levels = (~in_focus).astype(np.uint8)
    line = cv2.morphologyEx(levels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    return np.where(line > 0, np.uint8(2), levels)


def depth_colors(depth: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Nearness in [0, 1] as a color, from dark (far) to yellow (near); NaN, nothing measured, as far."""
    return _colors(np.nan_to_num(depth.astype(np.float32)), cv2.COLORMAP_INFERNO)


def _colors(shares: Float[np.ndarray, "h w"], colors: int) -> UInt8[np.ndarray, "h w 3"]:
    levels = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, colors), cv2.COLOR_BGR2RGB)


def depth_picture(depth: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """`depth_colors` with a legend underneath, "far" to "near": higher than the photograph, and at least 160 wide."""
    height, width = depth.shape
    band = min(96, max(24, width // 24))
    picture = np.full((height + band, max(width, 160), 3), 255, np.uint8)
    for rows in strips_of(depth):
        picture[:height, :width][rows] = depth_colors(depth[rows])
    legend = Image.new("RGB", (picture.shape[1], band), "white")
    draw, font = ImageDraw.Draw(legend), ImageFont.load_default(0.55 * band)
    middle, gap = band / 2, band // 3
    draw.text((gap, middle), "far", "black", font, anchor="lm")
    draw.text((legend.width - gap, middle), "near", "black", font, anchor="rm")
    left = round(2 * gap + font.getlength("far"))
    right = round(legend.width - 2 * gap - font.getlength("near"))
    ramp = np.repeat(np.linspace(0, 1, right - left, dtype=np.float32)[None], band // 2, axis=0)
    legend.paste(Image.fromarray(depth_colors(ramp)), (left, band // 4))
    picture[height:] = np.asarray(legend)
    return picture


def blur_colors(blur: Float[np.ndarray, "h w"], widest: float) -> UInt8[np.ndarray, "h w 3"]:
    """Diameters, shares of the longer side, as colors: dark for none, yellow from `widest` on, gray for NaN."""
    place = np.log1p(blur / SHARPNESS_LIMIT) / np.log1p(widest / SHARPNESS_LIMIT)
    picture = _colors(np.nan_to_num(place), cv2.COLORMAP_VIRIDIS)
    picture[np.isnan(blur)] = 128
    return picture


def blur_picture(blur: Float[np.ndarray, "h w"], reduction: float = 1.0) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Diameters of circles of confusion, in pixels, as colors from dark (none) to yellow, with a scale underneath.

    Its figures are pixels of the photograph, which is `reduction` times as large as `blur`; they lie about as their
    logarithms do, up to the widest. The picture is higher than `blur`, and at least 160 wide.
    """
    (height, width), side = blur.shape, max(blur.shape)
    band = min(96, max(24, width // 24))
    picture = np.full((height + 2 * band, max(width, 160), 3), 255, np.uint8)
    end = max(float(blur.max()), 4 * SHARPNESS_LIMIT * side)  # of what is all in focus, too, little looks little
    for rows in strips_of(blur):
        picture[:height, :width][rows] = blur_colors(blur[rows] / side, end / side)
    scale = Image.new("RGB", (picture.shape[1], 2 * band), "white")
    draw, font = ImageDraw.Draw(scale), ImageFont.load_default(0.55 * band)
    length = scale.width - 2 * band
    steps = np.expm1(np.linspace(0, np.log1p(end / side / SHARPNESS_LIMIT), length)) * SHARPNESS_LIMIT
    ramp = blur_colors(steps[None].repeat(band // 2, axis=0), end / side)
    scale.paste(Image.fromarray(ramp), (band, band // 2))
    free = 0.0
    for figure in (0, *(n * 10**k for k in range(5) for n in (1, 2, 5))):
        x = band + float(np.interp(figure / reduction / side, steps, np.arange(length)))
        half = font.getlength(f"{figure} px") / 2
        if figure <= end * reduction and x - half >= free and x + half <= scale.width:
            draw.line((x, band, x, 1.15 * band), "black", max(1, band // 24))
            draw.text((x, 1.5 * band), f"{figure} px", "black", font, anchor="mm")
            free = x + half + band / 4
    picture[height:] = np.asarray(scale)
    return picture
