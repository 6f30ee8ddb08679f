"""Measures what squashing photographs to a square costs against keeping their proportions (docs/predict.md).

    python -m tools.aspect --weights=lite --dataset=dbd/cuhk --split='train[:60]'

Three ways to hand a photograph to a network of side S, at about the same number of pixels where nothing else is said:
squashed to S x S; in its own proportions, sides rounded to multiples of 32; in its own proportions inside an S x S
square, the rest mirrored (fewer pixels of the photograph). Scored under protocol ddff at each mask's own size.
"""

import argparse
import sys
from functools import partial

import cv2
import jax
import numpy as np

from jaxdbd import weights
from jaxdbd.inference import probability_and_nearness
from jaxdbd.input.geometry import resize
from jaxdbd.input.pipeline import decode, open_split
from jaxdbd.machine.startup import exit_status
from jaxdbd.scoring.maps import to_map
from jaxdbd.scoring.metrics import count_levels, summarize_ddff


def squashed(focus_of, image, side):
    """The whole photograph as a square."""
    return focus_of(resize(image, (side, side)))


def in_proportion(focus_of, image, side):
    """As many pixels, in the photograph's proportions."""
    ratio = np.sqrt(image.shape[0] / image.shape[1])
    height, width = (max(round(side * r / 32), 1) * 32 for r in (ratio, 1 / ratio))
    return focus_of(resize(image, (height, width)))


def letterboxed(focus_of, image, side):
    """The longer side at S, the rest of the square mirrored."""
    scale = side / max(image.shape[:2])
    height, width = (max(round(n * scale), 1) for n in image.shape[:2])
    small = resize(image, (height, width))
    padded = cv2.copyMakeBorder(small, 0, side - height, 0, side - width, cv2.BORDER_REFLECT)
    return focus_of(padded)[:height, :width]


def main() -> None:
    """Measures and prints the three."""
    parser = argparse.ArgumentParser(
        description="What squashing photographs to a square costs against keeping their proportions."
    )
    parser.add_argument("--weights", default="lite")
    parser.add_argument("--dataset", default="dbd/cuhk")
    parser.add_argument("--split", default="train[:60]", help="never the test split: a choice is made from this")
    parser.add_argument("--data_dir")
    args = parser.parse_args()
    model, variables = weights.load(args.weights)
    network = jax.jit(partial(probability_and_nearness, model, variables))

    def focus_of(image):
        return np.asarray(network(image[None])[0][0])

    examples = [decode(record) for record in open_split(args.dataset, args.split, args.data_dir)]
    for way in (squashed, in_proportion, letterboxed):
        maps = (to_map(way(focus_of, e.image, model.size), e.mask.shape) for e in examples)
        levels = [count_levels(focus, e.mask >= 128) for focus, e in zip(maps, examples, strict=True)]
        scores = ", ".join(f"{k} {v:.4f}" for k, v in summarize_ddff(levels).items())
        print(f"{way.__name__}: {scores}", flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
