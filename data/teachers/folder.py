"""The teacher `dir:DIR`: a folder of depth maps, one for each photograph."""

import io
import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from PIL import Image

from data.teachers.teacher import Settings, Teacher, digest
from jaxdbd.errors import UserError
from jaxdbd.machine.files import name_key, os_errors_in_one_line, read_bytes, shown, stem_key
from jaxdbd.machine.paths import local_path

DEPTH_SUFFIXES = (".npy", ".png", ".pfm", ".exr")
MOST_DEPTH = 1 << 22  # pixels, choice of ours: the network sees a fortieth of them


def folder_teacher(settings: Settings, folder: Path) -> Teacher:
    """The maps in a folder. Raises UserError where it is missing, or nobody says what larger values mean."""
    if not os.path.isdir(folder):
        raise UserError(f"no folder {shown(folder)}: --teacher=dir:DIR must name a folder of depth maps")
    if settings.polarity is None:
        raise UserError(f"{shown(folder)}: say what larger values mean with --teacher_polarity=near or far")
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    identity = {"name": f"dir:{shown(folder.name)}", "polarity": settings.polarity, "files": digest(sizes)}
    maps = depth_maps(folder)
    return Teacher(
        identity,
        settings.polarity,
        lambda records: [_read_map(folder, maps, record) for record in records],
        slow=False,
        holes=settings.polarity == "far",
    )


def depth_maps(folder: Path) -> dict[tuple[str, str], Path]:
    """The depth maps in a folder and its subfolders, by the `name_key` of the subfolder, or '', and the `stem_key`.

    Of several files of one name, the one whose suffix comes first in DEPTH_SUFFIXES. Raises UserError for a folder that
    cannot be read.
    """
    found: dict[tuple[str, str], Path] = {}
    with os_errors_in_one_line(folder, "this folder cannot be read"):
        entries = sorted(folder.iterdir())
        entries += [path for inner in entries if inner.is_dir() for path in sorted(inner.iterdir())]
    for suffix in DEPTH_SUFFIXES:
        for path in entries:
            if path.suffix.lower() == suffix and (path.is_file() or path.is_symlink()):
                inside = "" if path.parent == folder else name_key(path.parent.name)
                found.setdefault((inside, stem_key(path.name, DEPTH_SUFFIXES)), path)
    return found


def find_map(maps: dict[tuple[str, str], Path], photo: Path) -> Path | None:
    """The depth map of a photograph: same stem, in the folder or in its subfolder named like the photograph's own."""
    key = name_key(photo.stem)
    return maps.get((name_key(photo.parent.name), key)) or maps.get(("", key))


def missing_maps(settings: Settings, photos: Iterable[Path]) -> list[str]:
    """For a folder of depth maps, a line for each photograph that has none there."""
    kind, _, where = settings.spec.partition(":")
    if kind != "dir":
        return []
    maps, wanted = depth_maps(local_path(where)), "/".join(DEPTH_SUFFIXES)
    return [
        f"{shown(photo)}: no depth map {shown(photo.stem)}{wanted} in {where}"
        for photo in photos
        if not find_map(maps, photo)
    ]


def _read_map(folder: Path, maps: dict[tuple[str, str], Path], record: dict) -> Float[np.ndarray, "h w"]:
    photo = record["path"]
    path = find_map(maps, photo)
    if path is None:
        raise UserError(f"{shown(photo)}: no depth map in {shown(folder)}")
    depth = np.squeeze(_decode_map(path, read_bytes(path)))
    if depth.ndim == 3 and (depth == depth[..., :1]).all():
        depth = depth[..., 0]
    if depth.ndim != 2 or depth.dtype.kind not in "buif":
        raise UserError(f"{shown(path)}: {depth.dtype} of shape {depth.shape}, not one channel of depth")
    if "image" in record:
        with Image.open(io.BytesIO(record["image"])) as file:
            width, height = file.size
        if (height, width) == depth.shape[::-1] and height != width:
            raise UserError(
                f"{shown(path)}: {depth.shape[1]}x{depth.shape[0]}, but its photograph is {width}x{height}, turned by "
                "90 degrees: turn the map"
            )
    with np.errstate(over="ignore"):  # infinity is refused by whoever stretches the map
        return thinned(depth).astype(np.float32)


def thinned(depth: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "h2 w2"]:
    """A map of at most MOST_DEPTH pixels or so: every few rows and columns of a larger, as means would mix holes."""
    step = math.ceil((depth.size / MOST_DEPTH) ** 0.5)
    return depth[step // 2 :: step, step // 2 :: step] if step > 1 else depth


def _decode_map(path: Path, content: bytes) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        try:
            return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
            raise UserError(f"{shown(path)}: not a NumPy array ({shown(str(error))[:200]})") from None
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # read when OpenCV meets the first EXR file
    import cv2

    try:
        depth = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    except cv2.error:
        depth = None
    if depth is None:
        raise UserError(f"{shown(path)}: OpenCV cannot read it; save the depth as .npy")
    return depth
