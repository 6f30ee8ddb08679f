"""The photographs of a data set, found by name, matched with their masks and cut into splits; none is opened."""

import itertools
import os
import re
from collections.abc import Iterable, Set
from pathlib import Path
from typing import TypeVar

from data.sources import PAIRS, REFOCUSED, Pair, Source
from jaxdbd.errors import UserError
from jaxdbd.machine.files import files_by_stem, is_utf8, read_names, shown, shown_apart
from jaxdbd.photographs.photos import SUFFIXES, warn_of_passed_over

Found = TypeVar("Found")


def find_pairs(source: Source, manual_dir: Path) -> tuple[dict[str, list[Pair]], list[str]]:
    """Lists the photographs of each split with their masks, matched by stem, letter case aside.

    Returns:
        `{split: pairs sorted by id}`, and every problem found, a line each. Pairs with a problem are left out.

    Raises:
        UserError: a folder or a list is missing, or there are no photographs at all.
    """
    if not os.path.isdir(manual_dir):
        raise UserError(f"no folder {shown(manual_dir)}: --manual_dir must name the folder of {source.title}")
    splits, problems = {}, []
    for split, (images, labels_of) in source.folders.items():
        (photos, twice), (labels, twice_too) = (
            files_by_stem(_locate(source, manual_dir, name), SUFFIXES, source.skip) for name in (images, labels_of)
        )
        problems += _names_twice(twice + twice_too)
        lone = [photos[key] for key in sorted(photos.keys() - labels)]
        problems += [f"{shown(path)}: no mask of that name in {shown(labels_of)}/" for path in lone]
        lone = [labels[key] for key in sorted(labels.keys() - photos)]
        problems += [f"{shown(path)}: no photograph of that name in {shown(images)}/" for path in lone]
        both = sorted(photos.keys() & labels.keys())
        problems += _names_not_text(photos[key] for key in both)
        both = [key for key in both if is_utf8(photos[key].name)]
        splits[split] = {key: Pair(photos[key].stem, photos[key], labels[key], source.white) for key in both}
        if split == "train" and source.test_list is not None:
            known = photos.keys() | labels.keys()  # of a pair, one of the two alone is named above
            splits, found = _split(splits["train"], known, source.test_list, source.train_list, f"{images}/")
            problems += found
    found_pairs = {split: list(pairs.values()) for split, pairs in splits.items() if pairs}
    if not found_pairs and not problems:
        raise UserError(f"no photographs in {manual_dir}: expected them in {source.folders}")
    return found_pairs, problems


def find_photographs(
    folder: Path, test_list: Path | None = None, train_list: Path | None = None, maps: Path | None = None
) -> tuple[dict[str, list[Pair]], list[str]]:
    """Lists the photographs that lie in a folder, without masks, split by lists of names as `find_pairs` does it.

    With a folder of `maps`, those of the same stem are their `sharp` maps; it is a problem if there are none at all.

    Returns:
        `{split: pairs sorted by id}`, without `test` where there is no test list, and every problem found, a line each.

    Raises:
        UserError: a folder or a list is missing, or there are no photographs at all.
    """
    photos, problems = _photographs(folder, REFOCUSED)
    sharp, twice = files_by_stem(maps, SUFFIXES) if maps else ({}, [])
    problems += _names_twice(twice)
    everything = {key: Pair(path.stem, path, None, REFOCUSED.white, sharp.get(key)) for key, path in photos.items()}
    splits, found = _split(everything, photos.keys(), test_list, train_list, str(folder))
    chosen = {split: list(pairs.values()) for split, pairs in splits.items() if pairs}
    if maps and not any(pair.sharp for pairs in chosen.values() for pair in pairs):
        problems.append(f"{shown(maps)}: no map has the name of a photograph")
    return chosen, problems + found


