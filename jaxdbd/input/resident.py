"""The photographs that a run trains on, decoded once into padded arrays on the local disk, mapped into memory.

All public data sets of this field together take some 8 GB so, which fits into the memory of an accelerator.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float16, Int, Int32, UInt8
from numpy.lib.format import open_memmap
from tqdm import tqdm

from jaxdbd.input.records import decode_reduced, image_size, name_of, reduced_size
from jaxdbd.input.shards import shards_digest
from jaxdbd.input.views import Canvas
from jaxdbd.machine.files import os_errors_in_one_line
from jaxdbd.machine.parallel import ahead, cores
from jaxdbd.machine.transfer import sole_user

VERSION = 1  # of the arrays on disk; those of another one are made anew
GRID = 256  # cells of a side of depth and blur, choice of ours: teachers give 192 to 384
ON_GRID = ("depth", "blur")
CONTENTS = "contents.json"  # the layout and the ids
OWN = {"image", "mask", "valid", "size"}  # the arrays that are no maps


class Photographs(NamedTuple):
    """Decoded photographs, each in the upper left corner of its place, and what is known of them."""

    ids: Sequence[str]
    image: UInt8[np.ndarray, "n h w 3"]
    mask: UInt8[np.ndarray, "n h w"]  # 255 = in focus
    valid: UInt8[np.ndarray, "n h w"] | None  # 255 where the mask counts; None: everywhere
    size: Int32[np.ndarray, "n 2"]  # height and width of each photograph; the rest is padding
    maps: Mapping[str, Float16[np.ndarray, "n _ _ _"]]  # each of the whole photograph; NaN where not known


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shapes of what is kept of a split's photographs."""

    count: int
    height: int
    width: int
    has_valid: bool
    maps: tuple[tuple[str, tuple[int, ...]], ...]  # name and shape of each map of one photograph

    def arrays(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and dtype of each array of `Photographs`, by the name of its file."""
        n, h, w = self.count, self.height, self.width
        arrays: dict[str, tuple[tuple[int, ...], Any]] = {
            "image": ((n, h, w, 3), np.uint8),
            "mask": ((n, h, w), np.uint8),
            "size": ((n, 2), np.int32),
        }
        if self.has_valid:
            arrays["valid"] = (n, h, w), np.uint8
        return arrays | {name: ((n, *shape), np.float16) for name, shape in self.maps}

    def bytes(self) -> int:
        """Of all arrays together."""
        return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.arrays().values())


def longest_side(size: int) -> int:
    """Pixels of a photograph's longer side that are kept for views of `size`: a quarter of it need not be enlarged."""
    return 2 * size


def decode_canvas(record: dict, side: int, maps: Sequence[str]) -> Canvas:
    """One record of `open_split` as a canvas without padding, at most `side` pixels long, with those `maps` it has.

    Its depth and blur lie on GRID x GRID cells, whatever grid they had, so that all photographs' fit into one array.
    """
    example = decode_reduced(record, side)
    valid = np.full_like(example.mask, 255) if example.valid is None else example.valid
    found = {name: value for name, value in example.features.items() if name in maps}
    if "depth" in maps and example.depth is not None:
        found["depth"] = on_grid(example.depth)
    if "blur" in maps:
        found["blur"] = on_grid(blur_of_mask(example.mask, valid) if example.blur is None else example.blur)
    return _canvas(example.image, example.mask, valid, np.array(example.mask.shape, np.int32), found)


def _canvas(image: Any, mask: Any, valid: Any, size: Any, maps: Any) -> Canvas:
    """A canvas in the host's memory; its type speaks of arrays on a device."""
    return Canvas(image, mask, valid, size, maps)


def on_grid(values: Float16[np.ndarray, "h w"]) -> Float16[np.ndarray, "g g 1"]:
    """A map of a photograph resampled to GRID x GRID cells; what lies beside an unknown cell becomes unknown."""
    how = cv2.INTER_AREA if min(values.shape) > GRID else cv2.INTER_LINEAR
    return cv2.resize(values.astype(np.float32), (GRID, GRID), interpolation=how).astype(np.float16)[..., None]


def blur_of_mask(mask: UInt8[np.ndarray, "h w"], valid: UInt8[np.ndarray, "h w"]) -> Float16[np.ndarray, "h w"]:
    """What a mask tells of blur: none, 0, where it is surely in focus; elsewhere it does not say how much, NaN."""
    return np.where((mask == 255) & (valid == 255), np.float16(0), np.float16(np.nan))


def layout_of(records: Sequence[dict], side: int, maps: Sequence[str], folder: Path | None) -> Layout:
    """What the photographs of a split need, from `folder` where it is known, else from the header of each.

    Args:
      records: of `open_split`.
      side: pixels of the longer side that are kept of each.
      maps: names of those to keep, where the records have them: depth, features_8; blur, of which each mask tells some.
      folder: of `cache_place`.
    """
    if folder and (folder / CONTENTS).exists():
        kept = json.loads((folder / CONTENTS).read_text())["layout"]
        return Layout(**kept | {"maps": tuple((name, tuple(shape)) for name, shape in kept["maps"])})
    with ThreadPoolExecutor(cores()) as pool:
        sizes = list(pool.map(lambda i: reduced_size(image_size(records[i]), side), range(len(records))))
    first = records[0]
    kept = [name for name in maps if name in first or name == "blur"]
    shapes = {name: (GRID, GRID, 1) if name in ON_GRID else first[name].shape for name in kept}
    width, height = (max(each) for each in zip(*sizes, strict=True))
    return Layout(len(records), height, width, "valid" in first, tuple(sorted(shapes.items())))


def put(arrays: Mapping[str, np.ndarray], i: int, canvas: Canvas) -> None:
    """Lays a canvas into place `i` of arrays that are at least as large; maps that it lacks are unknown."""
    h, w = canvas.mask.shape
    arrays["image"][i, :h, :w], arrays["mask"][i, :h, :w], arrays["size"][i] = canvas.image, canvas.mask, canvas.size
    if "valid" in arrays:
        arrays["valid"][i, :h, :w] = canvas.valid
    for name in arrays.keys() - OWN:
        arrays[name][i] = canvas.maps.get(name, np.float16(np.nan))


def decode_all(records: Sequence[dict], side: int, arrays: Mapping[str, np.ndarray], title: str) -> list[str]:
    """Decodes every record into its place of `arrays`, in parallel and with progress; returns their ids."""
    maps, ids = sorted(arrays.keys() - OWN), []

    def decode(i: int) -> tuple[str, Canvas]:
        record = records[i]
        return name_of(record), decode_canvas(record, side, maps)

    with ThreadPoolExecutor(cores()) as pool:
        decoded = ahead(pool, decode, range(len(records)), 4 * cores())
        for i, future in tqdm(decoded, total=len(records), desc=title, unit=" photographs", mininterval=0.5):
            name, canvas = future.result()
            ids.append(name)
            put(arrays, i, canvas)
    return ids


def load(records: Sequence[dict], layout: Layout, side: int, folder: Path | None, title: str) -> Photographs:
    """The decoded photographs of a split, from `folder` where they are since an earlier start, else put there now.

    Args:
      records: of `open_split`.
      layout: of them at this side, from `layout_of`.
      side: of the longer side of what is kept of them, in pixels.
      folder: of `cache_place`; None: memory alone.
      title: of the progress bar.

    Raises UserError where the disk does not take them.
    """
    if folder is None:
        arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in layout.arrays().items()}
        return _photographs(decode_all(records, side, arrays, title), arrays)
    with os_errors_in_one_line(folder, "decoded photographs cannot be kept here"), sole_user(folder.parent):
        if not (folder / CONTENTS).exists():
            _write(records, layout, side, folder, title)
        ids = json.loads((folder / CONTENTS).read_text())["ids"]
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in layout.arrays()}
    return _photographs(ids, arrays)


