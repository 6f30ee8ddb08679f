"""Focus maps of any photographs: the function `jaxdbd.predict`, and the command of the same name."""

import argparse
import csv
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from jaxdbd import weights
from jaxdbd.augment import resize
from jaxdbd.errors import UserError
from jaxdbd.model import DepthDistilledDBD, normalize

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}


class Prediction(NamedTuple):
    """What is known of one photograph, at its own size."""

    focus: Float32[np.ndarray, "h w"]  # probability of being in focus
    depth: Float32[np.ndarray, "h w"] | None  # nearness in [0, 1], 1 = nearest; None without a depth head


def predict(model: DepthDistilledDBD, variables: weights.Variables, image: UInt8[np.ndarray, "h w 3"]) -> Prediction:
    """Focus and depth of one RGB photograph of any size; compiles on the first call."""
    return predict_batch(model, variables, [image])[0]


def predict_batch(
    model: DepthDistilledDBD, variables: weights.Variables, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
) -> list[Prediction]:
    """`predict` for several photographs of any sizes in one call of the network; compiles once per number of them."""
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"an image must be a uint8 array [h, w, 3], not {image.dtype} {image.shape}")
    squares = np.stack([resize(image, (model.size, model.size)) for image in images])
    focus, depth = compiled(model)(variables, squares)
    return [
        Prediction(to_size(focus[i], image.shape[:2]), None if depth is None else to_size(depth[i], image.shape[:2]))
        for i, image in enumerate(images)
    ]


@lru_cache
def compiled(model: DepthDistilledDBD):
    """(variables, uint8 [B, S, S, 3]) -> probability and nearness, float32 [B, S, S]; one function per network."""

    @jax.jit
    def run(variables, images):
        output = model.apply(variables, normalize(images, model.encoder))
        depth = None if output.depth is None else output.depth[..., 0].clip(0, 1)
        return jax.nn.sigmoid(output.focus[..., 0]), depth

    return run


def to_size(square: Float32[np.ndarray, "s s"], size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """A square map, bilinearly at a photograph's (height, width)."""
    return resize(np.asarray(square), size, resample=Image.Resampling.BILINEAR).clip(0, 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxdbd predict`."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="photographs, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the maps, <stem>.png, 255 = in focus")
    parser.add_argument("--weights", default="lite", help="a bundled name, a .safetensors file or a training's folder")
    parser.add_argument("--csv", type=Path, help="a row per photograph: path, fraction in focus, depth, error")


def find_photographs(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those in the folders named. Raises UserError for a path that is not there."""
    found = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    if not found:
        raise UserError(f"{paths[0]}: no photographs ({', '.join(sorted(SUFFIXES))}) in it")
    return found


def read_photograph(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB photograph, upright. Raises UserError where it cannot be decoded."""
    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an image: {error}") from error


def run(args: argparse.Namespace) -> int:
    """Writes a map per photograph; returns 1 if any could not be read."""
    model, variables = weights.load(args.weights)
    photographs = find_photographs(args.paths)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in tqdm(photographs, unit=" photos"):
        try:
            prediction = predict(model, variables, read_photograph(path))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            rows.append([path, "", "", str(error)])
            continue
        focus = np.rint(prediction.focus * 255).astype(np.uint8)
        Image.fromarray(focus).save(args.out / f"{path.stem}.png")
        sharp = prediction.focus > 0.5
        depth = "" if prediction.depth is None or not sharp.any() else f"{prediction.depth[sharp].mean():.4f}"
        rows.append([path, f"{sharp.mean():.4f}", depth, ""])
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "fraction_in_focus", "mean_depth_in_focus", "error"])
            writer.writerows(rows)
    return int(any(row[3] for row in rows))
