"""`jaxdbd predict`: focus maps of any photographs."""

import argparse
import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from jaxdbd import weights
from jaxdbd.errors import UserError
from jaxdbd.inference import raw, raw_threshold
from jaxdbd.machine.files import check_no_folder, is_stream, make_folder, shown, write_whole
from jaxdbd.machine.paths import local_path
from jaxdbd.machine.startup import handled, is_heard, leave_terminal
from jaxdbd.photographs.app.sheet import Entry, entry_of, report
from jaxdbd.photographs.photos import SUFFIXES, find_photographs, warn_of_passed_over
from jaxdbd.photographs.predicted import Predicted, Row, csv_text, predict_photographs, write_prediction

SAVE_EVERY = 10  # seconds between two copies of the tables on disk, which a killed command leaves


class Done(NamedTuple):
    """What came of a photograph."""

    row: Row  # of the CSV
    entry: Entry | None  # of the report, where one is wanted
    remark: str  # what to warn of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxdbd predict`."""
    kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    parser.add_argument("paths", nargs="+", metavar="PATH", help=f"photographs, folders or patterns of them ({kinds})")
    parser.add_argument("--out", type=local_path, required=True, help="folder for the maps, <stem>.png, 255 = in focus")
    parser.add_argument("--weights", default="lite", help="a bundled name, a .safetensors file or a training's folder")
    parser.add_argument("--raw", action="store_true", help="the network's own probability, whose edges are soft")
    parser.add_argument("--recursive", action="store_true", help="look in subfolders too; --out gets the same ones")
    parser.add_argument("--overlay", action="store_true", help="also <stem>.overlay.jpg: what is in focus outlined")
    parser.add_argument("--depth", action="store_true", help="also <stem>.depth.png: depth as colors with a legend")
    parser.add_argument(
        "--blur", action="store_true", help="also <stem>_blur.npy, how wide the blur is in pixels, and <stem>_blur.png"
    )
    parser.add_argument(
        "--binary",
        nargs="?",
        type=float,
        const=True,
        metavar="T",
        help="also <stem>.binary.png: 255 where the probability is above T (the threshold that came with the weights)",
    )
    parser.add_argument(
        "--masks",
        choices=["colmap"],
        help="in place of the maps, <name>.<suffix>.png: 255 = in focus, 0 = blurred; --out is then COLMAP's mask_path",
    )
    parser.add_argument(
        "--csv", type=local_path, help="a row per photograph: path, fraction in focus, depth, blur, error"
    )
    parser.add_argument("--report", type=local_path, help="a contact sheet, one page: the sharpest first, with filters")


def run(args: argparse.Namespace) -> int:
    """Writes a map per photograph; returns 1 if any could not be read."""
    paths = [path and str(local_path(path)) for path in args.paths]
    for path in filter(os.path.isdir, paths):
        warn_of_passed_over(Path(path), args.recursive)
    model, variables = weights.load(args.weights)
    threshold = threshold_of(args.weights, args.binary, model.edge_slope if args.raw else 1.0)
    model = raw(model) if args.raw else model
    colmap, endings = args.masks == "colmap", endings_of(args)
    names = find_photographs(paths, args.out, endings, args.recursive, keep_suffix=colmap)
    if not colmap and (kept := [name for path, name in names.items() if name.name == path.name != path.stem]):
        print(f"note: {len(kept)} photographs share a name but for the suffix; maps keep it: {shown(kept[0])}.png, ...")
    for wanted, head in (("depth", model.depth_head), ("blur", model.blur_head)):
        if getattr(args, wanted) and not head:
            raise UserError(f"--{wanted}: {args.weights} was trained without a {wanted} head")
    check_no_folder(args.csv, args.report)
    check_apart(args.csv, args.report, names)
    for folder in {args.out} | {path.parent for path in (args.csv, args.report) if path}:
        make_folder(folder)
    done: dict[Path, Done] = {}
    interval = math.inf if any(path and is_stream(path) for path in (args.csv, args.report)) else SAVE_EVERY

    def place(path: Path) -> str:
        # A report may be read on another machine: it names photographs by their place below the folder.
        return shown(str(names[path].relative_to(args.out).with_name(path.name)))

    def write(predicted: Predicted) -> None:
        # Noted by the thread that has written it, so that an interruption in between loses nothing.
        row = write_prediction(predicted, names[predicted.path], endings, threshold, colmap)
        entry = entry_of(place(predicted.path), predicted, threshold, row) if args.report else None
        done[predicted.path] = Done(row, entry, predicted.remark)

    def save_tables() -> None:
        finished = {path: done[path] for path in names if path in done}
        if args.csv:
            write_whole(args.csv, csv_text([path, *each.row] for path, each in finished.items()))
        if args.report:
            write_whole(
                args.report, report([each.entry for each in finished.values() if each.entry], shown(args.report.stem))
            )

    with terminated_like_interrupted(), tqdm(total=len(names), unit=" photos") as bar:
        saved = time.monotonic()
        try:
            with contextlib.closing(predict_photographs(model, variables, names, write)) as results:
                for path, result in results:
                    if isinstance(result, UserError):
                        row = Row(error=str(result))
                        done[path] = Done(row, Entry(place(path), row), "")
                        bar.write(f"error: {result}", file=sys.stderr)
                    elif done[path].remark:
                        bar.write(f"warning: {done[path].remark}", file=sys.stderr)
                    bar.update()
                    if time.monotonic() - saved > interval:
                        save_tables()
                        saved = time.monotonic()
        finally:
            save_tables()
    return int(any(each.row.error for each in done.values()))


def endings_of(args: argparse.Namespace) -> set[str]:
    """The endings of the files that are wanted for each photograph."""
    wanted = {
        ".png": True,
        ".overlay.jpg": args.overlay,
        ".depth.png": args.depth,
        "_blur.npy": args.blur,
        "_blur.png": args.blur,
        ".binary.png": args.binary is not None,
    }
    return {ending for ending, is_wanted in wanted.items() if is_wanted}


def threshold_of(name: str, binary: float | bool | None, slope: float) -> float:
    """What `--binary=T` says, or else the weights, for maps before their logits are multiplied by `slope`.

    Raises UserError for a T outside [0, 1).
    """
    stored = raw_threshold(weights.read_metadata(name).threshold, slope)
    if binary is None or binary is True:
        return stored
    if not 0 <= binary < 1:
        raise UserError(f"--binary={binary:g}: not a probability between 0 and 1")
    return binary


def check_apart(table: Path | None, sheet: Path | None, photographs: Iterable[Path]) -> None:
    """Raises UserError where a table would be written over another, or over a photograph."""
    taken = {os.path.realpath(path): "a photograph to be read" for path in photographs}
    for flag, path in (("--csv", table), ("--report", sheet)):
        if path and (what := taken.setdefault(os.path.realpath(path), f"{flag} itself")) != f"{flag} itself":
            raise UserError(f"{flag}={shown(path)}: that is {what.removesuffix(' itself')}; give it another name")


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Within, SIGTERM and a hang-up end the program as Ctrl-C does, so that what is to be done at the end is done."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread hears of signals
        yield
        return

    def stop(number, _frame):
        if number == signal.SIGHUP:
            leave_terminal()
        sys.exit(128 + number)

    with handled(filter(is_heard, (signal.SIGTERM, signal.SIGHUP)), stop):
        yield
