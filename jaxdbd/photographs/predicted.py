"""Photographs from disk through the network, many at once, and the files and the CSV row made of each."""

import contextlib
import csv
import io
import os
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
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
from jaxdbd.inference import batch_size_of, predict_maps
from jaxdbd.input.geometry import to_size
from jaxdbd.machine.files import disk_is_full, shown, write_whole
from jaxdbd.machine.parallel import ahead, cores, in_turn
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.photographs.decoding import pixels
from jaxdbd.photographs.overlay import depth_picture, overlay
from jaxdbd.photographs.photos import photograph, reduced_photograph
from jaxdbd.weights import Variables

COLUMNS = ("path", "fraction_in_focus", "mean_depth_in_focus", "error")


class Predicted(NamedTuple):
    """What the network says of a photograph on disk, in the square that it sees."""

    path: Path
    size: tuple[int, int]  # the photograph's (height, width)
    square: UInt8[np.ndarray, "s s 3"]  # the photograph as the network sees it
    focus: Float32[np.ndarray, "s s"]  # probability of being in focus
    depth: Float32[np.ndarray, "s s"] | None  # nearness in [0, 1], 1 = nearest; None without a depth head
    blur: Float32[np.ndarray, "s s"] | None = None  # diameters, shares of the side; None without a blur head
    remark: str = ""  # what to warn of, such as a photograph that uses only the lower end of its range
    content: bytes | None = None  # of a pipe, which cannot be read again; None for a file


def predict_photographs(
    model: DepthDistilledDBD, variables: Variables, paths: Iterable[Path], finish: Callable[[Predicted], Any]
) -> Generator[tuple[Path, Any], None, None]:
    """Yields (path, finish(what the network says of it)), or (path, UserError) where reading or finishing failed.

    Threads decode, resize and finish while the network runs on its own; what waits between them is small squares, so
    that memory does not grow with the photographs' size or number. Results come in any order.

    Raises UserError where nothing more can be written, once all that was under way is done.
    """
    failed = deque()  # unreadable photographs
    read = deque()  # what `read_square` gives of photographs in the network
    full = None  # the error that says that the disk is full
    limit = 2 * batch_size_of(jax.default_backend()) + 4
    with ThreadPoolExecutor(min(4, cores())) as pool:

        def squares():
            for path, future in ahead(pool, partial(read_square, side=model.size), paths, limit):
                if full:
                    return
                try:
                    read.append(future.result())
                except UserError as error:
                    failed.append((path, error))
                    continue
                yield read[-1].square

        def predicted():
            for maps in predict_maps(model, variables, squares()):
                if full:
                    return
                yield read.popleft()._replace(**maps._asdict())

        for done, result in ahead(pool, finish, predicted(), limit):
            while failed:
                yield failed.popleft()
            try:
                finished = result.result()
            except UserError as error:
                finished = error
                full = full or (error if disk_is_full(error) else None)
            yield done.path, finished
        yield from failed
    if full:
        raise full


def read_square(path: Path, side: int) -> Predicted:
    """A photograph squashed to a square, without what the network says of it."""
    content = None
    if not os.path.isfile(path):  # a pipe gives what it holds once; of anything else the reader says what is wrong
        with contextlib.suppress(OSError):
            content = path.read_bytes()
    with reduced_photograph(path, side, content) as (picture, size, remark):
        square = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
        return Predicted(path, size, square, square[..., 0], None, None, remark, content)


def write_prediction(
    predicted: Predicted, name: Path, endings: Collection[str], threshold: float
) -> tuple[str, str, str]:
    """Writes `name` + each of `endings` at the photograph's size; returns its CSV row without the path.

    `.png`: the map; `.binary.png`: 255 where it is above `threshold`; `.overlay.jpg`; `.depth.png`, where there is one.
    Without endings nothing is written, and the row is the same.
    """
    with in_turn(predicted.size[0] * predicted.size[1]):
        return _write_prediction(predicted, name, endings, threshold)


def _write_prediction(predicted, name, endings, threshold):
    def save(ending, content):
        write_whole(name.with_name(name.name + ending), content)

    focus = to_size(predicted.focus, predicted.size)
    in_focus = focus > threshold
    if ".png" in endings:
        focus *= 255
        focus = np.rint(focus, out=focus).astype(np.uint8)
        save(".png", _png(focus))
    del focus
    if ".binary.png" in endings:
        save(".binary.png", _png(in_focus.view(np.uint8) * np.uint8(255)))
    if ".overlay.jpg" in endings:
        # Read once more: photographs kept since they were decoded would fill the memory.
        with photograph(predicted.path, predicted.content) as (picture, _):
            image = pixels(picture)
        del picture
        if image.shape[:2] != predicted.size:
            raise UserError(f"{shown(predicted.path)}: has changed since it was read: predict it again")
        image = overlay(image, in_focus)
        save(".overlay.jpg", _jpeg(image))
        del image
    mean_depth = ""
    if predicted.depth is not None:
        depth = to_size(predicted.depth, predicted.size)
        mean_depth = f"{depth.mean(where=in_focus):.4f}" if in_focus.any() else ""
        if ".depth.png" in endings:
            depth = depth_picture(depth)
            save(".depth.png", _png(cv2.cvtColor(depth, cv2.COLOR_RGB2BGR, dst=depth)))
    return f"{in_focus.mean():.4f}", mean_depth, ""


def _png(levels: UInt8[np.ndarray, "h w *bgr"]) -> memoryview:
    return cv2.imencode(".png", levels)[1].data  # in half the time that Pillow takes, of color in a quarter


def _jpeg(image: UInt8[np.ndarray, "h w 3"]) -> memoryview:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return buffer.getbuffer()


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """The table of photographs, a row each under COLUMNS."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return text.getvalue()
