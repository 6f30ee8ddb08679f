"""Photographs as people keep them: found in folders and by patterns, read upright, and a name for each one's map."""

import contextlib
import glob
import os
import sys
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdbd.errors import UserError
from jaxdbd.machine.files import is_photograph_in_folder, name_key, os_error, shown, shown_apart
from jaxdbd.machine.parallel import in_turn
from jaxdbd.photographs.decoding import (
    DARK,
    HEIF,
    RAW,
    decoded,
    is_raw_name,
    largest_of_color,
    opened,
    orientation,
    reduce_decoding,
    strips,
)

SUFFIXES = {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"} | HEIF
# What cameras, desktops and editors leave beside photographs.
COMPANIONS = {".aae", ".db", ".dop", ".ini", ".pp3", ".xmp"}
# Beside RAW: what no reader here knows, and what is as often a document as a photograph.
UNREAD = {".j2c", ".j2k", ".jp2", ".jpf", ".jpx", ".jxl", ".jxr", ".pam", ".pgm", ".pnm", ".ppm", ".psb", ".psd"} | RAW
# A JPEG decoded at less than its size still has this many sides of the network's square. Choice of ours: the map hardly
# changes (docs/performance.md), and the page can take its preview from it.
SPARE = 4


def find_photographs(
    arguments: Sequence[str],
    out: Path,
    endings: Collection[str] = (".png",),
    recursive: bool = False,
    keep_suffix: bool = False,
) -> dict[Path, Path]:
    """Photographs named by files, folders and patterns, each with the path of its map without the ending `.png`.

    A map has its photograph's name and lies in `out`, in the subfolder that the photograph has in the folder searched.
    Photographs that differ in their suffix alone keep it: `a.jpg` and `a.heic` give `a.jpg` and `a.heic` here,
    `a.jpg.png` and `a.heic.png` on disk. Folders give the files with one of SUFFIXES, hidden ones and `out` itself left
    out; patterns also those of other names that hold a picture, and RAW; files named outright are taken whatever their
    name, except COMPANIONS. Links that lead nowhere and folders that may not be read are returned too: whoever reads
    them will say so.

    `endings` are those of all the files that will be written for a photograph; with `keep_suffix` each of them follows
    on its photograph's suffix. Raises UserError for a path that is not there, for no photographs at all, where two
    photographs would still share a file, and where maps would be written into a folder that photographs are read from.
    """
    found: dict[Path, Path] = {}  # photograph -> its path inside `out`
    for argument in arguments:
        for path in _named_by(argument, out):
            inside = _search(path, out, recursive) if path.is_dir() else {path: Path(path.name)}
            found = inside | found
    if not found:
        hint = "" if recursive else "; --recursive looks in subfolders too"
        raise UserError(f"{shown(arguments[0])}: no photographs ({', '.join(sorted(SUFFIXES))}) in it{hint}")

    real = {path: os.path.realpath(path) for path in found}
    once = {real[path]: path for path in reversed(found)}  # of several names for one file, the first
    found = {path: place for path, place in found.items() if once[real[path]] == path}
    shared = Counter(_key(place.with_suffix("")) for place in found.values())
    names = {
        path: out / (place if keep_suffix or shared[_key(place.with_suffix(""))] > 1 else place.with_suffix(""))
        for path, place in found.items()
    }
    _check_names(names, endings)
    return names


def _named_by(argument: str, out: Path) -> list[Path]:
    """The files and folders that an argument names, or that fit it as a pattern."""
    if os.path.lexists(argument):  # a file whose name has brackets in it is a file first, a pattern second
        path = Path(argument)
        return [] if path.suffix.lower() in COMPANIONS else [path]
    fitting = sorted(glob.glob(argument, recursive=True))
    if not fitting:
        try:
            os.stat(argument)
        except FileNotFoundError:
            raise UserError(f"{shown(argument) or 'an empty name'}: no such file or folder") from None
        except OSError as error:
            raise os_error(error, argument, "cannot be read") from error
    own = os.path.realpath(out)
    paths = (Path(path) for path in fitting if os.path.realpath(path) != own)
    return [path for path in paths if path.is_dir() or _may_be_photograph(path)]


def _may_be_photograph(path: Path) -> bool:
    if os.path.exists(path) and not os.path.isfile(path):  # a link that leads nowhere is named by whoever reads it
        return False  # a pipe would be waited for
    if path.suffix.lower() in SUFFIXES or is_raw_name(path):
        return True
    try:
        with opened(path):
            return True
    except UserError:
        return False


def _search(folder: Path, out: Path, recursive: bool) -> dict[Path, Path]:
    """The photographs of a folder with their paths inside it, and the folders that may not be read, in order."""
    own = os.path.realpath(out)
    nested = os.path.realpath(folder) in map(str, Path(own).parents)
    refused: list[Path] = []
    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=lambda error: refused.append(Path(error.filename))):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        if nested and Path(own) in (Path(os.path.realpath(place)), *Path(os.path.realpath(place)).parents):
            folders[:] = []
            continue
        found += [Path(place, name) for name in files]
    found = [path for path in found if is_photograph_in_folder(path, SUFFIXES)]
    return {path: Path(folder.name) if path == folder else path.relative_to(folder) for path in sorted(found + refused)}


