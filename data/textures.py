"""Procedural textures and shapes for the synthetic scenes. Colors are linear light."""

import functools
import os
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from jaxdbd.errors import UserError
from jaxdbd.machine.files import is_photograph_in_folder, os_errors_in_one_line, shown
from jaxdbd.photographs import photos as read
from jaxdbd.photographs.decoding import pixels
from jaxdbd.photographs.photos import SUFFIXES

Generator = np.random.Generator
Texture = Float[np.ndarray, "s s 3"]
Field = Float[np.ndarray, "s s"]


def draw(rng: Generator, size: int) -> Texture:
    """A texture of a kind drawn at random, unevenly lit, with fine grain except on smooth surfaces."""
    kinds = [fractal, tiles, text, stripes, cells, leaves, grass, smooth]
    kind = kinds[rng.choice(len(kinds), p=KINDS)]
    color = kind(rng, size)
    light = 0.6 + 0.8 * noise(rng, size, octaves=2, coarsest=2)
    strength = 0.05 if kind is smooth else rng.uniform(0.15, 0.5)
    grain = 1 + strength * (noise(rng, size, octaves=3, coarsest=size // 8) - 0.5) * 2
    return (color * (light * grain)[..., None]).astype(np.float32)


# fractal, tiles, text, stripes, cells, leaves, grass, smooth
KINDS = [0.18, 0.12, 0.1, 0.1, 0.12, 0.2, 0.12, 0.06]


def noise(rng: Generator, size: int, octaves: int, coarsest: int, persistence: float = 0.55) -> Field:
    """Value noise in [0, 1]: `octaves` random grids, the first of `coarsest` cells a side, each next twice as fine."""
    total, weight = np.zeros((size, size), np.float32), 1.0
    for octave in range(octaves):
        cells_across = min(coarsest * 2**octave + 1, size)
        grid = rng.random((cells_across, cells_across), np.float32)
        total += weight * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        weight *= persistence
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


def palette(rng: Generator, count: int) -> Float[np.ndarray, "n 3"]:
    """Colors that go together: hues around one or two centers, brightness spread."""
    hue = (rng.choice(rng.uniform(0, 180, 2), count) + rng.normal(0, 12, count)) % 180
    saturation = 255 * rng.beta(1.6, 2.4, count)
    value = 255 * np.linspace(rng.uniform(0.1, 0.4), rng.uniform(0.6, 1.0), count)
    hsv = np.stack([hue, saturation, rng.permutation(value)], -1).astype(np.uint8)
    rgb = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    return (rgb / np.float32(255)) ** np.float32(2.2)


def ramp(colors: Float[np.ndarray, "n 3"], at: Float[np.ndarray, "*at"]) -> Float[np.ndarray, "*at 3"]:
    """Colors interpolated at positions in [0, 1]."""
    stops = np.linspace(0, 1, len(colors))
    return np.stack([np.interp(at, stops, colors[:, c]) for c in range(3)], -1).astype(np.float32)


def fractal(rng: Generator, size: int) -> Texture:
    """Rock, cloud or marble: noise over many octaves."""
    field = noise(rng, size, octaves=7, coarsest=int(rng.integers(2, 6)), persistence=rng.uniform(0.55, 0.8))
    if rng.random() < 0.35:  # veins
        field = 1 - np.abs(2 * ((field * rng.integers(2, 5)) % 1) - 1)
    return ramp(palette(rng, 5), field)


def tiles(rng: Generator, size: int) -> Texture:
    """Bricks or tiles with joints, seen at an angle."""
    height = int(rng.integers(size // 20, size // 7))
    width = int(height * rng.uniform(1.0, 2.6))
    y, x = _turned(rng, size, 0.35)
    row = np.floor(y / height).astype(int)
    column = np.floor((x + (row % 2) * width / 2) / width).astype(int)
    shade = rng.uniform(0.5, 1.0, 4096)[(row * 71 + column * 193) % 4096]
    gap = max(1.0, height / 10)
    joint = ((y % height) < gap) | (((x + (row % 2) * width / 2) % width) < gap)
    brick, mortar = palette(rng, 2)
    return np.where(joint[..., None], mortar, brick * shade[..., None]).astype(np.float32)


def stripes(rng: Generator, size: int) -> Texture:
    """Stripes, checks or weave of a few pixels to a few tens."""
    y, x = _turned(rng, size, np.pi)
    period = np.exp(rng.uniform(np.log(5), np.log(size / 6)))
    bend = period * 2 * noise(rng, size, octaves=2, coarsest=2) * rng.integers(0, 2)
    along, across = np.sin(2 * np.pi * (x + bend) / period), np.sin(2 * np.pi * (y + bend) / period)
    field = (along, along * across, np.maximum(along, across))[rng.integers(3)]
    return ramp(palette(rng, 3), np.clip(0.5 + 2 * field, 0, 1))


def text(rng: Generator, size: int) -> Texture:
    """Lines of print on paper."""
    paper, ink = np.full((size, size), 1.0, np.float32), np.zeros((size, size), np.uint8)
    scale = rng.uniform(0.3, 0.9) * size / 256
    line = int(rng.uniform(28, 36) * scale)
    font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX]))
    for y in range(line, size + line, line):
        words = " ".join("".join(chr(c) for c in rng.integers(97, 123, rng.integers(2, 9))) for _ in range(12))
        cv2.putText(ink, words, (int(rng.integers(-20, 8)), y), font, scale, 255, int(rng.integers(1, 3)), cv2.LINE_AA)
    turned = cv2.warpAffine(
        ink, cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(-25, 25), 1.15), (size, size)
    )
    dark, pale = sorted(palette(rng, 2), key=np.sum)
    written = turned[..., None].astype(np.float32) / 255
    return (pale + 0.4 * (1 - pale)) * (paper[..., None] - written) + 0.3 * dark * written


