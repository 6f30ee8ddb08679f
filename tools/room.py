"""What networks see in a room: Middlebury's Motorcycle, sharp all over and with a true disparity.

    python -m tools.room --weights lite lite-cuhk

Of each: the mean probability of being in focus, over the room, its other view, its mirror image, two reduced copies and
three parts, which should be 1; the mean error of focus maps of 16 photographs refocused from it as data/refocus.py does
it; Spearman's correlation of the predicted depth with disparity. Scharstein et al. (GCPR 2014) made the room,
scikit-image brings it along, and nothing of it was trained on.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import skimage.data
from jaxtyping import Bool, Float, UInt8
from PIL import Image

import jaxdbd
from data import refocus, synthetic
from data.teachers import fill_holes
from jaxdbd.machine.startup import exit_status
from jaxdbd.scoring.depth import depth_scores

SCENES, SEED = 16, 7
REDUCED = (0.5, 0.7)
PARTS = ((0, 350, 0, 500), (100, 450, 200, 700), (0, 300, 300, 741))  # top, bottom, left, right


class Scene(NamedTuple):
    """A refocused photograph, its mask (true = in focus), and where that is certain."""

    photo: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]
    valid: Bool[np.ndarray, "h w"]


def sharp_views(left: UInt8[np.ndarray, "h w 3"], right: UInt8[np.ndarray, "h w 3"]) -> list[np.ndarray]:
    """Photographs of the room that are in focus all over."""
    height, width = left.shape[:2]
    whole = Image.fromarray(left)
    sizes = [(round(width * r), round(height * r)) for r in REDUCED]
    reduced = [np.asarray(whole.resize(size, Image.Resampling.LANCZOS)) for size in sizes]
    return [left, right, left[:, ::-1], *reduced, *(left[top:bottom, a:b] for top, bottom, a, b in PARTS)]


def refocused(photo: UInt8[np.ndarray, "h w 3"], near: Float[np.ndarray, "h w"]) -> list[Scene]:
    """The room through lenses drawn at random."""
    scenes = []
    for i in range(SCENES):
        rng = np.random.default_rng((SEED, i))
        lens = refocus.draw_lens(rng, near)
        light, classes = refocus.photograph(refocus.linear(photo), near, lens, synthetic.draw_aperture(rng))
        scenes.append(Scene(synthetic.sensor(light, rng), *refocus.labels(classes)))
    return scenes


def figures(name: str, views: Sequence[np.ndarray], scenes: Sequence[Scene], disparity: np.ndarray) -> str:
    """A line on the weights `name`."""
    model, variables = jaxdbd.load(name)
    seen = list(jaxdbd.predict(model, variables, views))
    line = f"{name}: sharp {np.mean([p.focus.mean() for p in seen]):.3f}"
    maps = jaxdbd.predict(model, variables, [scene.photo for scene in scenes])
    errors = [np.abs(p.focus - scene.mask)[scene.valid].mean() for p, scene in zip(maps, scenes, strict=True)]
    line += f", refocused MAE {np.mean(errors):.4f}"
    if seen[0].depth is not None:
        line += f", depth Spearman {depth_scores(seen[0].depth, disparity)['spearman']:.3f}"
    return line


def main() -> None:
    """Prints a line for each of the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["lite"], help="bundled names, .safetensors files, workdirs")
    args = parser.parse_args()
    left, right, disparity = skimage.data.stereo_motorcycle()
    disparity = np.where(np.isfinite(disparity), disparity, np.nan)
    low, high = np.nanmin(disparity), np.nanmax(disparity)
    near = fill_holes(((disparity - low) / (high - low)).astype(np.float16)).astype(np.float32)
    scenes = refocused(left, cv2.medianBlur(near, 5))
    for name in args.weights:
        print(figures(name, sharp_views(left, right), scenes, disparity), flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
