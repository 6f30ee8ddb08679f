"""What a dataset is built from: the pairs or scenes of its splits, found but not yet opened."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from data import finding, sources, synthetic, teachers, textures
from jaxdbd.errors import UserError
from jaxdbd.photographs.photos import warn_of_passed_over


class Plan(NamedTuple):
    """What a dataset is built from."""

    splits: dict[str, list[Any]]  # scenes or pairs
    load: Callable[[Any], dict]  # one of those to a record
    source: sources.Source | None  # None: the scenes are drawn, there are no files to check
    problems: list[str]  # known so far, a line each
    raw: dict  # what the metadata says of them


def make_plan(args: argparse.Namespace, settings: teachers.Settings) -> Plan:
    """What to build from, and every problem that can be told before a file is opened."""
    if args.dataset == "synthetic":
        splits, raw = scenes(args)
        return Plan(splits, synthetic.load, None, [], raw)
    source, splits, problems, raw = pairs(args)
    problems += teachers.missing_maps(settings, (p.image for split in splits.values() for p in split))
    return Plan(splits, sources.load, source, problems, raw)


def pairs(args: argparse.Namespace) -> tuple[sources.Source, dict[str, list[sources.Pair]], list[str], dict]:
    """The source, the pairs of each split, the problems met so far, and what the metadata says of the raw files."""
    if args.manual_dir is None:
        raise UserError(f"--dataset={args.dataset} needs --manual_dir=DIR, the folder with its files")
    if args.dataset == "refocused":
        source = sources.REFOCUSED
        splits, problems = finding.find_photographs(args.manual_dir, args.test_list, args.train_list, args.sharp_maps)
        extra = {"renderings": args.renderings, "seed": args.seed} | _digests(splits)
    elif args.dataset == "pairs":
        source = sources.PAIRS
        splits, problems = finding.find_scenes(args.manual_dir, args.test_list, args.train_list)
        extra = _digests(splits)
    else:
        source = sources.customise(
            sources.SOURCES[args.dataset], args.images, args.masks, args.gt_white, args.test_list, args.train_list
        )
        splits, problems = finding.find_pairs(source, args.manual_dir)
        extra = {"masks_white": source.white}
    sizes = [
        [split, p.id, *(_size_of(path) for path in (p.image, p.mask, p.sharp) if path)]
        for split, found in splits.items()
        for p in found
    ]
    raw = {
        "title": source.title,
        **extra,
        "files": teachers.digest({"sizes": sizes}),
        "drop_duplicates": args.drop_duplicates,
    }
    return source, splits, problems, raw


def _digests(splits: dict[str, list[sources.Pair]]) -> dict[str, str]:
    names = {which: [p.id for p in splits.get(which, [])] for which in ("train", "test")}
    return {f"{which}_list": teachers.digest({"names": found}) for which, found in names.items()}


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # the checks say what is wrong with it


def scenes(args: argparse.Namespace) -> tuple[dict[str, list[synthetic.Scene]], dict]:
    """The scenes of each split, and what the metadata says of them."""
    if args.train_scenes + args.test_scenes == 0:
        raise UserError(f"--train_scenes={args.train_scenes} --test_scenes={args.test_scenes}: no scenes to render")
    if args.textures is not None:
        textures.photographs(args.textures)  # fails here rather than in a worker
        warn_of_passed_over(args.textures, recursive=True)
    splits = synthetic.scenes(args.train_scenes, args.test_scenes, args.size, args.seed, args.textures)
    raw = {"train": args.train_scenes, "test": args.test_scenes, "size": args.size, "seed": args.seed}
    return splits, raw | {"textures": str(args.textures or "")}
