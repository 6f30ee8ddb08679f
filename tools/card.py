"""Prints every figure of the model cards (jaxdbd/weights/bundled/).

    python -m tools.card --weights lite lite-cuhk --data_dir=DIR --sharp=DIR --sharp_names=FILE --pairs=DIR

Dataset: protocol ddff on the split, how much of the teacher's depth is learned and, of weights with a blur head, how
well blur is told where the dataset knows it; `--dataset=` leaves it out. Sharp photographs: their mean probability of
being in focus, as they are and blurred as a whole by a disk whose radius is 1, 2 or 4 % of the longer side. Pairs,
NAME_1 and NAME_2 of one scene with the camera focused near in one and far in the other: the share of pixels in focus in
exactly one, and in none. The last two are left out where no folder is given.

The room is Middlebury's Motorcycle (Scharstein et al., GCPR 2014), which comes with scikit-image: sharp all over, with
a true disparity, and nothing of it was trained on. The mean probability of being in focus of eight views of it; the
error of the focus maps of 16 photographs refocused from it as data/refocus.py does it, and how well their blur is told;
Spearman's correlation of the predicted depth with disparity.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import numpy as np
import skimage.data
from jaxtyping import Bool, Float, UInt8
from PIL import Image

import jaxdbd
from data import refocus, synthetic
from data.blur import blur_map
from data.teachers import fill_holes
from jaxdbd.errors import UserError
from jaxdbd.inference import SquareMaps
from jaxdbd.input.geometry import to_size
from jaxdbd.input.records import open_parts
from jaxdbd.machine.files import files_by_stem, read_names
from jaxdbd.machine.paths import local_path
from jaxdbd.machine.startup import exit_status
from jaxdbd.photographs.photos import SUFFIXES, read_photograph
from jaxdbd.scoring.blur import blur_scores, sample
from jaxdbd.scoring.depth import depth_scores
from jaxdbd.scoring.maps import focus_predictor, quick_scores
from jaxdbd.sharding import make_mesh, replicated

BATCH = 8
BLURS = (1, 2, 4)  # radius in percent of the longer side
LEFT_OUT = "aymaz"  # pairs whose names begin so, most of them gray: the cards do not count them
THRESHOLD = 0.5  # on the maps of pairs
SCENES, SEED = 16, 7  # of the room, refocused
REDUCED = (0.5, 0.7)
PARTS = ((0, 350, 0, 500), (100, 450, 200, 700), (0, 300, 300, 741))  # of the room: top, bottom, left, right

Photograph = UInt8[np.ndarray, "h w 3"]


class Scene(NamedTuple):
    """A refocused photograph, its mask (true = in focus), where the mask is certain, and how blurred it is."""

    photo: Photograph
    mask: Bool[np.ndarray, "h w"]
    valid: Bool[np.ndarray, "h w"]
    blur: Float[np.ndarray, "_ _"]  # of `blur_map`


def dataset_figures(model, variables, dataset: str, split: str, data_dir: str | None) -> Iterator[str]:
    """The quick scores of each part of a dataset."""
    mesh = make_mesh()
    predict = partial(focus_predictor(model, mesh), jax.device_put(variables, replicated(mesh)))
    for name, records in zip(dataset.split("+"), open_parts(dataset, split, data_dir), strict=True):
        scores = quick_scores(predict, records, model.size, BATCH)
        yield f"{name}, {len(records)} records: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items())


def mean_focus(model, variables, photographs: Sequence[Photograph]) -> Float[np.ndarray, " n"]:
    """The mean probability of being in focus of each photograph."""
    return np.array([p.focus.mean() for p in jaxdbd.predict(model, variables, photographs)])


def read_named(folder: Path, names: Path) -> list[Photograph]:
    """The photographs of a folder that a list names."""
    found, _ = files_by_stem(folder, SUFFIXES)
    return [np.asarray(read_photograph(found[key])) for key in read_names(names, SUFFIXES)]


def blurred(photo: Photograph, radius: float) -> Photograph:
    """A whole photograph blurred by an even disk of `radius` pixels, in linear light."""
    disk = synthetic.blur_kernel(2 * radius)
    light = cv2.filter2D(refocus.linear(photo), -1, disk, borderType=cv2.BORDER_REFLECT)
    return synthetic.encode_srgb(light)


def sharp_figures(model, variables, photographs: Sequence[Photograph]) -> Iterator[str]:
    """The mean focus of photographs that are in focus all over, as they are and blurred."""
    copies = {"sharp": list(photographs)}
    for percent in BLURS:
        copies[f"blurred by {percent} %"] = [blurred(p, percent / 100 * max(p.shape)) for p in photographs]
    for name, seen in copies.items():
        means = mean_focus(model, variables, seen)
        low, middle, high = np.quantile(means, (0.25, 0.5, 0.75))
        yield (
            f"{len(means)} photographs, {name}: mean focus {means.mean():.4f}"
            f" (quartiles {low:.3f} {middle:.3f} {high:.3f})"
        )


def pair_shares(model, variables, folder: Path) -> dict[str, tuple[float, float]]:
    """By the name of a pair, the share of pixels in focus in exactly one of its photographs, and in none."""
    found, _ = files_by_stem(folder, SUFFIXES)
    shares = {}
    for key in sorted(k.removesuffix("_1") for k in found if k.endswith("_1") and f"{k[:-1]}2" in found):
        near, far = (np.asarray(read_photograph(found[f"{key}_{i}"])) for i in (1, 2))
        first, second = (p.focus for p in jaxdbd.predict(model, variables, [near, far]))
        first, second = first > THRESHOLD, to_size(second.astype(np.float32), first.shape) > THRESHOLD
        shares[key] = (first ^ second).mean(), (~first & ~second).mean()
    return shares


def pair_figures(model, variables, folder: Path) -> Iterator[str]:
    """The share of pixels in focus in exactly one photograph of a pair, and in none: means over pairs."""
    shares = pair_shares(model, variables, folder)
    some = [key for key in shares if not key.startswith(LEFT_OUT)]
    for name, chosen in {"all pairs": list(shares), f"pairs but for {LEFT_OUT}": some}.items():
        one, none = np.mean([shares[key] for key in chosen], axis=0)
        yield f"{folder.name}, {name}, {len(chosen)}: in exactly one {one:.4f}, in none {none:.4f}"


def sharp_views(left: Photograph, right: Photograph) -> list[Photograph]:
    """Photographs of the room that are in focus all over: both views, a mirror image, two small copies, three parts."""
    height, width = left.shape[:2]
    whole = Image.fromarray(left)
    sizes = [(round(width * r), round(height * r)) for r in REDUCED]
    reduced = [np.asarray(whole.resize(size, Image.Resampling.LANCZOS)) for size in sizes]
    return [left, right, left[:, ::-1], *reduced, *(left[top:bottom, a:b] for top, bottom, a, b in PARTS)]


def refocused(photo: Photograph, near: Float[np.ndarray, "h w"]) -> list[Scene]:
    """The room through lenses drawn at random."""
    scenes = []
    for i in range(SCENES):
        rng = np.random.default_rng((SEED, i))
        lens = refocus.draw_lens(rng, near)
        light, classes, blur = refocus.photograph(refocus.linear(photo), near, lens, synthetic.draw_aperture(rng))
        known = blur_map(blur[..., 0], blur[..., 1])[..., 0]
        scenes.append(Scene(synthetic.sensor(light, rng), *refocus.labels(classes), known))
    return scenes


def room() -> tuple[list[Photograph], list[Scene], Float[np.ndarray, "h w"]]:
    """Sharp views of the room, refocused ones, and the disparity of the first, NaN where it is not known."""
    left, right, disparity = skimage.data.stereo_motorcycle()
    disparity = np.where(np.isfinite(disparity), disparity, np.nan)
    low, high = np.nanmin(disparity), np.nanmax(disparity)
    near = fill_holes(((disparity - low) / (high - low)).astype(np.float16)).astype(np.float32)
    return sharp_views(left, right), refocused(left, cv2.medianBlur(near, 5)), disparity


def room_figures(model, variables, views: Sequence[Photograph], scenes: Sequence[Scene], disparity) -> Iterator[str]:
    """What a network sees in the room, in one line."""
    seen = list(jaxdbd.predict(model, variables, views))
    maps = jaxdbd.predict(model, variables, [scene.photo for scene in scenes])
    errors = [np.abs(p.focus - scene.mask)[scene.valid].mean() for p, scene in zip(maps, scenes, strict=True)]
    line = f"room: mean focus {np.mean([p.focus.mean() for p in seen]):.3f}, refocused MAE {np.mean(errors):.4f}"
    if seen[0].depth is not None:
        line += f", depth Spearman {depth_scores(seen[0].depth, disparity)['spearman']:.3f}"
    yield line
    if seen[0].blur is not None:
        yield "room, blur: " + ", ".join(f"{k} {v:.4f}" for k, v in blur_figures(maps, scenes).items())


def blur_figures(maps: Sequence[jaxdbd.Prediction], scenes: Sequence[Scene]) -> dict[str, float]:
    """`blur_scores` of predictions of refocused photographs."""
    samples = []
    for p, scene in zip(maps, scenes, strict=True):
        assert p.blur is not None
        share = p.blur / np.float32(np.sqrt(p.blur.size))
        samples.append(sample(SquareMaps(p.focus, None, share), share.shape, scene.blur))
    return blur_scores([s for s in samples if s])


def main() -> None:
    """Prints the figures of each of the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["lite"], help="bundled names, .safetensors files, workdirs")
    parser.add_argument("--dataset", default="dbd/cuhk")
    parser.add_argument("--split", default="test")
    parser.add_argument("--data_dir")
    parser.add_argument("--sharp", type=local_path, help="folder of photographs that are in focus all over")
    parser.add_argument("--sharp_names", type=local_path, help="text file with those of them to use, one name a line")
    parser.add_argument("--pairs", type=local_path, help="folder of pairs focused near and far")
    args = parser.parse_args()
    if args.sharp and not args.sharp_names:
        raise UserError("--sharp needs --sharp_names=FILE beside it")
    photographs = read_named(args.sharp, args.sharp_names) if args.sharp else []
    views, scenes, disparity = room()
    for name in args.weights:
        model, variables = jaxdbd.load(name)
        print(f"{name}:")
        for line in room_figures(model, variables, views, scenes, disparity):
            print(line, flush=True)
        if args.dataset:
            for line in dataset_figures(model, variables, args.dataset, args.split, args.data_dir):
                print(line, flush=True)
        if photographs:
            for line in sharp_figures(model, variables, photographs):
                print(line, flush=True)
        if args.pairs:
            for line in pair_figures(model, variables, args.pairs):
                print(line, flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
