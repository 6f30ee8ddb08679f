"""Draws docs/gallery.jpg and docs/failures.jpg: photographs that may be shown, with focus map, overlay and depth.

    python -m tools.gallery [--weights=W]

Seven photographs come with scikit-learn and scikit-image, all free to show: China (danielbuechele) and a flower
(vultilion), both CC BY 2.0; Eileen Collins (NASA, public domain), a coffee cup (Rachel Michetti, CC0), the cat Chelsea
(Stefan van der Walt, CC0), a Falcon 9 rocket (SpaceX, public domain), coins (Brooklyn Museum, no known restrictions).
One is a scene that data/synthetic.py renders, under a seed that no dataset uses. The other picture has what is hard: a
cameraman (Lav Varshney, CC0) and two more scenes.
"""

import argparse
import sys
from pathlib import Path

import skimage.data
from PIL import Image
from skimage.color import gray2rgb
from sklearn.datasets import load_sample_image

import jaxdbd
from data import synthetic
from jaxdbd import weights
from jaxdbd.overlay import depth_colors, overlay
from jaxdbd.panels import gray, panel
from jaxdbd.paths import local_path
from jaxdbd.startup import exit_status

ROOT = Path(__file__).resolve().parents[1]


def draw(model, variables, threshold: float, photographs: list, out: Path) -> None:
    """A row for each photograph: itself, focus map, overlay and, with a depth head, depth."""
    rows = [
        [photo, gray(focus), overlay(photo, focus > threshold), *([] if depth is None else [depth_colors(depth)])]
        for photo, (focus, depth) in zip(photographs, jaxdbd.predict(model, variables, photographs), strict=True)
    ]
    titles = ["photograph", "in focus", f"in focus, above {threshold:.2f}", "depth, near is bright"]
    Image.fromarray(panel(rows, titles[: len(rows[0])], side=256)).save(out, quality=88)


def main() -> None:
    """Predicts and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="lite", help="a bundled name, a .safetensors file or a training's folder")
    parser.add_argument("--out", type=local_path, default=ROOT / "docs", help="folder of the two pictures")
    args = parser.parse_args()

    threshold = weights.read_metadata(args.weights).threshold
    model, variables = jaxdbd.load(args.weights)
    photographs = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    photographs += [getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    photographs += [gray2rgb(skimage.data.coins())]
    scenes = [synthetic.render(s)[0] for s in synthetic.scenes(train=0, test=4, size=384, seed=2020)["test"]]
    draw(model, variables, threshold, [*photographs, scenes[0]], args.out / "gallery.jpg")
    hard = [gray2rgb(skimage.data.camera()), *scenes[1:3]]
    draw(model, variables, threshold, hard, args.out / "failures.jpg")


if __name__ == "__main__":
    sys.exit(exit_status(main))
