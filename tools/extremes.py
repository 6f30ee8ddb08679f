"""Measures what a network says of photographs wholly in focus and wholly blurred (jaxdbd/weights/bundled/lite.md).

    python -m tools.extremes --weights=lite --dataset=dbd/cuhk --split=test

Wholly in focus: the largest part of each photograph that its mask has in focus, where that is at least 128 pixels wide
and high. Wholly blurred: the whole photographs, blurred by a disc whose radius is 1, 2 or 4 % of the longer side.
A perfect network would answer with a mean of 1 and of 0. Of other origin: nine photographs of scikit-image and
scikit-learn that are sharp all over, as they are and blurred, each with its own mean.
"""

import argparse
import sys

import numpy as np
import skimage.data
from skimage.color import gray2rgb
from sklearn.datasets import load_sample_image

import jaxdbd
from jaxdbd.input.augment import defocus, sharp_box
from jaxdbd.input.pipeline import decode, open_split
from jaxdbd.machine.startup import exit_status

MIN_SIDE = 128
BLURS = (1, 2, 4)  # radius in percent of the longer side


def sharp_part(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The largest of many random parts that lie wholly in focus, or None."""
    box = sharp_box(rng, mask, MIN_SIDE)
    if box is None:
        return None
    h, w = mask.shape
    return image[round(box[1] * h) : round(box[3] * h), round(box[0] * w) : round(box[2] * w)]


def other_photographs() -> dict[str, np.ndarray]:
    """Photographs of other origin that are sharp all over, by name."""
    names = ("brick", "grass", "gravel", "page", "coins", "text")
    photographs = {name: gray2rgb(getattr(skimage.data, name)()) for name in names}
    left, right, _ = skimage.data.stereo_motorcycle()
    return photographs | {"garage": left, "garage again": right, "china": load_sample_image("china.jpg")}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description="What a network says of photographs wholly in focus and wholly blurred."
    )
    parser.add_argument("--weights", default="lite")
    parser.add_argument("--dataset", default="dbd/cuhk")
    parser.add_argument("--split", default="test")
    parser.add_argument("--data_dir")
    args = parser.parse_args()
    model, variables = jaxdbd.load(args.weights)

    def mean_focus(photographs):
        return np.array([p.focus.mean() for p in jaxdbd.predict(model, variables, photographs)])

    examples = [decode(record) for record in open_split(args.dataset, args.split, args.data_dir)]
    rng = np.random.default_rng(0)
    sets = {"wholly in focus": [sharp_part(e.image, e.mask, rng) for e in examples]}
    for percent in BLURS:
        sets[f"blurred by {percent} %"] = [defocus(e.image, percent / 100 * max(e.mask.shape)) for e in examples]
    for name, photographs in sets.items():
        means = mean_focus([p for p in photographs if p is not None])
        low, middle, high = np.quantile(means, (0.25, 0.5, 0.75))
        print(
            f"{name}: mean focus {means.mean():.3f} over {len(means)} photographs"
            f" (quartiles {low:.3f} {middle:.3f} {high:.3f})",
            flush=True,
        )
    others = other_photographs()
    sets = {"others, sharp": list(others.values())}
    for percent in BLURS:
        sets[f"others, blurred by {percent} %"] = [defocus(p, percent / 100 * max(p.shape)) for p in others.values()]
    for name, photographs in sets.items():
        means = mean_focus(photographs)
        each = ", ".join(f"{other} {mean:.3f}" for other, mean in zip(others, means, strict=True))
        print(f"{name}: mean focus {means.mean():.3f} ({each})", flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
