"""Where each benchmark keeps its files, which color it gives to blur, how it is split, and what is wrong with a copy.

To add a benchmark, add an entry to `SOURCES`; everything else follows from it.
"""

import dataclasses
import hashlib
import io
import os
from collections.abc import Iterable, Set
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Bool
from PIL import Image

from jaxdbd.errors import UserError
from jaxdbd.machine.files import files_by_stem, is_utf8, os_errors_in_one_line, read_names, shown, shown_apart
from jaxdbd.machine.parallel import in_turn
from jaxdbd.photographs import masks
from jaxdbd.photographs.decoding import opened
from jaxdbd.photographs.photos import SUFFIXES, conversion, upright_rgb


@dataclasses.dataclass(frozen=True)
class Source:
    """One benchmark as it is passed around.

    `folders` maps a split to its folders of photographs and of masks, below the raw folder or below `root` in it.
    `white` says what a mask draws white. With a `test_list` (file names, one a line) the one split in `folders` is cut
    in two, and with a `train_list` too, names in neither list are left out. `count` is what was published; another
    count is worth a warning.
    """

    title: str
    folders: dict[str, tuple[str, str]]
    white: str
    count: dict[str, int]
    root: str = ""
    skip: str | None = None  # file names to pass over, as a glob
    test_list: Path | None = None
    train_list: Path | None = None


SOURCES = {
    "cuhk": Source(
        title="CUHK blur detection, defocus part (Shi, Xu, Jia, CVPR 2014)",
        folders={"train": ("image", "gt")},
        white="blur",
        count={"train": 604, "test": 100},
        skip="motion*",
        test_list=Path(__file__).with_name("cuhk_test.txt"),
    ),
    "dut": Source(
        title="DUT-DBD (Zhao, Zhao, Wang, Lu, CVPR 2018 and TPAMI 2020)",
        folders={"train": ("DUT600S_Training", "DUT600GT_Training"), "test": ("image", "gt")},
        white="focus",
        count={"train": 600, "test": 500},
        root="DUT-DBD_Dataset",
    ),
    "ctcug": Source(
        title="CTCUG (Tang, Liu, Zheng et al., TPAMI 2022)",
        folders={"test": ("CTCUG_images", "CTCUG_gt")},
        white="blur",
        count={"test": 150},
    ),
    "ebd": Source(
        title="EBD (Jin, Qian, Xiong, Xue, Xia, ICME 2023)",
        folders={"test": ("image", "gt")},
        white="focus",
        count={"test": 1605},
    ),
    "szu": Source(
        title="SZU-BD, defocus part",
        folders={"test": ("img/out-of-focus", "gt")},
        white="blur",
        count={"test": 709},
    ),
    "folder": Source(
        title="a folder of photographs and masks",
        folders={"train": ("image", "gt")},
        white="",  # --gt_white says
        count={},
    ),
}

# No benchmark: photographs without masks, from which refocus.py renders.
REFOCUSED = Source(title="sharp photographs, refocused through their depth", folders={}, white="focus", count={})


@dataclasses.dataclass(frozen=True)
class Pair:
    """One photograph and its mask. `white` is what the mask file draws white, `blur` or `focus`.

    A photograph that a renderer will refocus comes without a mask, and perhaps with a `sharp` map: how likely each
    pixel is in focus before, 255 = surely.
    """

    id: str
    image: Path
    mask: Path | None
    white: str
    sharp: Path | None = None