def _write(records: Sequence[dict], layout: Layout, side: int, folder: Path, title: str) -> None:
    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a start that was killed
    unfinished.mkdir()
    arrays = {
        name: open_memmap(unfinished / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
        for name, (shape, dtype) in layout.arrays().items()
    }
    ids = decode_all(records, side, arrays, title)
    for array in arrays.values():
        array.flush()
    (unfinished / CONTENTS).write_text(json.dumps({"layout": dataclasses.asdict(layout), "ids": ids}))
    os.replace(unfinished, folder)


def _photographs(ids: Sequence[str], arrays: Mapping[str, Any]) -> Photographs:
    own: dict[str, Any] = {name: arrays.get(name) for name in OWN}
    return Photographs(ids, **own, maps={name: array for name, array in arrays.items() if name not in OWN})


def cache_place(records: Any, side: int, maps: Sequence[str]) -> Path | None:
    """Where the decoded photographs of an opened split are kept: beside its shards, under what they are made from.

    Shards that were built anew have another place. None for records that lie in no folder.
    """
    if not hasattr(records, "dataset_info"):
        return None
    made_from = json.dumps([VERSION, side, GRID, sorted(maps), str(records.split), shards_digest(records)])
    digest = hashlib.sha256(made_from.encode()).hexdigest()[:16]
    dataset = Path(records.dataset_info.data_dir).parent  # <data_dir>/dbd/<config>
    return dataset.parents[1] / "dbd_decoded" / f"{dataset.name}-{digest}"


def canvases(parts: Sequence[Photographs], numbers: Int[np.ndarray, " b"]) -> Canvas:
    """The photographs of these numbers, counted through from part to part, as one canvas with a leading axis.

    Parts may have canvases of other sizes, and maps that others lack: those are unknown.
    """
    firsts = np.cumsum([0, *(len(part.ids) for part in parts)])
    found = []
    for number in numbers:
        which = int(np.searchsorted(firsts, number, side="right")) - 1
        found.append(canvas_of(parts[which], int(number - firsts[which])))
    height, width = (max(part.mask.shape[axis] for part in parts) for axis in (1, 2))
    shapes = {name: maps.shape[1:] for part in parts for name, maps in part.maps.items()}
    return stacked(found, Layout(len(numbers), height, width, True, tuple(sorted(shapes.items()))))


def canvas_of(part: Photographs, i: int) -> Canvas:
    """One photograph as a canvas without padding; nothing is copied."""
    h, w = part.size[i]
    valid = np.broadcast_to(np.uint8(255), (h, w)) if part.valid is None else part.valid[i, :h, :w]
    maps = {name: array[i] for name, array in part.maps.items()}
    return _canvas(part.image[i, :h, :w], part.mask[i, :h, :w], valid, part.size[i], maps)


def stacked(found: Sequence[Canvas], layout: Layout) -> Canvas:
    """Canvases of any sizes as one with a leading axis; maps that some lack are unknown there."""
    arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in layout.arrays().items()}
    for i, canvas in enumerate(found):
        put(arrays, i, canvas)
    return _canvas(**{name: arrays.pop(name) for name in OWN}, maps=arrays)
