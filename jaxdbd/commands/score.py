"""`jaxdbd score`: any method's maps against masks, from two folders, under every protocol."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from jaxdbd.errors import UserError
from jaxdbd.files import files_by_stem, read_names
from jaxdbd.parallel import parallel_map
from jaxdbd.paths import as_path, local_path
from jaxdbd.photos import SUFFIXES
from jaxdbd.scoring import report
from jaxdbd.scoring.metrics import ImageScores, polarity_warning, summarize
from jaxdbd.scoring.structure import score_image

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
    parser.add_argument("--pred", type=local_path, required=True, help="folder of 8-bit maps")
    parser.add_argument("--gt", type=local_path, required=True, help="folder of masks; stems match those of the maps")
    parser.add_argument("--gt_white", choices=("blur", "focus"), required=True, help="what white means in the masks")
    parser.add_argument("--pred_white", choices=("blur", "focus"), default="focus", help="... in the maps (focus)")
    parser.add_argument(
        "--names", type=local_path, help="text file with the images to score, one name a line (all masks)"
    )
    parser.add_argument("--json", type=as_path, help="write the numbers here, for `jaxdbd compare`")
    parser.add_argument("--csv", type=as_path, help="write the per-image values here")


def images_by_stem(folder: Path) -> dict[str, Path]:
    """The folder's images by lower-case stem. Raises UserError for a missing folder and for two files of one stem."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    found, twice = files_by_stem(folder, SUFFIXES)
    for first, second in twice:
        raise UserError(f"{folder} holds {first.name} and {second.name}: stems must differ, remove one")
    if not found:
        raise UserError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return found


def pair_up(pred: Path, gt: Path, names: Path | None, pred_white: str, gt_white: str) -> list[Pair]:
    """A pair for every mask (or every name). Raises UserError that lists the masks and maps not found."""
    maps, masks = images_by_stem(pred), images_by_stem(gt)
    stems = list(read_names(names, SUFFIXES)) if names else sorted(masks)
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


def resize(focus: UInt8[np.ndarray, "h w"], shape: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2"]:
    """Bilinear resize of a map to a mask's (height, width), with antialiasing when it shrinks."""
    if focus.shape == shape:
        return focus
    height, width = shape
    return np.asarray(Image.fromarray(focus).resize((width, height), Image.Resampling.BILINEAR))


def score_pair(pair: Pair) -> tuple[ImageScores, bool]:
    """The scores of one pair, and whether the map had to be resized to its mask."""
    focus, mask = read_focus(pair.pred, pair.pred_white), read_focus(pair.gt, pair.gt_white)
    return score_image(pair.stem, resize(focus, mask.shape), mask), focus.shape != mask.shape


def score_pairs(pairs: Sequence[Pair]) -> tuple[list[ImageScores], int]:
    """The scores of all pairs in their order, and how many maps were resized."""
    results = list(parallel_map(score_pair, pairs, "scoring"))
    return [scores for scores, _ in results], sum(resized for _, resized in results)


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
        report.write_json(args.json, results, images)
    if args.csv:
        report.write_csv(args.csv, images)