def cells(rng: Generator, size: int) -> Texture:
    """Pebbles or crackle: Voronoi cells with rounded shading."""
    seeds = np.full((size, size), 255, np.uint8)
    count = int(np.exp(rng.uniform(np.log(30), np.log(600))))
    seeds[rng.integers(0, size, count), rng.integers(0, size, count)] = 0
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colors = ramp(palette(rng, 4), rng.random(label.max() + 1))
    return colors[label.astype(int)] * (1 - 0.85 * (distance / distance.max())[..., None])


def leaves(rng: Generator, size: int) -> Texture:
    """Dead leaves: overlapping shapes of all sizes, whose statistics are those of natural images (Lee et al. 2001)."""
    canvas = np.zeros((size, size, 3), np.float32)
    colors = ramp(palette(rng, 5), rng.random(32)).astype(float)
    longest = size / rng.uniform(4, 10)
    for i in range(int(rng.integers(250, 500))):
        radius = 2 + longest * rng.random() ** 3
        if i < 60:
            radius = longest * rng.uniform(0.5, 1.5)  # cover the ground first
        axes = (int(radius) + 1, int(radius * rng.uniform(0.25, 1.0)) + 1)
        center = tuple(int(v) for v in rng.integers(0, size, 2))
        cv2.ellipse(canvas, center, axes, rng.uniform(0, 180), 0, 360, colors[rng.integers(32)], -1, cv2.LINE_AA)
    return canvas


def grass(rng: Generator, size: int) -> Texture:
    """Strokes in one main direction: grass, fur, bark."""
    colors = ramp(palette(rng, 4), rng.random(32)).astype(float)
    canvas = np.ones((size, size, 3), np.float32) * colors[0].astype(np.float32)
    direction, spread = rng.uniform(0, np.pi), rng.uniform(0.05, 0.5)
    length = rng.uniform(0.05, 0.25) * size
    for _ in range(int(rng.integers(500, 1200))):
        start = rng.uniform(0, size, 2)
        angle = direction + rng.normal(0, spread)
        end = start + length * rng.uniform(0.3, 1) * np.array([np.cos(angle), np.sin(angle)])
        color = colors[rng.integers(32)]
        cv2.line(canvas, _pixel(start), _pixel(end), color.tolist(), int(rng.integers(1, 3)), cv2.LINE_AA)
    return canvas


def smooth(rng: Generator, size: int) -> Texture:
    """Sky, skin or a painted wall: hardly any detail."""
    return ramp(palette(rng, 2), noise(rng, size, octaves=2, coarsest=1))


def photograph(rng: Generator, size: int, folder: Path) -> Texture:
    """A square part of one of the photographs in `folder`, which should be in focus all over."""
    files = photographs(folder)
    path = files[rng.integers(len(files))]
    with read.photograph(path) as (picture, _):
        side = int(min(picture.size) * rng.uniform(0.5, 1.0))
        top, left = (int(rng.integers(0, n - side + 1)) for n in (picture.height, picture.width))
        cut = pixels(picture.crop((left, top, left + side, top + side)))
    part = cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA)
    return (part[:, :: rng.choice([-1, 1])] / np.float32(255)) ** np.float32(2.2)


@functools.cache
def photographs(folder: Path) -> list[Path]:
    """The photographs below a folder, sorted."""
    with os_errors_in_one_line(folder, "this folder cannot be read"):
        entries = sorted(folder.rglob("*")) if os.path.isdir(folder) else []
    files = [path for path in entries if is_photograph_in_folder(path, SUFFIXES)]
    if not files:
        raise UserError(f"no photographs in {shown(folder)}: --textures must name a folder of them")
    return files


def add_lights(rng: Generator, color: Texture) -> Texture:
    """Small lamps and glints, far brighter than white: out of focus they draw the aperture."""
    size, lit = color.shape[0], color.copy()
    for _ in range(int(rng.integers(5, 40))):
        center = tuple(int(v) for v in rng.integers(0, size, 2))
        lamp = rng.uniform(8, 40) * (0.5 + 0.5 * rng.random(3))
        cv2.circle(lit, center, int(rng.integers(0, 3)), lamp.tolist(), -1)
    return lit


