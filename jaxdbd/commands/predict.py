"""`jaxdbd predict`: focus maps of any photographs."""

import argparse
import sys
import warnings

from PIL import Image
from tqdm import tqdm

from jaxdbd import weights
from jaxdbd.app.sheet import Entry, entry_of, report
from jaxdbd.errors import UserError
from jaxdbd.files import make_folder, write_whole
from jaxdbd.paths import local_path
from jaxdbd.photos import SUFFIXES, find_photographs
from jaxdbd.predicted import csv_text, predict_photographs, write_prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxdbd predict`."""
    kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    parser.add_argument("paths", nargs="+", metavar="PATH", help=f"photographs, folders or patterns of them ({kinds})")
    parser.add_argument("--out", type=local_path, required=True, help="folder for the maps, <stem>.png, 255 = in focus")
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
    parser.add_argument("--csv", type=local_path, help="a row per photograph: path, fraction in focus, depth, error")
    parser.add_argument("--report", type=local_path, help="a contact sheet, one page: the sharpest first, with filters")


def run(args: argparse.Namespace) -> int:
    """Writes a map per photograph; returns 1 if any could not be read."""
    for path in args.paths:
        local_path(path)
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
    for folder in {name.parent for name in names.values()} | {path.parent for path in (args.csv, args.report) if path}:
        make_folder(folder)

    with warnings.catch_warnings(), tqdm(total=len(names), unit=" photos") as bar:
        # Pillow warns of large pictures and odd metadata; what it cannot read it raises.
        warnings.filterwarnings("ignore", module="PIL")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        rows, entries = {}, {}

        def shown(path):
            return str(names[path].relative_to(args.out).with_name(path.name))

        def write(photograph):
            row = write_prediction(photograph, names[photograph.path], endings, threshold)
            return row, entry_of(shown(photograph.path), photograph, threshold, row) if args.report else None

        for path, result in predict_photographs(model, variables, names, write):
            if isinstance(result, UserError):
                row = ("", "", str(result))
                result = row, Entry(shown(path), row)
            rows[path], entries[path] = result
            bar.update()
            if rows[path][-1]:
                bar.write(f"error: {rows[path][-1]}", file=sys.stderr)
    if args.csv:
        write_whole(args.csv, csv_text([path, *rows[path]] for path in names))
    if args.report:
        write_whole(args.report, report([entries[path] for path in names], args.report.stem))
    return int(any(row[-1] for row in rows.values()))
