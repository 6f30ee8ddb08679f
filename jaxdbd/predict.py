"""Focus maps of any photographs: the function `jaxdbd.predict`, and the command of the same name."""

import argparse
import csv
import io
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from tqdm import tqdm

from jaxdbd import weights
from jaxdbd.augment import resize
from jaxdbd.errors import UserError
from jaxdbd.model import DepthDistilledDBD, normalize
from jaxdbd.overlay import depth_picture, overlay
from jaxdbd.photos import SUFFIXES, find_photographs, read_photograph

LARGE = 12_000_000  # pixels; larger photographs are written one at a time
turn = threading.Lock()

COLUMNS = ("path", "fraction_in_focus", "mean_depth_in_focus", "error")

SquareMaps = tuple[Float32[np.ndarray, "s s"], Float32[np.ndarray, "s s"] | None]


class Prediction(NamedTuple):
    """What is known of one photograph, at its own size."""

    focus: Float32[np.ndarray, "h w"]  # probability of being in focus
    depth: Float32[np.ndarray, "h w"] | None  # nearness in [0, 1], 1 = nearest; None without a depth head


def predict(
    model: DepthDistilledDBD,
    variables: weights.Variables,
    image: UInt8[np.ndarray, "h w 3"] | Sequence[UInt8[np.ndarray, "_ _ 3"]],
) -> Prediction | list[Prediction]:
    """Focus and depth of an RGB photograph of any size, or a list of them for a list of photographs.

    Compiles on the first call, once for all sizes. A photograph gives the same result alone and in any list. Raises
    ValueError for anything but uint8 [h, w, 3].
    """
    images = [image] if isinstance(image, np.ndarray) else image
    squares = (to_square(image, model.size) for image in images)
    predictions = [
        Prediction(to_size(focus, image.shape[:2]), None if depth is None else to_size(depth, image.shape[:2]))
        for image, (focus, depth) in zip(images, predict_maps(model, variables, squares), strict=True)
    ]
    return predictions[0] if isinstance(image, np.ndarray) else predictions


def predict_maps(
    model: DepthDistilledDBD, variables: weights.Variables, squares: Iterable[UInt8[np.ndarray, "s s 3"]]
) -> Iterator[SquareMaps]:
    """Focus and depth of each photograph resized to `model.size`, in order, at that size.

    The network always sees a batch of the same size, the last one padded: so it is compiled once, and what else is in
    a batch can change nothing. Squares are taken while the device works on the batch before.
    """
    network, batch_size = compiled(model), batch_size_of(jax.default_backend())

    def fetch(count, focus, depth):
        focus, depth = np.asarray(focus), None if depth is None else np.asarray(depth)
        for i in range(count):
            yield focus[i], None if depth is None else depth[i]

    running = None
    squares = iter(squares)
    while taken := list(islice(squares, batch_size)):
        padded = np.stack(taken + taken[-1:] * (batch_size - len(taken)))
        dispatched = len(taken), *network(variables, padded)
        if running:
            yield from fetch(*running)
        running = dispatched
    if running:
        yield from fetch(*running)


def batch_size_of(platform: str) -> int:
    """Photographs per call of the network. A CPU is no faster per photograph with more; accelerators are."""
    return 1 if platform == "cpu" else 16


@lru_cache
def compiled(model: DepthDistilledDBD):
    """(variables, uint8 [B, S, S, 3]) -> probability and nearness, float32 [B, S, S]; one function per network."""
    return jax.jit(partial(probability_and_nearness, model))


def probability_and_nearness(model: DepthDistilledDBD, variables: weights.Variables, images):
    """What a user gets of the network, from RGB bytes [B, S, S, 3]: float32 [B, S, S] twice, the second may be None."""
    output = model.apply(variables, normalize(images, model.encoder))
    depth = None if output.depth is None else output.depth[..., 0].clip(0, 1)
    return jax.nn.sigmoid(output.focus[..., 0]), depth