def below(size: int, horizon: float) -> Field:
    """Opacity of the ground: 1 below the horizon, a share of the height from the top."""
    return np.repeat(np.clip(np.arange(size, dtype=np.float32) - horizon * size + 0.5, 0, 1)[:, None], size, 1)


def shape(rng: Generator, size: int, nearness: float) -> Field:
    """Opacity of an object, anti-aliased, larger the nearer it is."""
    fine = 4 * size
    canvas = np.zeros((fine, fine), np.uint8)
    radius = fine * rng.uniform(0.12, 0.24) * (0.6 + 0.9 * nearness)
    center = rng.uniform(0.12, 0.88, 2) * fine
    kinds = [_blob, _box, _star, _tree, _fence, _letter]
    draw_shape = kinds[rng.choice(len(kinds), p=[0.3, 0.22, 0.12, 0.16, 0.08, 0.12])]
    draw_shape(rng, canvas, center, radius)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _blob(rng: Generator, canvas: np.ndarray, center: np.ndarray, radius: float) -> None:
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    outline = 1 + sum(
        rng.normal(0, 0.25 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(1, rng.integers(2, 8))
    )
    _fill(canvas, center, radius * np.abs(outline), angle, rng.uniform(0.6, 1.6))


def _box(rng: Generator, canvas: np.ndarray, center: np.ndarray, radius: float) -> None:
    turn = rng.normal(0, 0.25)
    _fill(canvas, center, np.full(4, radius * 1.2), turn + np.pi / 4 + np.arange(4) * np.pi / 2, rng.uniform(0.4, 2.2))


def _star(rng: Generator, canvas: np.ndarray, center: np.ndarray, radius: float) -> None:
    points = 2 * int(rng.integers(4, 10))
    reach = radius * np.where(np.arange(points) % 2, rng.uniform(0.3, 0.7), rng.uniform(0.9, 1.3))
    _fill(canvas, center, reach, rng.uniform(0, 6) + np.arange(points) * 2 * np.pi / points, 1.0)


def _fill(canvas: np.ndarray, center: np.ndarray, reach: np.ndarray, angle: np.ndarray, aspect: float) -> None:
    points = np.stack([reach * np.cos(angle) * aspect**0.5, reach * np.sin(angle) / aspect**0.5], -1) + center
    cv2.fillPoly(canvas, [points.astype(np.int32)], 255)


def _pixel(at: np.ndarray) -> tuple[int, int]:
    x, y = at.astype(int).tolist()
    return x, y


def _tree(rng: Generator, canvas: np.ndarray, center: np.ndarray, radius: float) -> None:
    """A stem from the lower edge that forks, with leaves at the tips."""

    def grow(at: np.ndarray, angle: float, length: float, width: float, forks: int) -> None:
        tip = at + length * np.array([np.cos(angle), np.sin(angle)])
        cv2.line(canvas, _pixel(at), _pixel(tip), 255, max(int(width), 4))
        if forks == 0:
            axes = (int(radius * rng.uniform(0.1, 0.25)), int(radius * rng.uniform(0.05, 0.15)))
            cv2.ellipse(canvas, tip.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, 255, -1)
            return
        for _ in range(int(rng.integers(2, 4))):
            grow(tip, angle + rng.normal(0, 0.6), length * rng.uniform(0.55, 0.8), width * 0.65, forks - 1)

    foot = np.array([center[0], canvas.shape[0]])
    grow(foot, -np.pi / 2 + rng.normal(0, 0.1), canvas.shape[0] - center[1], radius / 8, 3)


def _fence(rng: Generator, canvas: np.ndarray, center: np.ndarray, radius: float) -> None:
    pitch = radius * rng.uniform(0.25, 0.6)
    bar = int(pitch * rng.uniform(0.25, 0.6))
    top = int(center[1] - radius * 0.5)
    for x in np.arange(rng.uniform(0, pitch), canvas.shape[1], pitch):
        cv2.rectangle(canvas, (int(x), top), (int(x) + bar, canvas.shape[0]), 255, -1)
    cv2.rectangle(canvas, (0, top + bar), (canvas.shape[1], top + 2 * bar), 255, -1)


def _letter(rng: Generator, canvas: np.ndarray, center: np.ndarray, radius: float) -> None:
    word = "".join(chr(c) for c in rng.integers(65, 91, rng.integers(1, 4)))
    scale = radius / 14
    left = (int(center[0] - radius * 0.7 * len(word)), int(center[1] + radius * 0.7))
    cv2.putText(canvas, word, left, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, int(radius / 3))


def _turned(rng: Generator, size: int, most: float) -> tuple[Field, Field]:
    angle, stretch = rng.uniform(-most, most), rng.uniform(0.8, 1.25)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    return (np.cos(angle) * y - np.sin(angle) * x) * stretch, np.cos(angle) * x + np.sin(angle) * y
