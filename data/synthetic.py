"""A thin-lens renderer: procedural scenes whose focus mask and depth are known exactly.

A scene is a handful of planes, back to front, each a texture cut to a shape. With d the distance of a point and n = 1/d
its nearness, a plane's n is affine in the pixel coordinates, and a thin lens focused at d_f spreads the point over a
disk of diameter c = A |1/d - 1/d_f| pixels: the circle of confusion (Potmesil and Chakravarty, SIGGRAPH 1981). Each
plane is blurred by its own c, together with its opacity, and laid over what is behind it, in linear light.
"""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float16, UInt8
from PIL import Image

from data import textures
from data.blur import blur_map
from data.sources import mask_png

# All choices of ours. A disk of 2 pixels is about what the eye first takes for blur, pixel by pixel.
IN_FOCUS_COC = 2.0
ALL_SHARP, ALL_BLURRED = 0.08, 0.08  # shares of scenes entirely in focus and entirely out
MAX_COC = (7.0, 24.0)  # largest disk in a scene of 256 pixels; larger scenes scale it
JPEG_QUALITY = 95

Kernel = Callable[[float], Float[np.ndarray, "k k"]]  # diameter of the circle of confusion, pixels -> blur kernel


@dataclasses.dataclass(frozen=True)
class Scene:
    """What names one scene: the same fields give the same pixels."""

    id: str
    seed: tuple[int, ...]
    size: int
    textures: Path | None = None


@dataclasses.dataclass
class Plane:
    """A textured plane: linear light in [0, inf), opacity in [0, 1], and nearness = at + across x + down y.

    x and y run over [-0.5, 0.5] across the image.
    """

    color: Float[np.ndarray, "h w 3"]
    alpha: Float[np.ndarray, "h w"]
    at: float
    across: float = 0.0
    down: float = 0.0

    def nearness(self) -> Float[np.ndarray, "h w"]:
        """1/d at every pixel of the plane, hidden or not."""
        y, x = np.mgrid[-0.5 : 0.5 : self.alpha.shape[0] * 1j, -0.5 : 0.5 : self.alpha.shape[1] * 1j]
        return (self.at + self.across * x + self.down * y).astype(np.float32)


def scenes(train: int, test: int, size: int, seed: int, folder: Path | None = None) -> dict[str, list[Scene]]:
    """Names the scenes of both splits; `folder` holds all-in-focus photographs to use as textures."""
    return {
        split: [Scene(f"{split}{i:05d}", (seed, which, i), size, folder) for i in range(count)]
        for which, (split, count) in enumerate({"train": train, "test": test}.items())
        if count
    }


def load(scene: Scene) -> dict:
    """Renders a scene into a record: `id`, `image` (JPEG), `mask` (PNG), `key`, `scene_depth`, `blur`."""
    cv2.setNumThreads(1)  # the builder already runs a process per core
    image, in_focus, depth, blur = render(scene)
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return {
        "id": scene.id,
        "image": encoded.getvalue(),
        "mask": mask_png(in_focus),
        "key": hashlib.sha256(encoded.getvalue()).hexdigest(),
        "scene_depth": depth,
        "blur": blur,
    }


def render(
    scene: Scene,
) -> tuple[
    UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"], Float16[np.ndarray, "h w"], Float16[np.ndarray, "h2 w2 1"]
]:
    """Renders one scene.

    Returns:
        The photograph, sRGB; the mask, true where what is seen has a circle of confusion under `IN_FOCUS_COC`; the
        nearness of what is seen, scaled to [0, 1] with 1 = nearest; how blurred it is, of `blur_map`.
    """
    rng = np.random.default_rng(scene.seed)
    planes = compose(rng, scene.size, scene.textures)
    aperture, focus = draw_lens(rng, planes, scene.size)
    light, in_focus, diameters = photograph(planes, aperture, focus, draw_aperture(rng))
    return develop(light, rng), in_focus, visible_nearness(planes), blur_map(diameters[..., 0], diameters[..., 1])


