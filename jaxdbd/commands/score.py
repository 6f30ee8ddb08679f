"""`jaxdbd score`: any method's maps against masks, from two folders, under every protocol."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxdbd.errors import UserError
from jaxdbd.machine.files import check_no_folder, files_by_stem, read_names, shown, shown_apart
from jaxdbd.machine.parallel import in_turn, parallel_map
from jaxdbd.machine.paths import as_path, local_path
from jaxdbd.photographs.decoding import Undecodable
from jaxdbd.photographs.masks import read_map, read_mask
from jaxdbd.photographs.photos import SUFFIXES, warn_of_passed_over
from jaxdbd.scoring import report
from jaxdbd.scoring.metrics import ImageScores, polarity_warning, summarize
from jaxdbd.scoring.structure import MOST_PIXELS, score_image

SQUARE = 0.05  # choice of ours: closer to 0, log(width / height) does not tell how a photograph lies


@dataclass(frozen=True)
class Pair:
    """One photograph's map and mask on disk, and what white means in each ("blur" or "focus")."""

    stem: str
    pred: Path
    gt: Path
    pred_white: str
    gt_white: str


class PairScores(NamedTuple):
    """What one pair gives."""

    scores: ImageScores
    resized: bool  # whether the map had to be resized to its mask
    uniform: bool  # whether the mask has one value
    map_largest: int
    reduced: bool  # whether its structure measures are of a smaller map


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
    parser.add_argument(
        "--allow_uniform_masks", action="store_true", help="score though no mask has both focus and blur"
    )


def images_by_stem(folder: Path) -> dict[str, Path]:
    """The folder's images by `stem_key`. Raises UserError for a missing folder and for two files of one stem."""
    if not os.path.isdir(folder):
        raise UserError(f"{shown(folder)} is not a folder")
    warn_of_passed_over(folder)
    found, twice = files_by_stem(folder, SUFFIXES)
    for first, second in twice:
        one, two = shown_apart(first.name, second.name)
        raise UserError(f"{shown(folder)} holds {one} and {two}: stems must differ, remove one")
    if not found:
        raise UserError(f"{shown(folder)} holds no images ({', '.join(sorted(SUFFIXES))})")
    return found


def pair_up(pred: Path, gt: Path, names: Path | None, pred_white: str, gt_white: str) -> list[Pair]:
    """A pair for every mask (or every name). Raises UserError that lists the masks and maps not found."""
    maps, masks = images_by_stem(pred), images_by_stem(gt)
    stems = list(read_names(names, SUFFIXES)) if names else sorted(masks)
    for kind, folder, found in (("mask", gt, masks), ("map", pred, maps)):
        missing = [stem for stem in stems if stem not in found]
        if missing:
            listing = ", ".join(map(shown, missing[:10])) + (", ..." if len(missing) > 10 else "")
            hint = "" if names else "; --names=FILE scores a part of the masks"
            raise UserError(f"{shown(folder)} has no {kind} for {len(missing)} of {len(stems)} images: {listing}{hint}")
    return [Pair(masks[s].stem, maps[s], masks[s], pred_white, gt_white) for s in stems]


def read_focus(path: Path, white: str, is_mask: bool = False) -> UInt8[np.ndarray, "h w"]:
    """A map, or a mask, with 255 = in focus. Raises UserError for what is none, and for damaged files."""
    try:
        gray = read_mask(path) if is_mask else read_map(path)
    except Undecodable as error:
        raise UserError(f"{shown(path)} cannot be read as an image: {error.reason}") from error
    if white == "blur":
        np.subtract(255, gray, out=gray)
    return gray


def check_turned(pair: Pair, map_shape: tuple[int, ...], mask_shape: tuple[int, ...]) -> None:
    """Raises UserError where a map has the shape of its mask turned by 90 degrees: resizing would squeeze it."""
    map_ratio, mask_ratio = (np.log(shape[1] / shape[0]) for shape in (map_shape, mask_shape))
    if abs(mask_ratio) > SQUARE and abs(map_ratio + mask_ratio) < SQUARE:
        (map_height, map_width), (height, width) = map_shape, mask_shape
        raise UserError(
            f"{shown(pair.pred)}: {map_width}x{map_height}, but its mask is {width}x{height}, turned by 90 degrees: "
            "turn one of them (was the photograph turned by its EXIF tag for one alone?)"
        )


def resize(focus: UInt8[np.ndarray, "h w"], shape: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2"]:
    """Bilinear resize of a map to a mask's (height, width), with antialiasing when it shrinks."""
    if focus.shape == shape:
        return focus
    height, width = shape
    return np.asarray(Image.fromarray(focus).resize((width, height), Image.Resampling.BILINEAR))


def score_pair(pair: Pair) -> PairScores:
    """The scores of one pair."""
    focus, mask = read_focus(pair.pred, pair.pred_white), read_focus(pair.gt, pair.gt_white, is_mask=True)
    check_turned(pair, focus.shape, mask.shape)
    with in_turn(mask.size):
        images = score_image(pair.stem, resize(focus, mask.shape), mask)
    uniform = int(mask.min()) == int(mask.max())
    return PairScores(images, focus.shape != mask.shape, uniform, int(focus.max()), mask.size > MOST_PIXELS)


def _score_or_refuse(pair: Pair) -> PairScores | UserError:
    try:
        return score_pair(pair)
    except UserError as error:
        return UserError(str(error))  # without its cause, which may not pickle


def score_pairs(pairs: Sequence[Pair], allow_uniform_masks: bool = False) -> tuple[list[ImageScores], int]:
    """The scores of all pairs in their order, and how many maps were resized.

    Raises UserError for files that cannot be scored, maps that all hold 0 and 1 alone, and masks of one value each.
    """
    results = list(parallel_map(_score_or_refuse, pairs, "scoring"))
    if refused := [result for result in results if isinstance(result, UserError)]:
        more = f" (and {len(refused) - 1} more of {len(pairs)} pairs cannot be scored)" if len(refused) > 1 else ""
        raise UserError(f"{refused[0]}{more}")
    if all(result.map_largest <= 1 for result in results) and any(result.map_largest for result in results):
        raise UserError(f"{shown(pairs[0].pred.parent)}: no map has a value over 1 of 255: save them with 0..255")
    if all(result.uniform for result in results) and not allow_uniform_masks:
        raise UserError(
            f"{shown(pairs[0].gt.parent)}: no mask has both focus and blur, each is of one value: look at them, and "
            "pass --allow_uniform_masks if that is meant"
        )
    if large := sum(result.reduced for result in results):
        print(f"{large} masks have over {MOST_PIXELS / 1e6:.1f} megapixels: their structure measures are of that many")
    return [result.scores for result in results], sum(result.resized for result in results)


def run(args: argparse.Namespace) -> None:
    """Score the maps of args.pred, print the table, write what was asked for."""
    check_no_folder(args.json, args.csv)
    pairs = pair_up(args.pred, args.gt, args.names, args.pred_white, args.gt_white)
    images, resized = score_pairs(pairs, args.allow_uniform_masks)
    results = {"name": shown(args.pred.resolve().name), "resized": resized, **summarize(images)}
    report.print_table(f"{shown(args.pred)} against {shown(args.gt)}, {len(pairs)} images", [results])
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
