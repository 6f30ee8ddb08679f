"""Focus masks of photographs of one scene, focused at different distances: each is in focus where it is the sharpest.

The sharpness of a pixel is the local energy of the Laplacian of Gaussian at two scales. Each photograph is compared
with the sharpest of the others by the logarithm of the ratio, the scales weighted by the larger energy, and smoothed
along the edges of the mean photograph by a guided filter. The sign is the mask. It counts where the smoothed ratio is
decisive and there is texture. Of a thing that is blurred in all photographs the sharpest one still has little at the
finer scale: there it does not count. In pairs refocused near and far from 14 sharp photographs, 93 % of what is called
in focus is so, 81 % without that rule.
"""

import io
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from data import sources
from data.alignment import Misaligned, align, moved
from data.finding import scene_and_number
from data.guided import guided_filter
from jaxdbd.errors import UserError
from jaxdbd.machine.files import name_key, shown
from jaxdbd.machine.parallel import in_turn, parallel_map
from jaxdbd.photographs.photos import read_photograph

# All choices of ours, made by looking at the masks of 58 pairs. Lengths are pixels where nothing else is said.
MAX_SIDE = 1024  # larger photographs are reduced to this
SCALES = (1.0, 2.0)  # standard deviations of the Gaussian
NEIGHBORHOOD = 2.0  # standard deviation of the local mean of energy, times the scale
SLOW = 0.03  # standard deviation of what defocus leaves alone, share of the longer side
NOISE = 0.003  # root of the energy that means nothing
TEXTURE, DETAIL = 0.005, 0.01  # roots of the energy from which a thing may count as blurred, and as in focus
FINE = -1.25  # logarithm of the ratio of the energies at the two scales from which a thing may count as in focus
RADIUS, EPSILON = 0.025, 1e-3  # of the guided filter, the radius a share of the longer side
DECISIVE = 0.7  # logarithm of the ratio of energies
LEAST_DECIDED = 0.2  # share of the pixels of a scene
LEAST_SHARPER = 0.02  # share of the pixels of two photographs
QUALITY = 95  # of the JPEG files of reduced photographs


class Compared(NamedTuple):
    """A photograph with the mask that the others of its scene give it, both PNG: 255 = in focus; 255 = it counts."""

    id: str
    image: Path
    mask: bytes
    valid: bytes


def compared(splits: dict[str, list[sources.Pair]]) -> dict[str, list[Compared]]:
    """The photographs of each split with their masks.

    Args:
        splits: photographs in the order of their scenes, as `finding.find_scenes` lists them.

    Returns:
        The same without the scenes that give no masks, and without splits of nothing else. For each of those scenes a
        line is printed that says why.

    Raises:
        UserError: no scene is left.
    """
    out: dict[str, list[Compared]] = {}
    left_out = []
    for split, photographs in splits.items():
        scenes = [list(scene) for _, scene in itertools.groupby(photographs, scene_of)]
        out[split] = []
        for scene, found in zip(scenes, parallel_map(compare_scene, scenes, f"comparing {split}"), strict=True):
            if isinstance(found, str):
                left_out.append(f"left out: {shown(scene_of(scene[0]))}: {found}")
            else:
                out[split] += found
    print(*left_out, sep="\n", end="\n" if left_out else "", file=sys.stderr)
    if not any(out.values()):
        raise UserError("no scene gives masks; nothing was built")
    return {split: found for split, found in out.items() if found}


def scene_of(photograph: sources.Pair) -> str:
    """The NAME of NAME_1, in one spelling for all photographs of the scene."""
    found = scene_and_number(name_key(photograph.id))
    return found[0] if found else photograph.id


def load(photograph: Compared) -> dict:
    """The record of a photograph, as of `sources.load`, with `valid`. A large one is a JPEG with a side of MAX_SIDE."""
    record = sources.load_photograph(photograph.image)
    with Image.open(io.BytesIO(record["image"])) as file, in_turn(file.width * file.height):
        if max(file.size) > MAX_SIDE:
            buffer = io.BytesIO()
            reduced(file).save(buffer, "JPEG", quality=QUALITY)
            record["image"] = buffer.getvalue()
    return {"id": photograph.id, "mask": photograph.mask, "valid": photograph.valid} | record


