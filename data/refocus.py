"""Defocus made from sharp photographs: refocused through a lens, by the nearness a teacher sees.

A point of nearness n spreads over a disk of diameter c = A |n - n_f| pixels: the circle of confusion (Potmesil and
Chakravarty, SIGGRAPH 1981). The photograph is cut into layers of nearness. Each layer is blurred in linear light by its
own disk, together with its coverage and with the class of its pixels (sharp, between, blurred), and takes the part of
every pixel that the nearer layers have left free. So what is near and blurred spills over what is behind it, and
nothing from behind stains what is near and sharp. Behind the edges of things, where a blurred one lets it through, the
ground is guessed. Where a photograph is not sharp all over, a map says what is: the rest can count as blurred, and
never as sharp.
"""

import dataclasses
import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float16, UInt8
from PIL import Image

from data import sources, synthetic, teachers
from data.blur import blur_map
from data.guided import guided_filter
from jaxdbd.machine.parallel import in_turn
from jaxdbd.photographs.masks import read_map

# All choices of ours. Lengths are shares of the longer side of the picture.
MAX_SIDE = 1024  # larger photographs are reduced to this
LOW, HIGH = 0.004, 0.007  # a disk up to LOW counts as sharp and from HIGH on as blurred: 1.3 and 2.2 pixels of 320
SURE = 0.8  # a map of what is sharp is believed from this value on
CERTAIN = 0.7  # a pixel counts where this much of its light is of one class
LAYERS = 24  # between quantiles of nearness
GUIDE_RADIUS, GUIDE_EPSILON = 0.012, 1e-3  # of the guided filter; less lets writing on a wall stand out in depth
HIDDEN_STEP = 0.1  # what is nearer by this much than something around it hides a ground
FARTHEST = 0.03  # in the mean light of a ground, a pixel that is nearer by this much counts e times less
CLIPPED = 0.8  # linear light from which a pixel may have been brighter than the photograph could hold
BOOST = (1.0, 6.0)  # how many times brighter it was
QUALITY = (75, 95)  # of the JPEG file

# Shares of scenes; in the rest the focus is on a pixel drawn from all.
ALL_SHARP, ALL_BLURRED, FOCUS_FAR, FOCUS_NEAR = 0.2, 0.1, 0.3, 0.25
FAR_QUANTILES, NEAR_QUANTILES = (0.0, 0.35), (0.7, 1.0)  # of nearness, between which the pixel in focus lies then
EVEN = 0.7  # the focus is on one of this share of the pixels, those around which nearness changes least
SLIGHT, WIDE = (0.012, 0.03), (0.012, 0.08)  # the largest disk: of scenes focused far, and of all others


@dataclasses.dataclass(frozen=True)
class Scene:
    """One rendering of one photograph: the same fields give the same bytes."""

    id: str
    image: Path
    seed: tuple[int, ...]
    sharp: Path | None = None  # what is in focus in the photograph, 255 = surely; without it, everything


@dataclasses.dataclass(frozen=True)
class Lens:
    """`aperture` A, in pixels per unit of nearness, and `focus`, the nearness n_f that is in focus."""

    aperture: float
    focus: float

    def coc(self, near: Float[np.ndarray, "*at"]) -> Float[np.ndarray, "*at"]:
        """Diameter of the circle of confusion at a nearness, in pixels."""
        return self.aperture * np.abs(near - self.focus)


def scenes(splits: dict[str, list[sources.Pair]], renderings: int, seed: int) -> dict[str, list[Scene]]:
    """Names `renderings` scenes of each photograph of each split: STEM_0, STEM_1, ..."""
    return {
        split: [
            Scene(
                f"{photo.id}_{k}",
                photo.image,
                (seed, int(split == "test"), _stable_hash(photo.image.name), k),
                photo.sharp,
            )
            for photo in photos
            for k in range(renderings)
        ]
        for split, photos in splits.items()
    }


def _stable_hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def load(scene: Scene) -> dict:
    """The record of a scene, for the teacher and for `render`: the photograph, `id`, `seed`, the file of `sharp`."""
    return {"id": scene.id, "seed": scene.seed, "sharp": scene.sharp} | sources.load_photograph(scene.image)


