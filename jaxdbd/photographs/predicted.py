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
from jaxdbd.inference import batch_size_of, pixels_of_blur, predict_maps
from jaxdbd.input.geometry import to_size
from jaxdbd.machine.files import disk_is_full, shown, whole_file, write_whole
from jaxdbd.machine.parallel import ahead, cores, in_turn
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.photographs.decoding import opened, orientation, pixels
from jaxdbd.photographs.overlay import blur_picture, depth_picture, overlay
from jaxdbd.photographs.photos import photograph, reduced_photograph
from jaxdbd.weights import Variables

# What turns an upright picture back to how a file of an EXIF orientation holds it.
AS_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class Row(NamedTuple):
    """A photograph's row in the CSV without its path; an empty text for what there is not."""

    fraction_in_focus: str = ""
    mean_depth_in_focus: str = ""
    median_blur_pixels: str = ""  # of the diameters of the photograph's circles of confusion
    p90_blur_pixels: str = ""  # nine tenths of the photograph are blurred by at most this
    error: str = ""


COLUMNS = ("path", *Row._fields)


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
    predicted: Predicted, name: Path, endings: Collection[str], threshold: float, colmap: bool = False
) -> Row:
    """Writes `name` + each of `endings` at the photograph's size; returns its CSV row.

    `.png`: the map; `.binary.png`: 255 where it is above `threshold`; `.overlay.jpg`; `.depth.png`, where there is one;
    `_blur.npy`, in pixels, and `_blur.png`, where it is known. Without endings nothing is written, and the row is the
    same.

    With `colmap`, `.png` is the binary mask in place of the map, and lies as the file's pixels do: COLMAP takes
    features where a mask is not 0, and does not turn photographs upright (github.com/colmap/colmap/issues/1456).
    """
    with in_turn(predicted.size[0] * predicted.size[1]):
        in_focus = _write_focus(predicted, name, endings, threshold, colmap)
        mean_depth = _write_depth(predicted, name, endings, in_focus)
        return Row(f"{in_focus.mean():.4f}", mean_depth, *_write_blur(predicted, name, endings))


def _write_focus(predicted, name, endings, threshold, colmap):
    def save(ending, content):
        write_whole(name.with_name(name.name + ending), content)

    focus = to_size(predicted.focus, predicted.size)
    in_focus = focus > threshold
    if ".png" in endings and not colmap:
        focus *= 255
        focus = np.rint(focus, out=focus).astype(np.uint8)
        save(".png", _png(focus))
    del focus
    if ".png" in endings and colmap:
        save(".png", _png(as_stored(predicted, in_focus.view(np.uint8) * np.uint8(255))))
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
    return in_focus


def _write_depth(predicted, name, endings, in_focus):
    if predicted.depth is None:
        return ""
    depth = to_size(predicted.depth, predicted.size)
    mean = f"{depth.mean(where=in_focus):.4f}" if in_focus.any() else ""
    if ".depth.png" in endings:
        picture = depth_picture(depth)
        del depth  # while a PNG is made, the largest of all arrays is not needed
        write_whole(name.with_name(f"{name.name}.depth.png"), _png_of_rgb(picture))
    return mean


def _write_blur(predicted, name, endings):
    if predicted.blur is None:
        return "", ""
    if {"_blur.npy", "_blur.png"} & {*endings}:
        blur = pixels_of_blur(predicted.blur, predicted.size)
        if "_blur.npy" in endings:
            with whole_file(name.with_name(f"{name.name}_blur.npy")) as unfinished, unfinished.open("wb") as file:
                np.save(file, blur)
        if "_blur.png" in endings:
            picture = blur_picture(blur)
            del blur
            write_whole(name.with_name(f"{name.name}_blur.png"), _png_of_rgb(picture))
    # Of the square, which is the same photograph: quantiles of millions of pixels take a second.
    middle, high = np.quantile(predicted.blur, (0.5, 0.9)) * np.sqrt(predicted.size[0] * predicted.size[1])
    return f"{middle:.2f}", f"{high:.2f}"


def as_stored(predicted: Predicted, mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h2 w2"]:
    """An upright mask of a photograph, turned as the pixels lie in its file."""
    with opened(predicted.path, predicted.content) as picture:
        turn = AS_STORED.get(orientation(predicted.path, picture))
    return mask if turn is None else np.asarray(Image.fromarray(mask).transpose(turn))


def _png_of_rgb(picture: UInt8[np.ndarray, "h w 3"]) -> memoryview:
    return _png(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR, dst=picture))


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