def find_scenes(
    folder: Path, test_list: Path | None = None, train_list: Path | None = None
) -> tuple[dict[str, list[Pair]], list[str]]:
    """Lists photographs NAME_1, NAME_2, ... of one scene each, for focus masks that come of comparing them.

    Args:
        folder: folder with the photographs; those below it are passed over.
        test_list: text file of the scenes to test on, one NAME a line.
        train_list: the same for those to train on; without it, all others.

    Returns:
        `{split: photographs in the order of scenes and of their numbers}`, without `test` where there is no test list,
        and every problem found, a line each.

    Raises:
        UserError: a folder or a list is missing, or there are no photographs at all.
    """
    photos, problems = _photographs(folder, PAIRS)
    scenes: dict[str, dict[int, Pair]] = {}
    for key, path in photos.items():
        parts = scene_and_number(key)
        if parts is None:
            problems.append(f"{shown(path)}: its name has no number; photographs of a scene are NAME_1, NAME_2, ...")
            continue
        scene = scenes.setdefault(parts[0], {})
        if parts[1] in scene:
            problems.append(f"{shown(path)}: same number as {shown(scene[parts[1]].image.name)}; keep one of them")
        scene[parts[1]] = Pair(path.stem, path, None, PAIRS.white)
    ordered = {name: [scene[number] for number in sorted(scene)] for name, scene in sorted(scenes.items())}
    splits, found = _split(ordered, ordered.keys(), test_list, train_list, str(folder))
    chosen = {split: list(found.values()) for split, found in splits.items() if found}
    lone = [scene[0].image for found in chosen.values() for scene in found if len(scene) < 2]
    problems += [f"{shown(path)}: the only photograph of its scene; two or more are compared" for path in lone]
    return {split: list(itertools.chain(*found)) for split, found in chosen.items()}, problems + found


def scene_and_number(stem: str) -> tuple[str, int] | None:
    """`NAME_2` taken apart; None for another name."""
    found = re.fullmatch(r"(.+)_([0-9]+)", stem)
    return (found[1], int(found[2])) if found else None


def _photographs(folder: Path, source: Source) -> tuple[dict[str, Path], list[str]]:
    """The photographs in a folder in the order of their stems, and what is wrong with their names."""
    if not os.path.isdir(folder):
        raise UserError(f"no folder {shown(folder)}: --manual_dir must name the folder of {source.title}")
    warn_of_passed_over(folder)
    photos, twice = files_by_stem(folder, SUFFIXES)
    if not photos:
        raise UserError(
            f"no photographs in {shown(folder)}: they must lie in it directly, as {'/'.join(sorted(SUFFIXES))}"
        )
    usable = {key: photos[key] for key in sorted(photos) if is_utf8(photos[key].name)}
    return usable, _names_twice(twice) + _names_not_text(photos.values())


def _names_twice(twice: list[tuple[Path, Path]]) -> list[str]:
    problems = []
    for other, path in twice:
        name, name_too = shown_apart(path.name, other.name)
        problems.append(f"{shown(path.parent)}/{name}: same name as {name_too}; keep one of them")
    return problems


def _names_not_text(paths: Iterable[Path]) -> list[str]:
    return [f"{shown(path)}: its name is not UTF-8; rename it" for path in paths if not is_utf8(path.name)]


def _split(
    pairs: dict[str, Found], known: Set[str], test_list: Path | None, train_list: Path | None, where: str
) -> tuple[dict[str, dict[str, Found]], list[str]]:
    """Splits what was found into train and test, by name. Names in both lists, or not `known`, are problems."""
    given = {"test": test_list, "train": train_list}
    lists = {which: read_names(path, SUFFIXES) for which, path in given.items() if path is not None}
    test = lists.get("test", {})
    twice = sorted(lists.get("train", {}).keys() & test)
    problems = [f"{shown(test[key])}: in both {train_list} and {test_list}" for key in twice]
    problems += [
        f"{shown(name)}: in the {which} list, but there is no photograph of that name in {shown(where)}"
        for which, names in lists.items()
        for key, name in names.items()
        if key not in known
    ]
    train = lists.get("train", pairs.keys() - test.keys())
    return {
        "train": {key: pair for key, pair in pairs.items() if key in train},
        "test": {key: pair for key, pair in pairs.items() if key in test},
    }, problems


def _locate(source: Source, manual_dir: Path, name: str) -> Path:
    for folder in (manual_dir / name, manual_dir / source.root / name):
        if os.path.isdir(folder):
            warn_of_passed_over(folder)
            return folder
    raise UserError(
        f"no folder {shown(manual_dir / name)}: if yours has another name, give it with --images or --masks"
    )
