"""`jaxdbd app`: a page on this machine that shows what is in focus."""

import argparse
import contextlib
import os
import re
from pathlib import Path

from jaxdbd import weights
from jaxdbd.errors import UserError, check_within
from jaxdbd.machine.paths import local_path
from jaxdbd.machine.startup import end
from jaxdbd.photographs.photos import find_photographs, warn_of_passed_over


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxdbd app`."""
    parser.add_argument("--weights", default="lite", help="a bundled name, a .safetensors file or a training's folder")
    parser.add_argument("--port", type=int, default=7860, help="of http://127.0.0.1:PORT (7860)")
    parser.add_argument(
        "--allow_host",
        action="append",
        default=[],
        metavar="NAME",
        help="also answer to a browser that knows this machine by NAME; may be given several times",
    )
    parser.add_argument("--folder", type=local_path, help="photographs to begin with, those in its subfolders too")


def run(args: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C. Mistakes in the flags are told before it is served."""
    check_within("--port", args.port, "[1, 65535]")
    if odd := [name for name in args.allow_host if not re.fullmatch(r"[A-Za-z0-9_.-]+", name)]:
        raise UserError(f"--allow_host={odd[0]}: give a name alone, such as box.example.org, without scheme and port")
    try:
        import nicegui  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("the page needs one more package: pip install 'jaxdbd[app]'") from error
    from jaxdbd.photographs.app.server import serve

    weights.load(args.weights)
    if args.folder:
        warn_of_passed_over(args.folder, recursive=True)
        find_photographs([str(args.folder)], Path(os.devnull), recursive=True)
    names = [name.lower() for name in args.allow_host]
    with contextlib.suppress(KeyboardInterrupt):
        serve(args.weights, sorted({*weights.bundled(), args.weights}), args.port, args.folder, names)
    end(130)  # an orderly end would take the interpreter from a thread that still compiles