def customise(
    source: Source,
    images: str | None = None,
    masks: str | None = None,
    gt_white: str | None = None,
    test_list: Path | None = None,
    train_list: Path | None = None,
) -> Source:
    """The source with the user's own folder names, polarity and lists of names in place of the published ones.

    Args:
        source: the table's entry.
        images: folders of photographs, comma separated, one per split of `source.folders` and in its order.
        masks: the same for masks.
        gt_white: what the masks draw white, `blur` or `focus`.
        test_list: text file of the photographs to test on, one file name a line.
        train_list: the same for those to train on; only together with a test list.

    Returns:
        A copy of `source`.

    Raises:
        UserError: the number of folders is not the number of splits, or the polarity is still unknown.
    """
    folders = dict(source.folders)
    for which, (flag, given) in enumerate({"--images": images, "--masks": masks}.items()):
        if given is None:
            continue
        names = given.split(",")
        if len(names) != len(folders):
            raise UserError(f"{flag}={given}: give {len(folders)} folder(s), for {', '.join(folders)}")
        for split, name in zip(folders, names, strict=True):
            photographs, labels = folders[split]
            folders[split] = (name, labels) if which == 0 else (photographs, name)
    white = gt_white or source.white
    if not white:
        raise UserError(f"{source.title}: say what its masks draw white with --gt_white=blur or --gt_white=focus")
    test_list = test_list or source.test_list
    if (test_list or train_list) and "train" not in folders:
        raise UserError(f"{source.title} has a test split only: leave --test_list and --train_list out")
    if train_list and not test_list:
        raise UserError("--train_list: give --test_list too")
    return dataclasses.replace(source, folders=folders, white=white, test_list=test_list, train_list=train_list)


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
    if not os.path.isdir(folder):
        raise UserError(f"no folder {shown(folder)}: --manual_dir must name the folder of {REFOCUSED.title}")
    photos, twice = files_by_stem(folder, SUFFIXES)
    problems = _names_twice(twice) + _names_not_text(photos.values())
    if not photos:
        raise UserError(
            f"no photographs in {shown(folder)}: they must lie in it directly, as {'/'.join(sorted(SUFFIXES))}"
        )
    usable = [key for key in sorted(photos) if is_utf8(photos[key].name)]
    sharp, twice = files_by_stem(maps, SUFFIXES) if maps else ({}, [])
    problems += _names_twice(twice)
    everything = {key: Pair(photos[key].stem, photos[key], None, REFOCUSED.white, sharp.get(key)) for key in usable}
    splits, found = _split(everything, photos.keys(), test_list, train_list, str(folder))
    chosen = {split: list(pairs.values()) for split, pairs in splits.items() if pairs}
    if maps and not any(pair.sharp for pairs in chosen.values() for pair in pairs):
        problems.append(f"{shown(maps)}: no map has the name of a photograph")
    return chosen, problems + found


def _names_twice(twice: list[tuple[Path, Path]]) -> list[str]:
    problems = []
    for other, path in twice:
        name, name_too = shown_apart(path.name, other.name)
        problems.append(f"{shown(path.parent)}/{name}: same name as {name_too}; keep one of them")
    return problems


def _names_not_text(paths: Iterable[Path]) -> list[str]:
    return [f"{shown(path)}: its name is not UTF-8; rename it" for path in paths if not is_utf8(path.name)]


def _split(
    pairs: dict[str, Pair], known: Set[str], test_list: Path | None, train_list: Path | None, where: str
) -> tuple[dict[str, dict[str, Pair]], list[str]]:
    """Cuts pairs into train and test; names in a list that are not `known`, or are in both lists, are problems."""
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
            return folder
    raise UserError(
        f"no folder {shown(manual_dir / name)}: if yours has another name, give it with --images or --masks"
    )


def load(pair: Pair) -> dict:
    """Reads one pair into a record of the dataset.

    Returns:
        `id`; `path` of the photograph; `image`, encoded bytes, the file's own where they hold an upright 8-bit RGB
        JPEG or PNG and else a lossless PNG of it; `mask`, PNG bytes of one 8-bit channel, 255 = in focus; `key`, the
        SHA-256 of the photograph's file in hex.
    """
    mask = png(Image.fromarray(read_mask(pair).astype(np.uint8) * 255))
    return {"id": pair.id, "mask": mask} | load_photograph(pair.image)


def load_photograph(path: Path) -> dict:
    """Reads a photograph: `path`, `image` and `key` of a record, as `load` describes them."""
    with os_errors_in_one_line(path, "cannot be read"):
        encoded = path.read_bytes()
    with opened(path, encoded) as picture, in_turn(picture.width * picture.height):
        kept = conversion(path, picture) is None
        image = encoded if kept else png(upright_rgb(path, picture, encoded)[0])
    return {"path": path, "image": image, "key": hashlib.sha256(encoded).hexdigest()}


def read_mask(pair: Pair) -> Bool[np.ndarray, "h w"]:
    """The mask of a pair that has one, true = in focus. Gray values count as white above 127.

    Raises UserError for what is no mask.
    """
    white = masks.read_mask(cast(Path, pair.mask)) > 127
    return white if pair.white == "focus" else ~white


def png(image: Image.Image) -> bytes:
    """A PNG file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