def compose(rng: np.random.Generator, size: int, folder: Path | None) -> list[Plane]:
    """Draws the planes of a scene, back to front: a background, at times a ground, and one to five objects."""

    def texture() -> Float[np.ndarray, "h w 3"]:
        if folder is not None and rng.random() < 0.7:
            return textures.photograph(rng, size, folder)
        return textures.draw(rng, size)

    whole = np.ones((size, size), np.float32)
    far = rng.uniform(0.05, 0.3)
    wall = rng.random() < 0.25  # a slanted wall instead of a flat background
    background = Plane(texture(), whole, far + 0.25 * wall, across=wall * rng.choice([-1, 1]) * rng.uniform(0.3, 0.5))
    if rng.random() < 0.3:
        background.color = textures.add_lights(rng, background.color)
    planes = [background]
    if rng.random() < 0.45:
        horizon = rng.uniform(-0.25, 0.2)
        near = rng.uniform(0.6, 1.0)
        slope = (near - far) / (0.5 - horizon)
        alpha = textures.below(size, horizon + 0.5)
        planes.append(Plane(texture(), alpha, far - slope * horizon, down=slope))
    nearness = np.sort(rng.uniform(far + 0.1, 1.0, rng.integers(1, 6)))
    for n in nearness:
        tilt = rng.uniform(-0.3, 0.3, 2) if rng.random() < 0.3 else (0.0, 0.0)
        planes.append(Plane(texture(), textures.shape(rng, size, n), n, *tilt))
    return planes


def draw_lens(rng: np.random.Generator, planes: list[Plane], size: int) -> tuple[float, float]:
    """Draws an aperture A, in pixels per unit of nearness, and the nearness 1/d_f in focus.

    Flat planes whose disk would be close to `IN_FOCUS_COC`, where sharp and blurred look alike, are moved in depth;
    slanted planes cross that zone in a narrow band only.
    """
    kind = rng.random()
    nearest = max(float(plane.nearness().max()) for plane in planes)
    farthest = min(float(plane.nearness().min()) for plane in planes)
    if kind < ALL_SHARP:
        return rng.uniform(0.1, 0.7) * IN_FOCUS_COC / (nearest - farthest + 1e-3), rng.uniform(farthest, nearest)
    if kind < ALL_SHARP + ALL_BLURRED:
        focus = nearest + rng.uniform(0.2, 1.0)
        least = rng.uniform(2.0, 4.0) * IN_FOCUS_COC  # the disk of the nearest point, the sharpest of the scene
        return least / (focus - nearest), focus
    focus = planes[rng.integers(len(planes))].at
    widest = rng.uniform(*MAX_COC) * size / 256
    aperture = widest / max(nearest - focus, focus - farthest)
    for plane in planes:
        c = aperture * abs(plane.at - focus)
        if not (plane.across or plane.down) and 0.5 * IN_FOCUS_COC < c < 1.75 * IN_FOCUS_COC:
            plane.at = focus + np.sign(plane.at - focus) * 1.75 * IN_FOCUS_COC / aperture
    planes[1:] = sorted(planes[1:], key=lambda plane: plane.at if not plane.down else -1.0)
    return aperture, focus