def render(labeled: tuple[dict, Float16[np.ndarray, "h w"]]) -> dict:
    """Refocuses the photograph of a record through its nearness, [0, 1], of any size.

    Returns:
        An example of the dataset: `id`; `image`, JPEG; `mask`, PNG, 255 = in focus; `valid`, PNG, 255 = the mask is
        certain, 0 = leave the pixel out; `depth`, the nearness as it came, [h, w, 1]; `blur`, of `blur_map`. Where
        nothing was measured the rendering takes the nearness beside it.
    """
    cv2.setNumThreads(1)  # the builder already runs a process per core
    record, depth = labeled
    rng = np.random.default_rng(record["seed"])
    with Image.open(io.BytesIO(record["image"])) as file, in_turn(file.width * file.height):  # RGB, as records are
        file.load()
        file.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        photo = file.copy()
    pixels = np.asarray(photo)
    near = refine(teachers.fill_holes(depth), pixels)
    sharp = None
    if record["sharp"] is not None:
        sharp = cv2.resize(read_map(record["sharp"]), photo.size, interpolation=cv2.INTER_NEAREST) >= 255 * SURE
    lens = draw_lens(rng, near, sharp)
    light = boost_highlights(linear(pixels), _log_uniform(rng, *BOOST))
    light, classes, diameters = photograph(light, near, lens, synthetic.draw_aperture(rng), sharp)
    mask, valid = labels(classes)
    blur = blur_map(diameters[..., 0], diameters[..., 1])
    if sharp is not None:  # what was blurred before is blurred by more than the lens says
        thinned = cv2.resize(sharp.astype(np.uint8), blur.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        blur[thinned == 0] = np.nan
    encoded = io.BytesIO()
    quality, subsampling = int(rng.integers(QUALITY[0], QUALITY[1] + 1)), int(rng.choice([0, 2]))  # 4:4:4, 4:2:0
    Image.fromarray(synthetic.sensor(light, rng)).save(encoded, "JPEG", quality=quality, subsampling=subsampling)
    return {
        "id": record["id"],
        "image": encoded.getvalue(),
        "mask": sources.mask_png(mask),
        "valid": sources.mask_png(valid),
        "depth": depth[..., None],
        "blur": blur,
    }


def refine(depth: Float16[np.ndarray, "h w"], photo: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W"]:
    """Nearness enlarged to the photograph and pulled to its edges, by a guided filter (He, Sun, Tang, ECCV 2010)."""
    height, width = photo.shape[:2]
    near = cv2.resize(depth.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    guide = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    radius = max(1, round(GUIDE_RADIUS * max(height, width)))
    return np.clip(guided_filter(near, guide, radius, GUIDE_EPSILON), 0, 1)


def draw_lens(
    rng: np.random.Generator, near: Float[np.ndarray, "h w"], sharp: Bool[np.ndarray, "h w"] | None = None
) -> Lens:
    """Draws what is in focus and how much the rest is blurred.

    The focus is the nearness of a pixel, of a `sharp` one if there is any. Pixels on edges are left out: there nearness
    passes through values at which nothing lies. Only in scenes all out of focus the focus is drawn otherwise.
    """
    side = max(near.shape)
    kind = rng.random()
    nearest, farthest = float(near.max()), float(near.min())
    span = max(nearest - farthest, 1e-3)
    if ALL_SHARP <= kind < ALL_SHARP + ALL_BLURRED:
        beyond = span * rng.uniform(0.5, 2.0)
        focus = nearest + beyond if rng.random() < 0.5 else farthest - beyond
        least = 1.3 * HIGH * side * np.exp(rng.uniform(0, np.log(4)))
        return Lens(float(least / beyond), focus)
    if kind < ALL_SHARP:
        quantiles, widest = (0, 1), 0.5 * LOW * rng.uniform(0.1, 1.0)
    elif kind < ALL_SHARP + ALL_BLURRED + FOCUS_FAR:
        quantiles, widest = FAR_QUANTILES, _log_uniform(rng, *SLIGHT)
    else:
        near_only = kind < ALL_SHARP + ALL_BLURRED + FOCUS_FAR + FOCUS_NEAR
        quantiles, widest = NEAR_QUANTILES if near_only else (0, 1), _log_uniform(rng, *WIDE)
    steep = cv2.morphologyEx(near, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
    even = steep <= np.quantile(steep, EVEN)
    if sharp is not None and (even & sharp).any():
        even &= sharp
    focus = float(np.quantile(near[even], rng.uniform(*quantiles), method="nearest"))
    return Lens(float(widest * side / max(nearest - focus, focus - farthest, 1e-3)), focus)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def linear(photo: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """Linear light in [0, 1] of 8-bit sRGB (IEC 61966-2-1)."""
    values = np.arange(256, dtype=np.float32) / 255
    curve = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return curve[photo]


def boost_highlights(light: Float[np.ndarray, "h w 3"], times: float) -> Float[np.ndarray, "h w 3"]:
    """Gives pixels clipped to white the light they may have had, up to `times` as much, so that they draw bokeh.

    All three channels must be bright: a clipped color, made brighter, would no longer clip to itself where in focus.
    """
    clipped = np.clip((light.min(2, keepdims=True) - CLIPPED) / (1 - CLIPPED), 0, 1)
    return light * (1 + (times - 1) * clipped**2)


def photograph(
    light: Float[np.ndarray, "h w 3"],
    near: Float[np.ndarray, "h w"],
    lens: Lens,
    kernel: synthetic.Kernel,
    sharp: Bool[np.ndarray, "h w"] | None = None,
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w 2"], Float[np.ndarray, "h w 2"]]:
    """The light that falls on the sensor, which share of it comes from sharp and blurred points, and how blurred it is.

    Args:
        light: linear light of the sharp photograph, [0, inf).
        near: nearness, [0, 1].
        lens: what is in focus.
        kernel: diameter in pixels -> normalized blur kernel.
        sharp: what is in focus in the photograph; no other point counts as sharp. None: all of it.

    Returns:
        Linear light; the shares of sharp and of blurred points, where the rest, up to 1, is between the two; the mean
        diameter that the light of a pixel was spread by, in pixels, and the mean of its square.
    """
    levels = np.unique(np.quantile(near, np.linspace(0, 1, LAYERS)).astype(np.float32))
    cocs = lens.coc(levels)
    sharp = np.ones(near.shape, bool) if sharp is None else sharp
    seen = _premultiplied(light, near, lens, sharp)
    ground_light, ground_near, ground_sharp = behind(light, near, sharp, reach=int(np.ceil(cocs.max() / 2)) + 2)
    ground = _premultiplied(ground_light, ground_near, lens, ground_sharp)
    # Place of each pixel among the layers: 3.25 belongs to layer 3 by three quarters and to layer 4 by one.
    place, ground_place = (np.interp(n, levels, np.arange(len(levels))).astype(np.float32) for n in (near, ground_near))
    hidden = np.ceil(ground_place) < np.floor(place)  # no layer holds a pixel and its ground at once
    hidden &= near - ground_near > HIDDEN_STEP
    ground_place[~hidden] = -1
    sensor = np.zeros_like(seen)
    for layer in reversed(range(len(levels))):
        weight, ground_weight = (np.maximum(1 - np.abs(p - layer), 0) for p in (place, ground_place))
        k = kernel(float(cocs[layer]))
        box = synthetic.box_of((weight > 0) | (ground_weight > 0), margin=k.shape[0])
        if box is None:
            continue
        sheet = synthetic.filtered(seen[box] * weight[box][..., None] + ground[box] * ground_weight[box][..., None], k)
        free = 1 - sensor[box][..., 3]
        sensor[box] += sheet * (np.minimum(sheet[..., 3], free) / np.maximum(sheet[..., 3], 1e-6))[..., None]
    sensor /= np.maximum(sensor[..., 3:4], 1e-6)  # without this, every seam between two layers is a dark line
    return sensor[..., :3], sensor[..., 4:6], sensor[..., 6:]


def _premultiplied(light: np.ndarray, near: np.ndarray, lens: Lens, sharp: np.ndarray) -> np.ndarray:
    """Color, coverage 1, the classes sharp and blurred, diameter and its square: [h, w, 8]."""
    coc, side = lens.coc(near), max(near.shape)
    classes = sharp & (coc <= LOW * side), coc >= HIGH * side
    return np.dstack([light, np.ones_like(near), *classes, coc, coc**2]).astype(np.float32)


def behind(
    light: Float[np.ndarray, "h w 3"], near: Float[np.ndarray, "h w"], sharp: Bool[np.ndarray, "h w"], reach: int
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Guesses the ground that things hide near their edges, where it shows once they are blurred.

    Args:
        light: linear light.
        near: nearness, [0, 1].
        sharp: what is in focus.
        reach: how far behind an edge the ground is wanted, pixels.

    Returns:
        The mean light of what is farthest in the square of `reach` around each pixel; its nearness; whether all of
        the square is in focus.
    """
    size = (2 * reach + 1, 2 * reach + 1)
    square = np.ones(size, np.uint8)
    weight = np.exp(-near / FARTHEST)[..., None]
    total = cv2.boxFilter(np.dstack([light * weight, weight]), -1, size, borderType=cv2.BORDER_REFLECT)
    return total[..., :3] / total[..., 3:], cv2.erode(near, square), cv2.erode(sharp.astype(np.uint8), square) > 0


def labels(classes: Float[np.ndarray, "h w 2"]) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """The mask, true = in focus, and where it is certain, from the shares of sharp and of blurred points."""
    sharp, blurred = classes[..., 0], classes[..., 1]
    return sharp > blurred, np.maximum(sharp, blurred) >= CERTAIN