def to_square(image: np.ndarray, side: int) -> UInt8[np.ndarray, "s s 3"]:
    """A photograph squashed to a square, as in training."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"an image must be a uint8 array [h, w, 3], not {image.dtype} {list(image.shape)}")
    return resize(image, (side, side))


def to_size(square: Float32[np.ndarray, "s s"], size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """A square map, bilinearly at a photograph's (height, width)."""
    if min(size) < len(square):
        return resize(square, size, resample=Image.Resampling.BILINEAR).clip(0, 1)  # antialiased
    # Only enlarged, where both libraries agree to a rounding, and OpenCV is thirty times as fast.
    return cv2.resize(square, size[::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)


# --- The command ---


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxdbd predict`."""
    kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    parser.add_argument("paths", nargs="+", metavar="PATH", help=f"photographs, folders or patterns of them ({kinds})")
    parser.add_argument("--out", type=Path, required=True, help="folder for the maps, <stem>.png, 255 = in focus")
    parser.add_argument("--weights", default="lite", help="a bundled name, a .safetensors file or a training's folder")
    parser.add_argument("--recursive", action="store_true", help="look in subfolders too; --out gets the same ones")
    parser.add_argument("--overlay", action="store_true", help="also <stem>.overlay.jpg: what is in focus outlined")
    parser.add_argument("--depth", action="store_true", help="also <stem>.depth.png: depth as colours with a legend")
    parser.add_argument(
        "--binary",
        nargs="?",
        type=float,
        const=True,
        metavar="T",
        help="also <stem>.binary.png: 255 where the probability is above T (the threshold that came with the weights)",
    )
    parser.add_argument("--csv", type=Path, help="a row per photograph: path, fraction in focus, depth, error")


def run(args: argparse.Namespace) -> int:
    """Writes a map per photograph; returns 1 if any could not be read."""
    threshold = weights.read_metadata(args.weights).threshold
    if args.binary not in (None, True):
        threshold = args.binary
        if not 0 <= threshold < 1:
            raise UserError(f"--binary={threshold:g}: not a probability between 0 and 1")
    extras = {".overlay.jpg": args.overlay, ".depth.png": args.depth, ".binary.png": args.binary is not None}
    endings = {".png"} | {ending for ending, wanted in extras.items() if wanted}
    names = find_photographs(args.paths, args.out, endings, args.recursive)
    if kept := [name for path, name in names.items() if name.name == path.name != path.stem]:
        print(f"note: {len(kept)} photographs share a name but for the suffix; maps keep it: {kept[0]}.png, ...")
    model, variables = weights.load(args.weights)
    if ".depth.png" in endings and not model.depth_head:
        raise UserError(f"--depth: {args.weights} was trained without a depth head")
    for folder in {name.parent for name in names.values()} | ({args.csv.parent} if args.csv else set()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be made a folder: {error.strerror}") from error

    with warnings.catch_warnings(), tqdm(total=len(names), unit=" photos") as bar:
        # Pillow warns of large pictures and odd metadata; what it cannot read it raises.
        warnings.filterwarnings("ignore", module="PIL")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        rows = {}
        for path, row in predict_files(model, variables, names, endings, threshold):
            rows[path] = row
            bar.update()
            if row[-1]:
                bar.write(f"error: {row[-1]}", file=sys.stderr)
    if args.csv:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *([path, *rows[path]] for path in names)])
        write_file(args.csv, text.getvalue().encode())
    return int(any(row[-1] for row in rows.values()))


def predict_files(
    model: DepthDistilledDBD, variables: weights.Variables, names: dict[Path, Path], endings: set[str], threshold: float
) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Predicts and writes every photograph of `names` (photograph -> map without its ending), and yields its CSV row.

    Threads decode, resize and write while the network runs on its own; what waits between them is small squares, so
    that memory does not grow with the photographs' size or number. Rows come in any order.
    """
    failed = deque()  # rows of unreadable photographs
    waiting = deque()  # (path, size) of photographs in the network
    writing = deque()  # (path, future of its row)
    limit = 2 * batch_size_of(jax.default_backend()) + 4
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:

        def squares():
            for path, future in ahead(pool, partial(read_square, side=model.size), names, limit):
                try:
                    square, size = future.result()
                except UserError as error:
                    failed.append((path, ("", "", str(error))))
                    continue
                waiting.append((path, size))
                yield square

        for maps in predict_maps(model, variables, squares()):
            path, size = waiting.popleft()
            large = size[0] * size[1] > LARGE
            writer = write_in_turn if large else write_prediction
            row = pool.submit(writer, path, names[path], size, *maps, endings, threshold)
            writing.append((path, row))
            while failed:
                yield failed.popleft()
            if len(writing) > limit:
                path, row = writing.popleft()
                yield path, row.result()
        yield from failed
        for path, row in writing:
            yield path, row.result()


def ahead(pool: ThreadPoolExecutor, function: Any, items: Iterable, count: int) -> Iterator[tuple[Any, Future]]:
    """Each item with the future of function(item), in order, `count` of them at work or done ahead of need."""
    items, submitted = iter(items), deque()
    while True:
        submitted += [(item, pool.submit(function, item)) for item in islice(items, count - len(submitted))]
        if not submitted:
            return
        yield submitted.popleft()


def read_square(path: Path, side: int) -> tuple[UInt8[np.ndarray, "s s 3"], tuple[int, int]]:
    """A photograph squashed to a square, and its (height, width)."""
    picture = read_photograph(path)
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)), picture.size[::-1]


def write_prediction(
    path: Path,
    name: Path,
    size: tuple[int, int],
    focus: Float32[np.ndarray, "s s"],
    depth: Float32[np.ndarray, "s s"] | None,
    endings: set[str],
    threshold: float,
) -> tuple[str, str, str]:
    """Writes what was asked for, `name` + ending, at the photograph's size; returns its CSV row without the path."""

    def save(ending, pixels):
        if pixels.ndim == 2:
            content = cv2.imencode(".png", pixels)[1]  # in half the time that Pillow takes
        else:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, {".jpg": "JPEG", ".png": "PNG"}[ending[-4:]], quality=92)
            content = buffer.getbuffer()
        write_file(name.with_name(name.name + ending), content)

    focus = to_size(focus, size)
    in_focus = focus > threshold
    focus *= 255
    save(".png", np.rint(focus, out=focus).astype(np.uint8))
    del focus
    if ".binary.png" in endings:
        save(".binary.png", in_focus.astype(np.uint8) * 255)
    if ".overlay.jpg" in endings:
        # Read once more: photographs kept since they were decoded would fill the memory.
        save(".overlay.jpg", overlay(np.asarray(read_photograph(path)), in_focus))
    mean_depth = ""
    if depth is not None:
        depth = to_size(depth, size)
        mean_depth = f"{depth.mean(where=in_focus):.4f}" if in_focus.any() else ""
        if ".depth.png" in endings:
            save(".depth.png", depth_picture(depth))
    return f"{in_focus.mean():.4f}", mean_depth, ""


def write_in_turn(*arguments: Any) -> tuple[str, str, str]:
    """`write_prediction` of one large photograph after another: several at once would fill the memory."""
    with turn:
        return write_prediction(*arguments)


def write_file(path: Path, content: bytes | memoryview | np.ndarray) -> None:
    """Writes all of a file or nothing. Raises UserError where that fails."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            unfinished.write_bytes(content)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
