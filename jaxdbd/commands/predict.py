"""`jaxdbd predict`: focus maps of any photographs."""

import argparse
import contextlib
import csv
import io
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import jax
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from tqdm import tqdm

from jaxdbd import weights
from jaxdbd.errors import UserError
from jaxdbd.files import make_folder, write_whole
from jaxdbd.inference import batch_size_of, predict_maps
from jaxdbd.input.geometry import to_size
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.overlay import depth_picture, overlay
from jaxdbd.parallel import ahead, cores
from jaxdbd.photos import SUFFIXES, find_photographs, read_photograph

LARGE = 12_000_000  # pixels; larger photographs are written one at a time
turn = threading.Lock()

COLUMNS = ("path", "fraction_in_focus", "mean_depth_in_focus", "error")


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
        make_folder(folder)

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
        write_whole(args.csv, text.getvalue())
    return int(any(row[-1] for row in rows.values()))


def predict_files(
    model: DepthDistilledDBD, variables: weights.Variables, names: dict[Path, Path], endings: set[str], threshold: float
) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Predicts and writes every photograph of `names` (photograph -> map without its ending), and yields its CSV row.

    Threads decode, resize and write while the network runs on its own; what waits between them is small squares, so
    that memory does not grow with the photographs' size or number. Rows come in any order.
    """
    failed = deque()  # rows of unreadable photographs
    sizes = deque()  # (path, size) of photographs in the network
    limit = 2 * batch_size_of(jax.default_backend()) + 4
    with ThreadPoolExecutor(min(4, cores())) as pool:

        def squares():
            for path, future in ahead(pool, partial(read_square, side=model.size), names, limit):
                try:
                    square, size = future.result()
                except UserError as error:
                    failed.append((path, ("", "", str(error))))
                    continue
                sizes.append((path, size))
                yield square

        def predicted():
            for maps in predict_maps(model, variables, squares()):
                yield *sizes.popleft(), *maps

        def write(item):
            path, size, focus, depth = item
            # Several large photographs at once would fill the memory.
            with turn if size[0] * size[1] > LARGE else contextlib.nullcontext():
                return write_prediction(path, names[path], size, focus, depth, endings, threshold)

        for (path, *_), row in ahead(pool, write, predicted(), limit):
            while failed:
                yield failed.popleft()
            yield path, row.result()
        yield from failed


def read_square(path: Path, side: int) -> tuple[UInt8[np.ndarray, "s s 3"], tuple[int, int]]:
    """A photograph squashed to a square, and its (height, width)."""
    picture = read_photograph(path)
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)), (picture.height, picture.width)


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
            content = cv2.imencode(".png", pixels)[1].data  # in half the time that Pillow takes
        else:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, {".jpg": "JPEG", ".png": "PNG"}[ending[-4:]], quality=92)
            content = buffer.getbuffer()
        write_whole(name.with_name(name.name + ending), content)

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
