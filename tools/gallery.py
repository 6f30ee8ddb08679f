"""Draws docs/gallery.jpg and docs/failures.jpg: photographs that may be shown, focus map, overlay, depth and blur.

    python -m tools.gallery [--weights=W]

docs/gallery.md says whose they are. Six lie in docs/photographs/, the others come with scikit-learn and scikit-image;
docs/photograph.jpg has three of them, for the README. The last of the gallery is focused far by data/refocus.py.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image
from skimage.color import gray2rgb
from sklearn.datasets import load_sample_image

import jaxdbd
from data import refocus, synthetic
from jaxdbd import weights
from jaxdbd.errors import UserError
from jaxdbd.machine.paths import local_path
from jaxdbd.machine.startup import exit_status
from jaxdbd.photographs.overlay import blur_colors, depth_colors, overlay
from jaxdbd.photographs.panels import gray, panel
from jaxdbd.scoring.blur import WIDEST

ROOT = Path(__file__).resolve().parents[1]
FAR = 0.3  # the quantile of nearness that is in focus
DISK = 0.03  # the circle of confusion of what is nearest, as a share of the longer side: wide enough to be seen


def read(name: str) -> np.ndarray:
    """A photograph of docs/photographs/, uint8 [H, W, 3]."""
    return np.asarray(Image.open(ROOT / "docs" / "photographs" / f"{name}.jpg").convert("RGB"))


def maps(model, variables, photographs: list[np.ndarray]) -> list[jaxdbd.Prediction]:
    """What is predicted of each photograph. Raises UserError where the weights see no depth."""
    if not model.depth_head:
        raise UserError("--weights: these see no depth, which the pictures show")
    return list(jaxdbd.predict(model, variables, photographs))


def focused_far(model, variables, photo: np.ndarray) -> np.ndarray:
    """A sharp photograph with what is near blurred, by the nearness that the network itself sees; uint8 [H, W, 3]."""
    [(_, depth)] = maps(model, variables, [photo])
    assert depth is not None
    near = refocus.refine(depth.astype(np.float16), photo)
    lens = refocus.Lens(aperture=DISK * max(photo.shape), focus=float(np.quantile(near, FAR)))
    rng = np.random.default_rng(0)
    light, *_ = refocus.photograph(refocus.linear(photo), near, lens, synthetic.draw_aperture(rng))
    return synthetic.sensor(light, rng)


def draw(model, variables, threshold: float, photographs: list, out: Path) -> None:
    """A row for each photograph: itself, focus map, overlay, depth and, where the weights tell it, blur."""
    titles = ["photograph", "in focus", f"in focus, above {threshold:.2f}", "depth, near is bright"]
    rows = []
    for photo, seen in zip(photographs, maps(model, variables, photographs), strict=True):
        assert seen.depth is not None  # `maps` has looked
        row = [photo, gray(seen.focus), overlay(photo, seen.focus > threshold), depth_colors(seen.depth)]
        rows.append(row if seen.blur is None else [*row, blur_colors(seen.blur / max(seen.blur.shape), WIDEST)])
    if model.blur_head:
        titles.append("blur, wide is bright")
    Image.fromarray(panel(rows, titles, side=256)).save(out, quality=88)


def main() -> None:
    """Predicts and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="lite", help="a bundled name, a .safetensors file or a training's folder")
    parser.add_argument("--out", type=local_path, default=ROOT / "docs", help="folder of the three pictures")
    args = parser.parse_args()

    threshold = weights.read_metadata(args.weights).threshold
    model, variables = jaxdbd.load(args.weights)
    mountains, flower = read("mountains"), load_sample_image("flower.jpg")
    stream = focused_far(model, variables, read("stream"))
    portrait, food, night = (getattr(skimage.data, name)() for name in ("astronaut", "coffee", "rocket"))
    gallery = [mountains, read("street"), portrait, flower, read("group"), food, night, stream]
    draw(model, variables, threshold, gallery, args.out / "gallery.jpg")
    draw(model, variables, threshold, [mountains, flower, stream], args.out / "photograph.jpg")
    hard = [read("sunset"), read("dogs"), gray2rgb(skimage.data.camera())]
    draw(model, variables, threshold, hard, args.out / "failures.jpg")


if __name__ == "__main__":
    sys.exit(exit_status(main))
