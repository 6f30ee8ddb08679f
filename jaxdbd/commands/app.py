"""`jaxdbd app`: a page on this machine that shows what is in focus."""

import argparse
import os
from pathlib import Path

from jaxdbd import weights
from jaxdbd.errors import UserError
from jaxdbd.machine.paths import local_path
from jaxdbd.photographs.photos import find_photographs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxdbd app`."""
    parser.add_argument("--weights", default="lite", help="a bundled name, a .safetensors file or a training's folder")
    parser.add_argument("--port", type=int, default=7860, help="of http://127.0.0.1:PORT (7860)")
    parser.add_argument("--folder", type=local_path, help="photographs to begin with, those in its subfolders too")


def run(args: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C. Mistakes in the flags are told before it is served."""
    try:
        import nicegui  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("the page needs one more package: pip install 'jaxdbd[app]'") from error
    from jaxdbd.photographs.app.server import serve

    weights.load(args.weights)
    if args.folder:
        find_photographs([str(args.folder)], Path(os.devnull), recursive=True)
    serve(args.weights, sorted({*weights.bundled(), args.weights}), args.port, args.folder)