def compare_scene(scene: Sequence[sources.Pair]) -> list[Compared] | str:
    """The masks of the photographs of one scene, or why it has none."""
    if len(scene) < 2:
        return "its other photographs were left out"
    cv2.setNumThreads(1)  # there is a process per core already
    photos = [reduced(read_photograph(one.image)) for one in scene]
    sizes = sorted({f"{photo.width}x{photo.height}" for photo in photos})
    if len(sizes) > 1:
        return f"its photographs differ in size: {', '.join(sizes)}"
    luminance = [np.asarray(photo.convert("L"), np.float32) / 255 for photo in photos]
    try:
        places = [np.eye(2, 3)] + [align(luminance[0], other) for other in luminance[1:]]
    except Misaligned as error:
        return str(error)
    found = [labels(*maps) for maps in sharpness(luminance, places)]
    decided = float(np.mean([valid for _, valid in found]))
    if decided < LEAST_DECIDED:
        return f"only {decided:.0%} of the pixels are clearly sharper in one of them, and {LEAST_DECIDED:.0%} must be"
    if sum((mask & valid).mean() >= LEAST_SHARPER for mask, valid in found) < 2:
        return "one photograph is the sharpest everywhere"
    return [
        Compared(one.id, one.image, sources.mask_png(mask), sources.mask_png(valid))
        for one, (mask, valid) in zip(scene, found, strict=True)
    ]


def reduced(photo: Image.Image) -> Image.Image:
    """The photograph, or a copy of it with a longer side of MAX_SIDE."""
    if max(photo.size) > MAX_SIDE:
        photo = photo.copy()
        photo.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return photo


def sharpness(
    luminance: Sequence[Float[np.ndarray, "h w"]], places: Sequence[Float[np.ndarray, "2 3"]]
) -> list[tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]]:
    """Compares each photograph with the sharpest of the others, in its own place.

    Args:
        luminance: of each photograph, [0, 1].
        places: for each, the matrix that takes (x, y, 1) of the first one to (x, y) of it.

    Returns:
        For each the two maps of `compare`, the ratio 0 where one of the others does not reach, and its `fineness`.
    """
    contrast = [cv2.GaussianBlur(p, (0, 0), SLOW * max(p.shape)).std() for p in luminance]
    gain = [contrast[0] / max(c, 1e-6) for c in contrast]  # a longer exposure is not sharper
    energy = [energies(p * g) for p, g in zip(luminance, gain, strict=True)]
    out = []
    for k, here in enumerate(places):
        back = np.linalg.inv(np.vstack([here, [0, 0, 1]]))
        # Energies are smooth, so that moving them does not blur them; the photographs it would.
        ways = {j: places[j] @ back for j in range(len(places)) if j != k}
        rival = np.max([moved(energy[j], way) for j, way in ways.items()], axis=0)
        guide = np.mean([luminance[k], *(moved(luminance[j], way) for j, way in ways.items())], axis=0)
        reached = np.min([moved(np.ones_like(guide), way, cv2.BORDER_CONSTANT) for way in ways.values()], axis=0)
        ratio, texture = compare(energy[k], rival, guide)
        out.append((np.where(reached > 0.999, ratio, 0), texture, fineness(energy[k])))
    return out


def energies(luminance: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w s"]:
    """The local energy of the Laplacian of Gaussian, times the squared scale, at each of SCALES."""
    out = []
    for sigma in SCALES:
        laplacian = sigma**2 * cv2.Laplacian(cv2.GaussianBlur(luminance, (0, 0), sigma), cv2.CV_32F)
        out.append(cv2.GaussianBlur(laplacian**2, (0, 0), NEIGHBORHOOD * sigma))
    return np.stack(out, axis=-1)


def compare(
    own: Float[np.ndarray, "h w s"], rival: Float[np.ndarray, "h w s"], guide: Float[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """How much sharper a photograph is than another by their energies, and how much there is to see.

    Returns:
        log(own / rival), averaged over scales and neighbors, each with the larger of the two energies as its weight;
        and those weights, summed over scales and averaged over neighbors.
    """
    weight = np.maximum(own, rival)
    ratio = np.log((own + NOISE**2) / (rival + NOISE**2))
    total, texture = (
        guided_filter(values.sum(-1), guide, _radius(guide), EPSILON) for values in (weight * ratio, weight)
    )
    return total / np.maximum(texture, NOISE**2), texture


def fineness(energy: Float[np.ndarray, "h w 2"]) -> Float[np.ndarray, "h w"]:
    """log(energy at the finer scale / at the coarser one), both averaged over a square of twice the filter's radius."""
    size = 4 * _radius(energy) + 1
    fine, coarse = cv2.split(cv2.boxFilter(energy, -1, (size, size), borderType=cv2.BORDER_REFLECT))
    return np.log((fine + NOISE**2) / (coarse + NOISE**2))


def labels(
    ratio: Float[np.ndarray, "h w"], texture: Float[np.ndarray, "h w"], fine: Float[np.ndarray, "h w"]
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """The mask, true = in focus, and where it counts, from the maps of `compare` and `fineness`.

    What is less sharp is blurred. What is sharper is in focus, if it has detail and that is fine.
    """
    in_focus = ratio > 0
    clear = np.where(in_focus, (texture > DETAIL**2) & (fine > FINE), texture > TEXTURE**2)
    return in_focus, (np.abs(ratio) > DECISIVE) & clear


def _radius(picture: np.ndarray) -> int:
    return max(1, round(RADIUS * max(picture.shape[:2])))
