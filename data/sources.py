"""Where each benchmark keeps its files, which colour it gives to blur, how it is split, and what is wrong with a copy.

To add a benchmark, add an entry to `SOURCES`; everything else follows from it.
"""

import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from jaxdbd.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
EXIF_ORIENTATION = 274


@dataclasses.dataclass(frozen=True)
class Source:
    """One benchmark as it is passed around.

    `folders` maps a split to its folders of photographs and of masks, below the raw folder or below `root` in it.
    `white` says what a mask draws white. With a `test_list` (file names, one a line) the one split in `folders` is cut
    in two. `count` is what was published, and only a difference worth a warning.
    """

    title: str
    folders: dict[str, tuple[str, str]]
    white: str
    count: dict[str, int]
    root: str = ""
    skip: str | None = None  # file names to pass over, as a glob
    test_list: Path | None = None


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
        title="DUT-DBD (Zhao, Zhao, Wang, Lu, CVPR 2018; training part of 2019)",
        folders={"train": ("DUT600S_Training", "DUT600GT_Training"), "test": ("image", "gt")},
        white="focus",
        count={"train": 600, "test": 500},
        root="DUT-DBD_Dataset",
    ),
    "ctcug": Source(
        title="CTCUG (Tang et al., TPAMI 2022)",
        folders={"test": ("CTCUG_images", "CTCUG_gt")},
        white="blur",
        count={"test": 150},
    ),
    "ebd": Source(
        title="EBD (Jin, Qian, Xu et al., 2023)",
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


@dataclasses.dataclass(frozen=True)
class Pair:
    """One photograph and its mask. `white` is what the mask file draws white, `blur` or `focus`."""

    id: str
    image: Path
    mask: Path
    white: str


def customise(
    source: Source,
    images: str | None = None,
    masks: str | None = None,
    gt_white: str | None = None,
    test_list: Path | None = None,
) -> Source:
    """The source with the user's own folder names, polarity and list of test names in place of the published ones.

    Args:
        source: the table's entry.
        images: folders of photographs, comma separated, one per split of `source.folders` and in its order.
        masks: the same for masks.
        gt_white: what the masks draw white.
        test_list: text file, one file name a line.

    Returns:
        A copy of `source`.

    Raises:
        UserError: the number of folders is not the number of splits, or the polarity is still unknown.
    """
    folders = dict(source.folders)
    for which, given in enumerate((images, masks)):
        if given is None:
            continue
        names = given.split(",")
        if len(names) != len(folders):
            flag = "--images" if which == 0 else "--masks"
            raise UserError(f"{flag}={given}: give {len(folders)} folder(s), for {', '.join(folders)}")
        for split, name in zip(folders, names, strict=True):
            folders[split] = (name, folders[split][1]) if which == 0 else (folders[split][0], name)
    white = gt_white or source.white
    if not white:
        raise UserError(f"{source.title}: say what its masks draw white with --gt_white=blur or --gt_white=focus")
    return dataclasses.replace(source, folders=folders, white=white, test_list=test_list or source.test_list)


def find_pairs(source: Source, manual_dir: Path) -> tuple[dict[str, list[Pair]], list[str]]:
    """Lists the photographs of each split with their masks, matched by stem, letter case aside.

    Returns:
        `{split: pairs sorted by id}`, and every problem found, a line each. Pairs with a problem are left out.

    Raises:
        UserError: a folder or the test list is missing, so that there is nothing to list.
    """
    if not manual_dir.is_dir():
        raise UserError(f"no folder {manual_dir}: --manual_dir must name the folder of {source.title}")
    splits, problems = {}, []
    for split, (images, masks) in source.folders.items():
        pairs, found = _match(source, _locate(source, manual_dir, images), _locate(source, manual_dir, masks))
        splits[split] = pairs
        problems += found
    if source.test_list is not None:
        listed = _read_names(source.test_list)
        pairs = splits["train"]
        named = {pair.id.casefold() for pair in pairs}
        troubled = "\n".join(problems).casefold()
        problems += [
            f"{name}: in the test list {source.test_list.name}, but there is no such photograph"
            for key, name in listed.items()
            if key not in named and f"{key}." not in troubled
        ]
        splits = {
            "train": [pair for pair in pairs if pair.id.casefold() not in listed],
            "test": [pair for pair in pairs if pair.id.casefold() in listed],
        }
    splits = {split: pairs for split, pairs in splits.items() if pairs}
    if not splits and not problems:
        raise UserError(f"no photographs in {manual_dir}: expected {source.folders}")
    return splits, problems


def _locate(source: Source, manual_dir: Path, name: str) -> Path:
    for folder in (manual_dir / name, manual_dir / source.root / name):
        if folder.is_dir():
            return folder
    raise UserError(f"no folder {manual_dir / name}: if yours has another name, give it with --images or --masks")


def _match(source: Source, images: Path, masks: Path) -> tuple[list[Pair], list[str]]:
    problems = []
    photos, found = _by_stem(images, source.skip)
    problems += found
    labels, found = _by_stem(masks, source.skip)
    problems += found
    problems += [f"{photos[key]}: no mask {photos[key].stem}.* in {masks}" for key in sorted(photos.keys() - labels)]
    problems += [
        f"{labels[key]}: no photograph {labels[key].stem}.* in {images}" for key in sorted(labels.keys() - photos)
    ]
    both = sorted(photos.keys() & labels.keys())
    return [Pair(photos[key].stem, photos[key], labels[key], source.white) for key in both], problems


def _by_stem(folder: Path, skip: str | None) -> tuple[dict[str, Path], list[str]]:
    files, problems = {}, []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or (skip and path.match(skip)):
            continue
        key = path.stem.casefold()
        if key in files:
            problems.append(f"{path}: same name as {files[key].name}; keep one of them")
        files.setdefault(key, path)
    return files, problems


def _read_names(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError(f"no list of names {path}: give a text file with one photograph's name a line")
    names = [line.strip() for line in path.read_text().splitlines()]
    return {Path(name).stem.casefold(): name for name in names if name}


def load(pair: Pair) -> dict:
    """Reads one pair into a record of the dataset.

    Returns:
        `id`; `image`, encoded bytes, the file's own where they hold an upright 8-bit RGB JPEG or PNG and else a
        lossless PNG of it; `mask`, PNG bytes of one 8-bit channel, 255 = in focus; `key`, the SHA-256 of the
        photograph's file in hex.
    """
    encoded = pair.image.read_bytes()
    with Image.open(io.BytesIO(encoded)) as file:
        upright = file.getexif().get(EXIF_ORIENTATION, 1) == 1
        deep = file.format == "PNG" and encoded[24] == 16  # bits per channel, in the header
        as_is = file.format in ("JPEG", "PNG") and file.mode == "RGB" and upright and not deep
        image = encoded if as_is else _png(_to_rgb(file))
    return {
        "id": pair.id,
        "image": image,
        "mask": _png(Image.fromarray(read_mask(pair).astype(np.uint8) * 255)),
        "key": hashlib.sha256(encoded).hexdigest(),
    }


def read_mask(pair: Pair) -> Bool[np.ndarray, "h w"]:
    """The mask of a pair, true = in focus."""
    with Image.open(pair.mask) as file:
        white = _to_grey(file) > 127
    return white if pair.white == "focus" else ~white


def _to_rgb(file: Image.Image) -> Image.Image:
    """Upright, 8-bit, three channels; transparency is dropped."""
    image = ImageOps.exif_transpose(file)
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_grey(image))
    return image.convert("RGB")


def _to_grey(file: Image.Image) -> UInt8[np.ndarray, "h w"]:
    if file.mode.startswith("I"):  # Pillow's own conversion of 16 bits clips at 255
        return (np.asarray(file).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
    return np.asarray(file.convert("L"))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
