"""`jaxdbd compare`: runs beside each other, beside published numbers, and whether they differ by more than chance."""

import argparse
import json
import os
from collections.abc import Sequence
from importlib import resources

import numpy as np
from jaxtyping import Float, Int

from jaxdbd.errors import UserError
from jaxdbd.machine.files import name_key, read_text, shown
from jaxdbd.machine.paths import as_path, is_remote
from jaxdbd.scoring import report
from jaxdbd.scoring.metrics import f_measure

RESAMPLES = 5000
BENCHMARK_OF_DATASET = {"dbd/cuhk": "CUHK-TE-1", "dbd/dut": "DUT-TE", "dbd/ctcug": "CTCUG", "dbd/ebd": "EBD"}
# (protocol, measure, column of the per-image rows) of measures that are means over images ...
MEANS = (
    ("ddff", "mae", "mae"),
    ("ddff", "f", "ddff_f"),
    ("adaptive", "f", "adaptive_f"),
    ("max", "f", "max_f"),
    ("threshold-free", "auc", "auc"),
    ("threshold-free", "s", "s"),
    ("threshold-free", "weighted_f", "weighted_f"),
    ("threshold-free", "boundary_iou", "boundary_iou"),
)
# ... and of measures of pooled pixel counts: (protocol, measure, prefix of the counts).
POOLED = (("ddff", "iou", "ddff"), ("dd", "f", "dd"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxdbd compare`."""
    parser.add_argument("runs", type=as_path, nargs="+", metavar="JSON", help="of `score --json`, or an evaluate --out")
    parser.add_argument(
        "--benchmark",
        choices=sorted(BENCHMARK_OF_DATASET.values()),
        help="whose published numbers to show (of the first run's dataset; else CUHK-TE-1)",
    )


def read_run(path: os.PathLike) -> dict:
    """A run's numbers from its JSON file or from the folder of `evaluate --out`. Raises UserError for other files."""
    path = as_path(path)
    is_folder = path.is_dir() if is_remote(path) else os.path.isdir(path)
    path = path / "results.json" if is_folder else path
    try:
        run = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown(path)} is not a JSON file: {error}") from error
    known = isinstance(run, dict) and {"name", "ddff", "images"} <= set(run) and isinstance(run["images"], list)
    if not known or not all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in run["images"]):
        raise UserError(f"{shown(path)} was not written by `jaxdbd score --json` or `jaxdbd evaluate --out`")
    return run


def published() -> dict:
    """The published numbers that ship with the package, with their sources."""
    return json.loads(resources.files("jaxdbd.scoring").joinpath("published.json").read_text())


def published_rows(benchmark: str, runs: Sequence[dict]) -> list[list[str]]:
    """Method, MAE, F and IoU under `ddff`: the published ones by year, then the runs."""
    rows = [
        [f"{row['method']} {row['year']}", *(f"{v:.3f}" for v in row["scores"][benchmark])]
        for row in published()["rows"]
        if benchmark in row["scores"]
    ]
    return rows + [
        [f"this: {run['name']}", *(report.decimals(run["ddff"][m]) for m in ("mae", "f", "iou"))] for run in runs
    ]


def resample(n: int, seed: int = 0) -> Int[np.ndarray, "r n"]:
    """How often each of n images is drawn in each of RESAMPLES bootstrap samples."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)


def weighted_mean(values: Sequence[float | None], draws: Int[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
    """The mean of the defined values in each sample; NaN for a sample without any."""
    defined = np.array([v is not None for v in values])
    total = draws[:, defined] @ np.array([v for v in values if v is not None], np.float64)
    count = draws[:, defined].sum(axis=1)
    return np.divide(total, count, out=np.full(len(draws), np.nan), where=count > 0)


def pooled(rows: Sequence[dict], prefix: str, measure: str, draws: Int[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
    """IoU or F of the pixels pooled over each sample."""
    tp, fp, fn = (draws @ np.array([row[f"{prefix}_{k}"] for row in rows], np.float64) for k in ("tp", "fp", "fn"))
    return (
        np.divide(tp, tp + fp + fn, out=np.ones_like(tp), where=tp + fp + fn > 0)
        if measure == "iou"
        else f_measure(tp, fp, fn)
    )


def paired_differences(a: dict, b: dict) -> list[tuple[str, str, float, float, float]]:
    """(protocol, measure, b - a, low, high): the difference with its 95 % percentile interval (Efron, 1979).

    The same images are drawn for both runs, so what makes an image hard for both cancels. Raises UserError where the
    two runs are not about the same images.
    """
    rows_a = {name_key(row["id"]): row for row in a["images"]}
    rows_b = {name_key(row["id"]): row for row in b["images"]}
    if rows_a.keys() != rows_b.keys():
        odd = sorted(rows_a.keys() ^ rows_b.keys())
        raise UserError(
            f"{a['name']} and {b['name']} differ in {len(odd)} images (such as {shown(odd[0])}): score the same set"
        )
    ids = sorted(rows_a)
    xs, ys = [rows_a[i] for i in ids], [rows_b[i] for i in ids]
    everyone, draws = np.ones((1, len(ids)), np.int64), resample(len(ids))
    differences = []
    for protocol, measure, key in (*MEANS, *POOLED):
        if (protocol, measure, key) in POOLED:
            whole, samples = (pooled(ys, key, measure, d) - pooled(xs, key, measure, d) for d in (everyone, draws))
        else:
            x, y = ([row[key] for row in rows] for rows in (xs, ys))
            whole, samples = (weighted_mean(y, d) - weighted_mean(x, d) for d in (everyone, draws))
        if np.isfinite(whole[0]):
            low, high = np.nanpercentile(samples, (2.5, 97.5))
            differences.append((protocol, measure, float(whole[0]), float(low), float(high)))
    return differences


def run(args: argparse.Namespace) -> None:
    """Print the runs' numbers, the published ones, and each run's difference from the first."""
    runs = [read_run(path) for path in args.runs]
    if len({run["name"] for run in runs}) < len(runs):
        runs = [run | {"name": str(path)} for run, path in zip(runs, args.runs, strict=True)]
    report.print_table("All protocols", runs)
    benchmark = args.benchmark or BENCHMARK_OF_DATASET.get(runs[0].get("dataset", ""), "CUHK-TE-1")
    sources = published()
    title = f"Protocol ddff. Published: {benchmark}, trained on {sources['trained_on']}"
    report.print_rows(title, ["method", "MAE ↓", "F ↑", "IoU ↑"], published_rows(benchmark, runs))
    print(f"Source of the published numbers: {sources['source']}. {sources['note']}")
    for row in sources["other_protocols"]:
        if row["benchmark"] == benchmark:
            print(f"Protocol {row['protocol']}: {row['method']}: MAE {row['mae']}, F {row['f']} ({row['source']})")
    for other in runs[1:]:
        rows = [
            [
                f"{protocol} {report.label(measure)}",
                f"{d:+.4f}",
                f"{low:+.4f} .. {high:+.4f}",
                "yes" if low * high > 0 else "no",
            ]
            for protocol, measure, d, low, high in paired_differences(runs[0], other)
        ]
        title = f"{other['name']} minus {runs[0]['name']}, paired bootstrap over {other['n']} images"
        report.print_rows(title, ["measure", "difference", "95 % interval", "beyond chance"], rows)
