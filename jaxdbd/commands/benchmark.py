"""`jaxdbd benchmark`: time, memory and arithmetic of a network, of a training step, or of the input pipeline."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp

from jaxdbd import weights
from jaxdbd.errors import UserError, check_within
from jaxdbd.machine.files import write_whole
from jaxdbd.machine.paths import as_path
from jaxdbd.network.model import MULTIPLE
from jaxdbd.scoring import report
from jaxdbd.training.config import check_config, load_config
from jaxdbd.training.timing import ARCHS, made_up_network, measure
from jaxdbd.weights.store import MOST_WIDE

CONFIG = Path(__file__).parents[2] / "configs" / "lite.py"  # of the checkout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxdbd benchmark`."""
    parser.add_argument("--weights", help="time this network instead of --arch")
    parser.add_argument("--arch", choices=ARCHS, default="lite", help="encoder, with its usual decoder (lite)")
    parser.add_argument("--size", type=int, default=320, help="side of the square in pixels (320)")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[4], help="images per call; several are timed in turn (4)"
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the computation")
    parser.add_argument(
        "--mode",
        choices=["fwd", "train", "input", "loop"],
        default="fwd",
        help="the network; a training step; the input pipeline alone; training steps fed by it",
    )
    parser.add_argument(
        "--config", default=str(CONFIG), help="whose losses, optimizer and augmentation train, loop and input take"
    )
    parser.add_argument("--repeats", type=int, default=10, help="timed calls; the median is reported (10)")
    parser.add_argument("--operations", action="store_true", help="also profile where the time goes, by operation")
    parser.add_argument("--json", type=as_path, help="write the figures here")


def table(rows: Sequence[dict]) -> None:
    """Prints the figures, a row per setting."""
    titles = {
        "arch": "network",
        "mode": "mode",
        "batch": "batch",
        "ms_per_image": "ms/image",
        "images_per_s": "images/s",
        "gflop_per_image": "GFLOP",
        "gflop_per_s": "GFLOP/s",
        "share_of_matmul": "of matmul",
        "program_mb": "MB",
        "compile_s": "compile s",
    }
    first = rows[0]
    names = [name for name in titles if name in first]
    heading = f"{first['device']}, {first['size']} pixels, {first.get('dtype', 'uint8')}"
    report.print_rows(heading, [titles[name] for name in names], [[str(row[name]) for name in names] for row in rows])
    for row in rows:
        if spent := row.get("ms_by_operation"):
            title = f"batch {row['batch']}, by operation"
            whole = sum(spent.values())
            shares = [[kind, f"{ms:.2f}", f"{100 * ms / whole:.0f} %"] for kind, ms in spent.items()]
            report.print_rows(title, ["operation", "ms/image", "share"], shares)


def run(args: argparse.Namespace) -> None:
    """Measures every batch size asked for, prints the table, and writes the JSON: one object, or a list of several."""
    if args.operations and args.mode == "input":
        raise UserError("--operations: the input pipeline is no compiled program; profile --mode=fwd, train or loop")
    for batch in args.batch:
        check_within("--batch", batch, "[1, inf)")
    check_within("--repeats", args.repeats, "[2, inf)")  # quartiles need two
    check_within("--size", args.size, f"[{MULTIPLE}, {MOST_WIDE}]")
    if args.size % MULTIPLE:
        raise UserError(f"--size={args.size}: not a multiple of {MULTIPLE}")
    if args.weights:
        model, variables = weights.load(args.weights)
        model, arch = model.clone(dtype=jnp.dtype(args.dtype)), model.encoder
    else:
        arch = args.arch
        model, variables = made_up_network(arch, args.size, args.dtype)
    config = None if args.mode == "fwd" else load_config(args.config)
    if config:
        check_config(config, devices=1)
    rows = [
        measure(model, variables, arch, args.mode, args.size, batch, args.repeats, config, args.operations)
        for batch in args.batch
    ]
    table(rows)
    if args.json:
        write_whole(args.json, json.dumps(rows[0] if len(rows) == 1 else rows, indent=2) + "\n")