def _key(place: Path) -> str:
    return name_key(str(place))  # as a file system sees it that ignores case


def _check_names(names: dict[Path, Path], endings: Collection[str]) -> None:
    sources = {os.path.dirname(os.path.realpath(path)) for path in names}
    taken: dict[str, Path] = {}
    for path, name in names.items():
        if os.path.realpath(name.parent) in sources:
            raise UserError(
                f"--out: {shown(name.parent)} holds photographs to be read; give maps a folder of their own"
            )
        for ending in endings:
            other = taken.setdefault(_key(name) + ending, path)
            if other != path:
                one, two = shown_apart(other, path)
                raise UserError(
                    f"{one} and {two} would both write {shown(name)}{ending}: predict them into two folders"
                )


def warn_of_passed_over(folder: Path, recursive: bool = False) -> None:
    """Warns, in one line, of pictures in a folder that are passed over for their endings: RAW, and others in UNREAD."""
    found: Counter[str] = Counter()
    with contextlib.suppress(OSError):  # who reads the folder says what is wrong with it
        for path in folder.rglob("*") if recursive else folder.iterdir():
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.suffix.lower() in UNREAD and not hidden and path.is_file():
                found[path.suffix.lower()] += 1
    if found:
        listing = ", ".join(f"{count} {suffix}" for suffix, count in sorted(found.items()))
        print(
            f"warning: {shown(folder)}: {found.total()} pictures passed over for their endings ({listing}): "
            "save them as JPEG, PNG or TIFF to have them read",
            file=sys.stderr,
        )


def read_photograph(path: str | Path) -> Image.Image:
    """The photograph as an RGB picture, turned upright as its EXIF says; of an animation, the first frame.

    What the file holds decides, not its suffix. Transparent parts are shown over white, 16-bit grays keep their full
    range. Warns of a photograph that uses only the lower end of its range. Raises UserError for a file that cannot be
    opened, is not a picture or RAW, is cut off or broken, or is larger than `decoding.MOST_PIXELS`.
    """
    with photograph(path) as (picture, remark):
        if remark:
            warnings.warn(remark, stacklevel=2)
        return picture


@contextlib.contextmanager
def photograph(path: str | Path, content: bytes | None = None) -> Iterator[tuple[Image.Image, str]]:
    """Yields what `read_photograph` returns, and what it would warn of, or ''.

    While it lasts no other thread or worker has a large photograph in memory: see `parallel.in_turn`. `content`, if
    given, is what the file holds.
    """
    with opened(path, content) as picture, in_turn(picture.width * picture.height):
        yield upright_rgb(path, picture, content)


