"""Prints every figure of a model card (jaxdbd/weights/bundled/).

    python -m tools.card --weights=lite --data_dir=DIR --sharp=DIR --pairs=DIR

On the dataset's split: protocol ddff, and how much of the teacher's depth is learned. On photographs in `--sharp` that
are in focus all over: the mean probability of being in focus, of the photographs and of copies blurred as a whole by a
disc of 1, 2 and 4 % of the longer side. On `--pairs`, NAME_1 and NAME_2 of one scene with the camera focused near in
one and far in the other: the share of pixels in focus in exactly one of the two, and in none. What lies in no folder
given is left out.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np

import jaxdbd
from jaxdbd.input.augment import defocus
from jaxdbd.input.geometry import to_size
from jaxdbd.input.pipeline import open_parts
from jaxdbd.machine.files import files_by_stem, read_names
from jaxdbd.machine.startup import exit_status
from jaxdbd.photographs.photos import SUFFIXES, read_photograph
from jaxdbd.scoring.maps import focus_predictor, quick_scores
from jaxdbd.sharding import make_mesh, replicated

BLURS = (1, 2, 4)  # radius in percent of the longer side
BATCH = 8


def dataset_figures(model, variables, dataset: str, split: str, data_dir: str | None) -> None:
    """Prints the quick scores of each part of a dataset."""
    mesh = make_mesh()
    predict = partial(focus_predictor(model, mesh), jax.device_put(variables, replicated(mesh)))
    parts = open_parts(dataset, split, data_dir)
    for name, records in zip(dataset.split("+"), parts, strict=True):
        scores = quick_scores(predict, records, model.size, BATCH)
        print(f"{name}, {len(records)} records:", ", ".join(f"{k} {v:.4f}" for k, v in scores.items()), flush=True)


def mean_focus(model, variables, photographs: Sequence[np.ndarray]) -> np.ndarray:
    """The mean probability of being in focus of each photograph."""
    return np.array([p.focus.mean() for p in jaxdbd.predict(model, variables, photographs)])


def read_named(folder: Path, names: Path) -> list[np.ndarray]:
    """The photographs of a folder that a list names."""
    found, _ = files_by_stem(folder, SUFFIXES)
    return [np.asarray(read_photograph(found[key])) for key in read_names(names, SUFFIXES)]


def sharp_figures(model, variables, folder: Path, names: Path) -> None:
    """Prints the mean focus of photographs that are in focus all over, as they are and blurred."""
    photographs = read_named(folder, names)
    copies = {"sharp": photographs}
    for percent in BLURS:
        copies[f"blurred by {percent} %"] = [defocus(p, percent / 100 * max(p.shape)) for p in photographs]
    for name, seen in copies.items():
        means = mean_focus(model, variables, seen)
        low, middle, high = np.quantile(means, (0.25, 0.5, 0.75))
        print(
            f"{folder.name}, {name}: mean focus {means.mean():.4f} over {len(means)} photographs"
            f" (quartiles {low:.3f} {middle:.3f} {high:.3f})",
            flush=True,
        )


def pair_shares(model, variables, folder: Path, threshold: float) -> dict[str, tuple[float, float]]:
    """By the name of a pair, the share of pixels in focus in exactly one of its photographs, and in none."""
    found, _ = files_by_stem(folder, SUFFIXES)
    shares = {}
    for key in sorted(k.removesuffix("_1") for k in found if k.endswith("_1") and f"{k[:-1]}2" in found):
        near, far = (np.asarray(read_photograph(found[f"{key}_{i}"])) for i in (1, 2))
        first, second = (p.focus for p in jaxdbd.predict(model, variables, [near, far]))
        first, second = first > threshold, to_size(second.astype(np.float32), first.shape) > threshold
        shares[key] = (first ^ second).mean(), (~first & ~second).mean()
    return shares


def pair_figures(model, variables, folder: Path, threshold: float) -> None:
    """Prints the share of pixels in focus in exactly one photograph of each pair, and in none."""
    shares = pair_shares(model, variables, folder, threshold)
    for name, chosen in {
        "all pairs": list(shares),
        "pairs but for aymaz": [key for key in shares if not key.startswith("aymaz")],
    }.items():
        one, none = np.mean([shares[key] for key in chosen], axis=0)
        print(f"{folder.name}, {name}, {len(chosen)}: in exactly one {one:.4f}, in none {none:.4f}", flush=True)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="lite", help="a bundled name, a .safetensors file or a training's folder")
    parser.add_argument("--dataset", default="dbd/cuhk", help="empty: none")
    parser.add_argument("--split", default="test")
    parser.add_argument("--data_dir")
    parser.add_argument("--sharp", type=Path, help="folder of photographs that are in focus all over")
    parser.add_argument("--sharp_names", type=Path, help="text file with those of them to use, one name a line")
    parser.add_argument("--pairs", type=Path, help="folder of pairs focused near and far")
    parser.add_argument("--threshold", type=float, default=0.5, help="on the maps of pairs (0.5)")
    args = parser.parse_args()
    model, variables = jaxdbd.load(args.weights)
    if args.dataset:
        dataset_figures(model, variables, args.dataset, args.split, args.data_dir)
    if args.sharp:
        sharp_figures(model, variables, args.sharp, args.sharp_names)
    if args.pairs:
        pair_figures(model, variables, args.pairs, args.threshold)


if __name__ == "__main__":
    sys.exit(exit_status(main))
