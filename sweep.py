"""Runs the runs of a config one after another, and tabulates them.

    python sweep.py --config=configs/ablation.py --workdir=DIR [--runs='small*'] [--seeds=0,1,2] [--config.x=y ...]

Each run lies in <workdir>/<run>/seed<n>, as train.py leaves it. After a stop of any kind, the same command goes on from
there. Once all is done it only prints the table, which also lies in <workdir>/table.md. Several sweeps may fill one
workdir side by side, as long as each has runs or seeds of its own (on a CPU, one pinned to each core is the fastest);
--table with all of them tabulates.
"""

import argparse
import fnmatch
import signal
import statistics
import subprocess
import sys
from pathlib import Path

from etils import epath

from jaxdbd.errors import UserError
from jaxdbd.machine.files import write_whole
from jaxdbd.machine.paths import as_path, local_path
from jaxdbd.machine.startup import exit_status, handled, is_heard
from jaxdbd.training.config import check_config, load_config, load_module
from jaxdbd.training.logs import read_metrics

TRAIN = [sys.executable, str(Path(__file__).with_name("train.py"))]
MEASURES = {"mae": "MAE ↓", "f": "F ↑", "iou": "IoU ↑"}


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """The flags, and those that set config fields in every run."""
    parser = argparse.ArgumentParser(description="Runs the runs of a config one after another.", allow_abbrev=False)
    parser.add_argument("--config", type=local_path, required=True, help="a file of configs/ that holds several runs")
    parser.add_argument("--workdir", type=as_path, required=True, help="one folder per run and seed goes in here")
    parser.add_argument("--runs", default="*", help="which runs, by shell patterns with commas between (all)")
    parser.add_argument("--seeds", default="0", help="seeds with commas between (0)")
    parser.add_argument("--table", action="store_true", help="train nothing, only tabulate what has ended")
    return parser.parse_known_args()


def pick_runs(config: Path, patterns: str) -> list[str]:
    """The runs of a config file that fit one of the patterns, in the file's order. Raises UserError where none does."""
    runs = getattr(load_module(config), "RUNS", None)
    if runs is None:
        raise UserError(f"--config={config}: it holds one run, without RUNS: train.py is for that")
    picked = [name for name in runs if any(fnmatch.fnmatch(name, pattern) for pattern in patterns.split(","))]
    if not picked:
        raise UserError(f"--runs={patterns}: fits none of {', '.join(runs)}")
    return picked


def result(folder: epath.Path) -> dict[str, float] | None:
    """The scores on the held-out split after the last step of a training; None where it has not ended."""
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "eval/mae" in line]
    if not lines or lines[-1]["step"] < lines[-1]["of"]:
        return None
    return {name: lines[-1][f"eval/{name}"] for name in MEASURES}


def run_training(config: str, folder: epath.Path, seed: int, overrides: list[str]) -> None:
    """Trains one run to its end, handing on SIGTERM, as which a hang-up counts. Raises UserError where it stopped."""
    command = [*TRAIN, f"--config={config}", f"--workdir={folder}", *overrides, f"--config.seed={seed}"]
    numbers = filter(is_heard, (signal.SIGTERM, signal.SIGHUP))
    with subprocess.Popen(command) as process, handled(numbers, lambda *_: process.terminate()):
        try:
            status = process.wait()
        except KeyboardInterrupt:
            status = process.wait()  # the terminal told it as well; it saves
    if result(folder) is None:
        raise UserError(f"{folder} stopped with status {status} before its end; the same command goes on from there")


def tabulate(runs: dict[str, list[dict[str, float]]], measures: dict[str, str] = MEASURES, sign: str = "") -> str:
    """A Markdown table: for each run the mean and standard deviation over its seeds, and how many there are.

    `measures` has the heading of each column; `sign` is "+" where differences are tabulated.
    """
    lines = [f"| run | seeds | {' | '.join(measures.values())} |", "|---|---|" + "---|" * len(measures)]
    for name, results in runs.items():
        cells = []
        for measure in measures:
            values = [r[measure] for r in results if measure in r]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):{sign}.4f}{spread}" if values else "–")
        lines.append(f"| {name} | {len(results)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs the sweep that the flags describe; returns the exit status."""

    def run() -> None:
        args, overrides = parse_arguments()
        names = pick_runs(args.config, args.runs)
        try:
            seeds = [int(seed) for seed in args.seeds.split(",")]
        except ValueError:
            raise UserError(f"--seeds={args.seeds}: not integers with commas between") from None
        for name in names:
            for seed in seeds:
                config = load_config(f"{args.config}:{name}", [*overrides, f"--config.seed={seed}"])
                check_config(config, devices=1)  # of how many there are the training knows
            if not config.eval_split:
                raise UserError("config.eval_split is empty: there would be nothing to tabulate")
        todo = [(s, n) for s in seeds for n in names if result(args.workdir / n / f"seed{s}") is None]
        for i, (seed, name) in enumerate([] if args.table else todo, start=1):
            print(f"{name}, seed {seed}: {i} of {len(todo)} still to run", file=sys.stderr)
            run_training(f"{args.config}:{name}", args.workdir / name / f"seed{seed}", seed, overrides)
        done = {n: [result(args.workdir / n / f"seed{s}") for s in seeds] for n in names}
        table = tabulate({n: [r for r in results if r] for n, results in done.items()})
        write_whole(args.workdir / "table.md", table)
        print(table, end="")

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
