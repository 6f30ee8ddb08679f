"""`jaxdbd score`: any method's maps against masks, from two folders, under every protocol."""

import argparse
import csv
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from jaxdbd import report
from jaxdbd.errors import UserError
from jaxdbd.metrics import ImageScores, summarize
from jaxdbd.structure import score_image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
EIGHT_BIT_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}


@dataclass(frozen=True)
class Pair:
    """One photograph's map and mask on disk, and what white means in each ("blur" or "focus")."""

    stem: str
    pred: Path
    gt: Path
    pred_white: str
    gt_white: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxdbd score`."""
    parser.add_argument("--pred", type=Path, required=True, help="folder of 8-bit maps")
    parser.add_argument("--gt", type=Path, required=True, help="folder of masks; stems match those of the maps")
    parser.add_argument("--gt_white", choices=("blur", "focus"), required=True, help="what white means in the masks")
    parser.add_argument("--pred_white", choices=("blur", "focus"), default="focus", help="... in the maps (focus)")
    parser.add_argument("--names", type=Path, help="text file with the images to score, one name a line (all masks)")
    parser.add_argument("--json", type=Path, help="write the numbers here, for `jaxdbd compare`")
    parser.add_argument("--csv", type=Path, help="write the per-image values here")


def images_by_stem(folder: Path) -> dict[str, Path]:
    """The folder's images by lower-case stem. Raises UserError for a missing folder and for two files of one stem."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        stem = path.stem.lower()
        if stem in found:
            raise UserError(f"{folder} holds {found[stem].name} and {path.name}: stems must differ, remove one")
        found[stem] = path
    if not found:
        raise UserError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def read_names(path: Path) -> list[str]:
    """Lower-case stems from a text file with one image name a line, with or without its suffix."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except OSError as error:
        raise UserError(f"cannot read --names={path}: {error.strerror}") from error
    names = [Path(line).name for line in lines if line]
    if not names:
        raise UserError(f"--names={path} is empty")
    stems = [Path(n).stem if Path(n).suffix.lower() in IMAGE_SUFFIXES else n for n in names]
    return list(dict.fromkeys(stem.lower() for stem in stems))


def pair_up(pred: Path, gt: Path, names: Path | None, pred_white: str, gt_white: str) -> list[Pair]:
    """A pair for every mask (or every name). Raises UserError that lists the masks and maps not found."""
    maps, masks = images_by_stem(pred), images_by_stem(gt)
    stems = read_names(names) if names else sorted(masks)
    for kind, folder, found in (("mask", gt, masks), ("map", pred, maps)):
        missing = [stem for stem in stems if stem not in found]
        if missing:
            listing = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            hint = "" if names else "; --names=FILE scores a part of the masks"
            raise UserError(f"{folder} has no {kind} for {len(missing)} of {len(stems)} images: {listing}{hint}")
    return [Pair(masks[s].stem, maps[s], masks[s], pred_white, gt_white) for s in stems]


def read_focus(path: Path, white: str) -> UInt8[np.ndarray, "h w"]:
    """An 8-bit image file as a map with 255 = in focus. Raises UserError for other depths and for damaged files."""
    try:
        with Image.open(path) as image:
            if image.mode not in EIGHT_BIT_MODES:
                raise UserError(f"{path} is not an 8-bit image (mode {image.mode}): save it with 0..255")
            grey = np.asarray(image.convert("L"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from error
    return grey if white == "focus" else 255 - grey


def resize(focus: UInt8[np.ndarray, "h w"], shape: tuple[int, ...]) -> UInt8[np.ndarray, "h2 w2"]:
    """Bilinear resize of a map to a mask's (height, width), with antialiasing when it shrinks."""
    if focus.shape == shape:
        return focus
    return np.asarray(Image.fromarray(focus).resize(shape[::-1], Image.Resampling.BILINEAR))


def score_pair(pair: Pair) -> tuple[ImageScores, bool]:
    """The scores of one pair, and whether the map had to be resized to its mask."""
    focus, mask = read_focus(pair.pred, pair.pred_white), read_focus(pair.gt, pair.gt_white)
    return score_image(pair.stem, resize(focus, mask.shape), mask), focus.shape != mask.shape


def worker_pool() -> ProcessPoolExecutor:
    """A process per core. Spawned, not forked: JAX's threads do not survive a fork."""
    return ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn"))


def score_pairs(pairs: Sequence[Pair]) -> tuple[list[ImageScores], int]:
    """The scores of all pairs in their order, and how many maps were resized."""
    if len(pairs) < 16:  # starting the workers would take longer
        results = list(map(score_pair, pairs))
    else:
        with worker_pool() as pool:
            results = list(pool.map(score_pair, pairs, chunksize=4))
    return [scores for scores, _ in results], sum(resized for _, resized in results)


def polarity_warning(results: dict) -> str | None:
    """A line saying that the inverted maps would score far better, or None.

    Inverting a map turns AUC into 1 - AUC and MAE into 1 - MAE. AUC decides where it is defined, because it does not
    depend on how bright the maps are; MAE decides where every mask has one class only.
    """
    auc, mae = results["threshold_free"]["auc"], results["ddff"]["mae"]
    if auc is not None and auc < 0.4:
        gain = f"AUC {auc:.3f} would become {1 - auc:.3f}, MAE {mae:.3f} would become {1 - mae:.3f}"
    elif auc is None and mae > 0.6:
        gain = f"MAE {mae:.3f} would become {1 - mae:.3f}"
    else:
        return None
    return f"warning: the inverted maps score far better ({gain}): check --pred_white and --gt_white"


def write_json(path: Path, results: dict, images: Iterable[ImageScores]) -> None:
    """Write the set's numbers with the per-image values under "images", as `compare` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results | {"images": [x.row() for x in images]}, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, images: Sequence[ImageScores]) -> None:
    """Write a row per image; an undefined value is an empty cell."""
    rows = [x.row() for x in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def run(args: argparse.Namespace) -> None:
    """Score the maps of args.pred, print the table, write what was asked for."""
    pairs = pair_up(args.pred, args.gt, args.names, args.pred_white, args.gt_white)
    images, resized = score_pairs(pairs)
    results = {"name": args.pred.resolve().name, "resized": resized, **summarize(images)}
    report.print_table(f"{args.pred} against {args.gt}, {len(pairs)} images", [results])
    if resized:
        print(f"{resized} of {len(pairs)} maps had another size than their mask and were resized to it (bilinear)")
    warning = polarity_warning(results)
    if warning:
        print(warning)
        results["warning"] = warning
    if args.json:
        write_json(args.json, results, images)
    if args.csv:
        write_csv(args.csv, images)