@contextlib.contextmanager
def reduced_photograph(
    path: str | Path, side: int, content: bytes | None = None
) -> Iterator[tuple[Image.Image, tuple[int, int], str]]:
    """`photograph`, with its own (height, width), of which a square of `side` pixels or less will be made.

    A JPEG far larger than that is decoded at a half, a quarter or an eighth of its size: resizing would throw the rest
    away. The square, and so the map, differs a little (docs/performance.md).
    """
    with opened(path, content) as picture:
        whole = picture.size
        with in_turn(reduce_decoding(picture, SPARE * side)):
            reduced = picture.size != whole
            turned = reduced and orientation(path, picture) in (5, 6, 7, 8)
            picture, remark = upright_rgb(path, picture, content)
            width, height = (whole[::-1] if turned else whole) if reduced else picture.size
            yield picture, (height, width), remark


def upright_rgb(path: str | Path, picture: Image.Image, content: bytes | None = None) -> tuple[Image.Image, str]:
    """A picture of `decoding.opened` as 8-bit RGB, turned as its EXIF says, and a remark on its range or ''.

    It changes `picture`: copies cost memory.
    """
    picture = decoded(path, picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        gray, largest, white = _gray_to_rgb(picture)
        return gray, _dark(path, largest, white)
    remark = _dark(path, largest_of_color(path, picture, content), 65535.0) if "sixteen_bits" in picture.info else ""
    if picture.has_transparency_data:
        return _over_white(picture), remark
    try:
        return picture if picture.mode == "RGB" else picture.convert("RGB"), remark
    except ValueError as error:
        raise UserError(f"{shown(path)}: its colors are {picture.mode}: save it as RGB") from error


def conversion(path: str | Path, picture: Image.Image) -> str | None:
    """Why a photograph just opened cannot be stored as it is, for training, or None where it can."""
    if orientation(path, picture) != 1:
        return "rotated upright by its EXIF tag"
    if "sixteen_bits" in picture.info:
        return "16 bits reduced to 8"
    if picture.mode != "RGB" or picture.has_transparency_data:
        return f"{picture.mode} turned into RGB"
    return None if picture.format in ("JPEG", "PNG") else f"{picture.format} turned into PNG"


def _over_white(picture: Image.Image) -> Image.Image:
    out = Image.new("RGB", picture.size)
    for top, strip in strips(picture):
        layer = strip.convert("RGBA")
        out.paste(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"), (0, top))
    return out


def _gray_to_rgb(picture: Image.Image) -> tuple[Image.Image, float, float]:
    """Gray of more than 8 bits as RGB; its largest value, and the value that became white."""
    largest = max(float(_finite(strip).max()) for _, strip in strips(picture))
    if picture.mode == "F":
        white = max(1.0, largest)  # usually in [0, 1], or light without an upper end
    elif picture.mode == "I" and largest > 65535:
        white = largest  # integers with no set range
    else:
        white = float(picture.info.get("white", 65535))  # 16 bits, perhaps in a container of 32
    out = Image.new("RGB", picture.size)
    for top, strip in strips(picture):
        values = _finite(strip).clip(0, white)
        values = values * (255 / white) if picture.mode == "F" else values / (white / 255)
        out.paste(Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB"), (0, top))
    return out, largest, 0.0 if picture.mode == "F" else white


def _finite(strip: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(strip).astype(np.float32), posinf=0, neginf=0)


def _dark(path: str | Path, largest: float, white: float) -> str:
    """What to say of a photograph whose largest value is far below white; '' for any other."""
    if not 0 < largest < DARK * white:
        return ""
    return (
        f"{shown(path)}: its largest value is {largest:.0f} of {white:.0f}, so it looks nearly black: "
        "if it holds fewer bits than its file, stretch it (12 bits in 16: times 16)"
    )
