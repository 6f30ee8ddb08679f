"""Photographs as people keep them: found in folders and by patterns, read upright, and a name for each one's map."""

import glob
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxdbd.errors import UserError

HEIF = {".heic", ".heif"}
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"} | HEIF


def find_photographs(
    arguments: Sequence[str], out: Path, endings: Collection[str] = (".png",), recursive: bool = False
) -> dict[Path, Path]:
    """Photographs named by files, folders and patterns, each with the path of its map without the ending `.png`.

    A map is called like its photograph and lies in `out`, under the same subfolder as the photograph in the folder that
    was searched. Photographs that differ in their suffix alone keep it: `a.jpg` and `a.heic` give `a.jpg` and `a.heic`
    here, `a.jpg.png` and `a.heic.png` on disk. Folders give the files with one of SUFFIXES, hidden ones and `out`
    itself left out; files named outright are taken whatever their suffix.

    `endings` are those of all the files that will be written for a photograph. Raises UserError for a path that is not
    there, for no photographs at all, where two photographs would still share a file, and where maps would be written
    into a folder that photographs are read from.
    """
    found: dict[Path, Path] = {}  # photograph -> its path inside `out`
    for argument in arguments:
        # A file whose name has brackets in it is a file first, a pattern second.
        paths = (
            [Path(argument)]
            if Path(argument).exists()
            else [Path(p) for p in sorted(glob.glob(argument, recursive=True))]
        )
        if not paths:
            raise UserError(f"{argument}: no such file or folder")
        for path in paths:
            inside = _search(path, out, recursive) if path.is_dir() else [path]
            found |= {p: p.relative_to(path) if path.is_dir() else Path(p.name) for p in inside if p not in found}
    if not found:
        hint = "" if recursive else "; --recursive looks in subfolders too"
        raise UserError(f"{arguments[0]}: no photographs ({', '.join(sorted(SUFFIXES))}) in it{hint}")

    once = {path.resolve(): path for path in reversed(found)}  # of several names for one file, the first
    found = {path: place for path, place in found.items() if once[path.resolve()] == path}
    shared = Counter(_key(place.with_suffix("")) for place in found.values())
    names = {
        path: out / (place if shared[_key(place.with_suffix(""))] > 1 else place.with_suffix(""))
        for path, place in found.items()
    }
    _check_names(names, endings)
    return names


def _search(folder: Path, out: Path, recursive: bool) -> list[Path]:
    own = out.resolve()
    nested = folder.resolve() in own.parents
    return sorted(
        path
        for path in (folder.rglob("*") if recursive else folder.iterdir())
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (nested and own in path.resolve().parents)
        and path.is_file()
    )


def _key(place: Path) -> str:
    return str(place).casefold()  # as file systems see it that keep no case apart


def _check_names(names: dict[Path, Path], endings: Collection[str]) -> None:
    sources = {path.resolve().parent for path in names}
    taken: dict[str, Path] = {}
    for path, name in names.items():
        if name.parent.resolve() in sources:
            raise UserError(f"--out: {name.parent} holds photographs to be read; give maps a folder of their own")
        for ending in endings:
            other = taken.setdefault(_key(name) + ending, path)
            if other != path:
                raise UserError(f"{other} and {path} would both write {name}{ending}: predict them into two folders")


def read_photograph(path: str | Path) -> Image.Image:
    """The photograph as an RGB picture, turned upright as its EXIF says; of an animation, the first frame.

    Transparent parts are shown over white, 16-bit greys keep their full range. Raises UserError for a file that is not
    a picture, is cut off or broken, or has a pixel count beyond Pillow's limit.
    """
    path = Path(path)
    if path.suffix.lower() in HEIF:
        try:
            import pillow_heif
        except ImportError as error:
            raise UserError(f"{path}: HEIC needs one more package: pip install pillow-heif") from error
        pillow_heif.register_heif_opener()
    try:
        if not path.stat().st_size:
            raise UserError(f"{path}: the file is empty")
        with Image.open(path) as picture:
            return upright_rgb(picture)
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not a picture, or of a kind that Pillow cannot read") from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a broken file can make a decoder raise anything: struct.error, IndexError, ...
        raise UserError(f"{path}: cannot be read as a picture: {' '.join(str(error).split())}") from error


def upright_rgb(picture: Image.Image) -> Image.Image:
    """An opened file as 8-bit RGB, turned as its EXIF says. It changes `picture`: copies cost memory."""
    picture.load()
    ImageOps.exif_transpose(picture, in_place=True)
    return as_rgb(picture)


def as_rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow picture as 8-bit RGB."""
    if picture.mode.startswith("I;16"):
        return _grey(np.asarray(picture).astype(np.float32) / 257)  # 65535 -> 255
    if picture.mode == "I":
        # 16 bits in a 32-bit container, or integers with no set range: then the largest becomes white.
        grey = np.asarray(picture).astype(np.float32)
        return _grey(grey / (257 if grey.max() <= 65535 else grey.max() / 255))
    if picture.mode == "F":
        # Likewise floating point: [0, 1] by custom, or light without an upper end.
        grey = np.nan_to_num(np.asarray(picture), posinf=0, neginf=0)
        return _grey(grey * (255 / max(1.0, float(grey.max()))))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8)).convert("RGB")
