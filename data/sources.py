"""Where each benchmark keeps its files, which color it gives to blur, and how it is split; photographs and masks read.

To add a benchmark, add an entry to `SOURCES`; everything else follows from it.
"""

import dataclasses
import hashlib
import io
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Bool
from PIL import Image

from jaxdbd.errors import UserError
from jaxdbd.machine.files import read_bytes
from jaxdbd.machine.parallel import in_turn
from jaxdbd.machine.paths import local_path
from jaxdbd.photographs import masks
from jaxdbd.photographs.decoding import opened
from jaxdbd.photographs.photos import conversion, upright_rgb


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
# Nor these, which pairs.py compares.
PAIRS = Source(title="photographs of one scene, focused at different distances", folders={}, white="focus", count={})


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
        names = [str(local_path(name)) for name in given.split(",")]
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


def load(pair: Pair) -> dict:
    """Reads one pair into a record of the dataset.

    Returns:
        `id`; `path` of the photograph; `image`, encoded bytes, the file's own where they hold an upright 8-bit RGB
        JPEG or PNG and else a lossless PNG of it; `mask`, PNG bytes of one 8-bit channel, 255 = in focus; `key`, the
        SHA-256 of the photograph's file in hex.
    """
    return {"id": pair.id, "mask": mask_png(read_mask(pair))} | load_photograph(pair.image)


def load_photograph(path: Path) -> dict:
    """Reads a photograph: `path`, `image` and `key` of a record, as `load` describes them."""
    encoded = read_bytes(path)
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


def mask_png(mask: Bool[np.ndarray, "h w"]) -> bytes:
    """A PNG file of a mask, 255 where it is true."""
    return png(Image.fromarray(mask.astype(np.uint8) * 255))
