"""Tabulates a sweep, scored also on photographs that no run has learned from or was chosen by.

    python -m tools.sweep_table --config=configs/ablation.py --runs='long*' --seeds=0,1,2 --workdir=DIR \
        --sharp=DIR --sharp_names=FILE --pairs=DIR [--base=RUN]

Of every run and seed that has ended: the scores on the validation split after the last step, as sweep.py has them, and
how far the MAE still fell over the last fifth; and of the weights that the run left (the best by validation), what
tools/card.py says of photographs in focus all over (their mean focus) and of pairs focused near and far (the share of
pixels in focus in exactly one). One table has the mean and the standard deviation over the seeds, the other the same of
the differences from `--base`, seed by seed. Both lie in <workdir>/unseen.md as well.

Scores are kept in <workdir>/<run>/seed<n>/unseen.json: after a stop, the same command goes on from there. To score
other photographs, delete them.
"""

import argparse
import json
import sys
from collections.abc import Callable

from etils import epath

import jaxdbd
from jaxdbd.errors import UserError
from jaxdbd.machine.files import is_file, read_text, write_whole
from jaxdbd.machine.paths import as_path, local_path
from jaxdbd.machine.startup import exit_status, keep_compiled_programs
from jaxdbd.training.logs import read_metrics
from sweep import MEASURES, pick_runs, result, tabulate
from tools.card import mean_focus, pair_shares, read_named

FELL, SHARP, PAIRS = "fell", "sharp", "pairs"
HEADINGS = MEASURES | {FELL: "MAE less over the last fifth", SHARP: "sharp ↑", PAIRS: "pairs ↑"}
Scores = dict[str, float]


def parse_arguments() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=local_path, required=True)
    parser.add_argument("--workdir", type=as_path, required=True, help="of sweep.py")
    parser.add_argument("--runs", default="*", help="which runs, by shell patterns with commas between (all)")
    parser.add_argument("--seeds", default="0", help="seeds with commas between (0)")
    parser.add_argument("--base", help="the run that the others are compared with (the first)")
    parser.add_argument("--sharp", type=local_path, help="folder of photographs that are in focus all over")
    parser.add_argument("--sharp_names", type=local_path, help="text file with those of them to use, one name a line")
    parser.add_argument("--pairs", type=local_path, help="folder of pairs focused near and far")
    return parser.parse_args()


def fell(folder: epath.Path) -> Scores:
    """How far the validation MAE fell over the last fifth of a run; {} where it was not evaluated then."""
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "eval/mae" in line]
    end = lines[-1]["of"]
    before = [line["eval/mae"] for line in lines if 5 * line["step"] <= 4 * end]
    return {FELL: before[-1] - lines[-1]["eval/mae"]} if before else {}


def unseen(folder: epath.Path, measures: dict[str, Callable]) -> Scores:
    """What each of `measures`, functions of a network and its variables, says of a run's weights; kept beside them."""
    path = folder / "unseen.json"
    known = json.loads(read_text(path)) if is_file(path) else {}
    missing = measures.keys() - known.keys()
    if missing:
        print(f"scoring {folder}", file=sys.stderr)
        model, variables = jaxdbd.load(folder)
        known |= {name: measures[name](model, variables) for name in sorted(missing)}
        write_whole(path, json.dumps(known))
    return {name: known[name] for name in measures}


def measures_of(args: argparse.Namespace) -> dict[str, Callable]:
    """The scores that the flags ask for."""
    found: dict[str, Callable] = {}
    if args.sharp:
        if not args.sharp_names:
            raise UserError("--sharp needs --sharp_names=FILE beside it")
        photographs = read_named(args.sharp, args.sharp_names)
        found[SHARP] = lambda model, variables: float(mean_focus(model, variables, photographs).mean())
    if args.pairs:

        def in_exactly_one(model, variables):
            shares = pair_shares(model, variables, args.pairs)
            return float(sum(one for one, _ in shares.values()) / len(shares))

        found[PAIRS] = in_exactly_one
    return found


def differences(runs: dict[str, dict[int, Scores]], base: str) -> dict[str, list[Scores]]:
    """Each run's scores less those of the run `base` with the same seed, over the seeds that both have."""
    return {
        name: [
            {m: v - runs[base][seed][m] for m, v in scores.items() if m in runs[base][seed]} for seed, scores in both
        ]
        for name, by_seed in runs.items()
        if name != base and (both := [(seed, s) for seed, s in by_seed.items() if seed in runs[base]])
    }


def main() -> int:
    """Scores and prints; returns the exit status."""

    def run() -> None:
        args = parse_arguments()
        keep_compiled_programs()
        names, measures = pick_runs(args.config, args.runs), measures_of(args)
        base = args.base or names[0]
        if base not in names:
            raise UserError(f"--base={base}: not one of {', '.join(names)}")
        runs: dict[str, dict[int, Scores]] = {name: {} for name in names}
        for seed in map(int, args.seeds.split(",")):
            for name in names:
                folder = args.workdir / name / f"seed{seed}"
                if scores := result(folder):
                    runs[name][seed] = scores | fell(folder) | unseen(folder, measures)
        headings = {m: text for m, text in HEADINGS.items() if m in measures or m not in (SHARP, PAIRS)}
        table = tabulate({name: list(by_seed.values()) for name, by_seed in runs.items()}, headings)
        table += f"\nLess {base}, seed by seed:\n\n{tabulate(differences(runs, base), headings, '+')}"
        write_whole(args.workdir / "unseen.md", table)
        print(table, end="")

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
