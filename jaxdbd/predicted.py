"""Photographs from disk through the network: many at once, and the files and the CSV row that come of each."""

import contextlib
import csv
import io
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from jaxdbd.errors import UserError
from jaxdbd.files import write_whole
from jaxdbd.inference import batch_size_of, predict_maps
from jaxdbd.input.geometry import to_size
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.overlay import depth_picture, overlay
from jaxdbd.parallel import ahead, cores
from jaxdbd.photos import read_photograph
from jaxdbd.weights import Variables

LARGE = 12_000_000  # pixels; larger photographs are written one at a time
turn = threading.Lock()

COLUMNS = ("path", "fraction_in_focus", "mean_depth_in_focus", "error")


class Predicted(NamedTuple):
    """What the network says of a photograph on disk, in the square that it sees."""

    path: Path
    size: tuple[int, int]  # the photograph's (height, width)
    square: UInt8[np.ndarray, "s s 3"]  # the photograph as the network sees it
    focus: Float32[np.ndarray, "s s"]  # probability of being in focus
    depth: Float32[np.ndarray, "s s"] | None  # nearness in [0, 1], 1 = nearest; None without a depth head


def predict_photographs(
    model: DepthDistilledDBD, variables: Variables, paths: Iterable[Path], finish: Callable[[Predicted], Any]
) -> Iterator[tuple[Path, Any]]:
    """Yields (path, finish(what the network says of it)), or (path, UserError) for a photograph that cannot be read.

    Threads decode, resize and finish while the network runs on its own; what waits between them is small squares, so
    that memory does not grow with the photographs' size or number. Results come in any order.
    """
    failed = deque()  # unreadable photographs
    read = deque()  # (path, size, square) of photographs in the network
    limit = 2 * batch_size_of(jax.default_backend()) + 4
    with ThreadPoolExecutor(min(4, cores())) as pool:

        def squares():
            for path, future in ahead(pool, partial(read_square, side=model.size), paths, limit):
                try:
                    square, size = future.result()
                except UserError as error:
                    failed.append((path, error))
                    continue
                read.append((path, size, square))
                yield square

        def predicted():
            for focus, depth in predict_maps(model, variables, squares()):
                yield Predicted(*read.popleft(), focus, depth)

        for photograph, result in ahead(pool, finish, predicted(), limit):
            while failed:
                yield failed.popleft()
            yield photograph.path, result.result()
        yield from failed


def read_square(path: Path, side: int) -> tuple[UInt8[np.ndarray, "s s 3"], tuple[int, int]]:
    """A photograph squashed to a square, and its (height, width)."""
    picture = read_photograph(path)
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)), picture.size[::-1]


def write_prediction(
    photograph: Predicted, name: Path, endings: Collection[str], threshold: float
) -> tuple[str, str, str]:
    """Writes `name` + each of `endings` at the photograph's size; returns its CSV row without the path.

    `.png`: the map; `.binary.png`: 255 where it is above `threshold`; `.overlay.jpg`; `.depth.png`, where there is one.
    Without endings nothing is written, and the row is the same.
    """
    # Several large photographs at once would fill the memory.
    with turn if photograph.size[0] * photograph.size[1] > LARGE else contextlib.nullcontext():
        return _write_prediction(photograph, name, endings, threshold)


def _write_prediction(photograph, name, endings, threshold):
    def save(ending, pixels):
        if pixels.ndim == 2:
            content = memoryview(cv2.imencode(".png", pixels)[1])  # in half the time that Pillow takes
        else:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, {".jpg": "JPEG", ".png": "PNG"}[ending[-4:]], quality=92)
            content = buffer.getbuffer()
        write_whole(name.with_name(name.name + ending), content)

    focus = to_size(photograph.focus, photograph.size)
    in_focus = focus > threshold
    if ".png" in endings:
        focus *= 255
        save(".png", np.rint(focus, out=focus).astype(np.uint8))
    del focus
    if ".binary.png" in endings:
        save(".binary.png", in_focus.astype(np.uint8) * 255)
    if ".overlay.jpg" in endings:
        # Read once more: photographs kept since they were decoded would fill the memory.
        save(".overlay.jpg", overlay(np.asarray(read_photograph(photograph.path)), in_focus))
    mean_depth = ""
    if photograph.depth is not None:
        depth = to_size(photograph.depth, photograph.size)
        mean_depth = f"{depth.mean(where=in_focus):.4f}" if in_focus.any() else ""
        if ".depth.png" in endings:
            save(".depth.png", depth_picture(depth))
    return f"{in_focus.mean():.4f}", mean_depth, ""


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """The table of photographs, a row each under COLUMNS."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return text.getvalue()