def photograph(
    planes: list[Plane], aperture: float, focus: float, kernel: Kernel
) -> tuple[Float[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"], Float[np.ndarray, "h w 2"]]:
    """The light that falls on the sensor, whether what dominates each pixel is in focus, and how blurred it is.

    Args:
        planes: back to front.
        aperture: A, in pixels.
        focus: 1/d_f.
        kernel: diameter in pixels -> normalized blur kernel.

    Returns:
        Linear light; true where it is in focus; the mean diameter that the light of a pixel was spread by, in pixels,
        and the mean of its square.
    """
    light = np.zeros(planes[0].color.shape, np.float32)
    sharp = np.zeros(light.shape[:2], np.float32)
    diameters = np.zeros((*light.shape[:2], 2), np.float32)
    for plane in planes:
        coc = aperture * np.abs(plane.nearness() - focus)
        layer = np.dstack([plane.color * plane.alpha[..., None], plane.alpha])
        layer = blur(layer, coc, kernel)
        alpha = layer[..., 3]
        light = layer[..., :3] + (1 - alpha[..., None]) * light
        sharp = alpha * (coc < IN_FOCUS_COC) + (1 - alpha) * sharp
        diameters = alpha[..., None] * np.dstack([coc, coc**2]) + (1 - alpha[..., None]) * diameters
    return light, sharp >= 0.5, diameters


def blur(
    layer: Float[np.ndarray, "h w c"], coc: Float[np.ndarray, "h w"], kernel: Kernel
) -> Float[np.ndarray, "h w c"]:
    """Spreads each pixel of a layer over a disk of diameter `coc`, which is constant or varies slowly.

    Where it varies, the layer is blurred at a few diameters and each pixel is interpolated between the nearest two.
    """
    low, high = float(coc.min()), float(coc.max())
    if high - low < 0.1:
        return filtered(layer, kernel(high))
    steps = max(2, 1 + int(np.ceil((high - low) / 2.0)))
    levels = np.linspace(low, high, steps)
    out = np.zeros_like(layer)
    for level in levels:
        weight = np.clip(1 - np.abs(coc - level) / (levels[1] - levels[0]), 0, 1).astype(np.float32)
        k = kernel(float(level))
        # Only the part of the layer that this level contributes to, and the margin its kernel reaches.
        if part := box_of(weight > 0, margin=k.shape[0]):
            out[part] += weight[part][..., None] * filtered(layer[part], k)
    return out


def box_of(used: Bool[np.ndarray, "h w"], margin: int) -> tuple[slice, slice] | None:
    """The rows and columns around all that is true, and `margin` more on each side; None where nothing is."""
    rows, columns = (np.flatnonzero(used.any(axis)) for axis in (1, 0))
    if not rows.size:
        return None
    return (
        slice(max(rows[0] - margin, 0), rows[-1] + margin + 1),
        slice(max(columns[0] - margin, 0), columns[-1] + margin + 1),
    )


def filtered(layer: Float[np.ndarray, "h w c"], kernel: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "h w c"]:
    """A layer, mirrored at its borders, after a blur kernel."""
    return layer if kernel.size == 1 else cv2.filter2D(layer, -1, kernel, borderType=cv2.BORDER_REFLECT)


def draw_aperture(rng: np.random.Generator) -> Kernel:
    """Draws a lens: round, five- to eight-bladed, or seldom Gaussian."""
    shape = rng.choice(["round", "blades", "gaussian"], p=[0.5, 0.4, 0.1])
    return functools.partial(blur_kernel, shape=shape, blades=int(rng.integers(5, 9)), turn=rng.uniform(0, np.pi))


def blur_kernel(diameter: float, shape: str = "round", blades: int = 6, turn: float = 0.0) -> Float[np.ndarray, "k k"]:
    """Where the light of one point goes: sums to 1.

    Args:
        diameter: of the circle of confusion, pixels; under half a pixel the point stays where it is.
        shape: `round`; `blades`, a polygon of the same area; `gaussian`, of the same variance as the disk.
        blades: corners of the polygon.
        turn: its angle, radians.
    """
    if diameter < 0.5:
        return np.ones((1, 1), np.float32)
    radius = diameter / 2
    reach = int(np.ceil(1.5 * radius + 0.5))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    if shape == "gaussian":
        k = np.exp(-(x**2 + y**2) / (2 * (radius / 2) ** 2))
    elif shape == "round":
        k = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    else:
        apothem = radius * np.sqrt(np.pi / (blades * np.tan(np.pi / blades)))
        angles = turn + 2 * np.pi * np.arange(blades) / blades
        k = np.clip(apothem + 0.5 - np.max([x * np.cos(a) + y * np.sin(a) for a in angles], axis=0), 0, 1)
    used = int(np.flatnonzero(k.any(0))[0])
    k = k[used : k.shape[0] - used, used : k.shape[1] - used]
    return (k / k.sum()).astype(np.float32)


def develop(light: Float[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Exposure, then what `sensor` does."""
    return sensor(light * (rng.uniform(0.85, 1.25) * 0.25 / max(float(np.median(light)), 0.05)) ** 0.5, rng)


def sensor(exposed: Float[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Shot and read noise of a random gain, clipping at 1, and the sRGB curve (IEC 61966-2-1)."""
    gain = rng.uniform(0.0, 1.0) ** 2
    variance = gain * (4e-4 * np.maximum(exposed, 0) + 2e-5)
    noisy = exposed + np.sqrt(variance) * rng.standard_normal(exposed.shape, np.float32)
    return encode_srgb(noisy)


def encode_srgb(light: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Linear light, clipped to [0, 1], to 8 bits by the sRGB curve (IEC 61966-2-1)."""
    clipped = np.clip(light, 0, 1)
    encoded = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)
    return np.round(encoded * 255).astype(np.uint8)


def visible_nearness(planes: list[Plane]) -> Float16[np.ndarray, "h w"]:
    """Nearness of the front-most plane at each pixel, scaled to [0, 1] over the image."""
    nearness = planes[0].nearness()
    for plane in planes[1:]:
        nearness = np.where(plane.alpha > 0.5, plane.nearness(), nearness)
    low, high = nearness.min(), nearness.max()
    return ((nearness - low) / max(high - low, 1e-6)).astype(np.float16)
