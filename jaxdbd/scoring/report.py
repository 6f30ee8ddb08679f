"""Tables, Markdown and curves: the numbers of `jaxdbd.scoring.metrics.summarize`, each with its protocol."""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jaxdbd.machine.files import write_whole
from jaxdbd.scoring.metrics import PROTOCOLS, ImageScores

NAMES = {
    "mae": "MAE",
    "f": "F",
    "iou": "IoU",
    "max_f": "max F of the mean curve",
    "auc": "AUC",
    "ece": "calibration error (15 bins)",
    "e_max": "E-measure, max",
    "e_mean": "E-measure, mean",
    "s": "S-measure",
    "weighted_f": "weighted F",
    "boundary_iou": "boundary IoU (at 0.5)",
    "pearson": "correlation with the teacher",
    "spearman": "correlation of ranks",
    "abs_rel": "relative error, best scale and shift",
    "spread": "spread over the teacher's",
    "log2_error": "median error, log2",
    "within_factor": "within a factor of 1.5",
    "agreement": "agreement with the focus map",
}
# Measures where less is better; an arrow in every table says so.
LOWER_IS_BETTER = {"mae", "ece", "abs_rel", "log2_error"}


def label(measure: str) -> str:
    """A measure's name in a table, with an arrow towards the better side."""
    return f"{NAMES[measure]} {'↓' if measure in LOWER_IS_BETTER else '↑'}"


def decimals(value: float | None) -> str:
    """Four decimals; a dash for an undefined value."""
    return "–" if value is None else f"{value:.4f}"


def flatten(results: dict) -> list[tuple[str, str, float | None]]:
    """(protocol, measure, value) of every number of a summary, in the order of the tables."""
    sections = [*PROTOCOLS, "threshold_free", *(head for head in ("depth", "blur") if head in results)]
    return [
        (section.replace("_", "-"), name, value) for section in sections for name, value in results[section].items()
    ]


def print_table(title: str, runs: Sequence[dict]) -> None:
    """Print the numbers that all of one or more runs have side by side; each is a summary with a "name"."""
    table = Table(title=title, title_justify="left")
    table.add_column("protocol")
    table.add_column("measure")
    for run in runs:
        table.add_column(run["name"], justify="right")
    previous = None
    values = [{(protocol, measure): value for protocol, measure, value in flatten(run)} for run in runs]
    for protocol, measure in values[0]:
        if not all((protocol, measure) in each for each in values):  # of depth or blur, which some runs do not have
            continue
        if previous not in (None, protocol):
            table.add_section()
        table.add_row(
            protocol if protocol != previous else "",
            label(measure),
            *(decimals(each[protocol, measure]) for each in values),
        )
        previous = protocol
    Console().print(table)


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of text; the first column is to the left, the others to the right."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    # As wide as its figures: in a file or a narrow window Rich would cut them to 80 columns, and digits would be lost.
    needed = Console(width=1000).measure(table).maximum
    Console(width=max(Console().width, needed)).print(table)


def markdown_table(results: dict) -> str:
    """The numbers of one run as a Markdown table."""
    rows = [f"| {protocol} | {label(measure)} | {decimals(value)} |" for protocol, measure, value in flatten(results)]
    return "\n".join(["| protocol | measure | value |", "|---|---|---:|", *rows])


def write_results_csv(path: os.PathLike, results: dict) -> None:
    """One line per number: protocol, measure, value (empty where undefined)."""
    lines = [f"{p},{m},{'' if v is None else repr(v)}" for p, m, v in flatten(results)]
    write_whole(path, "\n".join(["protocol,measure,value", *lines]) + "\n")


def write_json(path: os.PathLike, results: dict, images: Iterable[ImageScores]) -> None:
    """Write the set's numbers with the per-image values under "images", as `compare` reads them."""
    write_whole(path, json.dumps(results | {"images": [x.row() for x in images]}, indent=1, allow_nan=False) + "\n")


def write_csv(path: os.PathLike, images: Sequence[ImageScores]) -> None:
    """Write a row per image; an undefined value is an empty cell."""
    rows = [x.row() for x in images]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def draw_pr_curves(path: Path, runs: Sequence[dict]) -> None:
    """Precision against recall of the in-focus class, averaged over images at each of 256 thresholds."""
    from matplotlib.figure import Figure  # a quarter of a second, for one picture

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        curve, max_f = run["pr_curve"], run["threshold_free"]["max_f"]
        axes.plot(curve["recall"], curve["precision"], label=f"{run['name']} (max F {max_f:.3f})")
    axes.set(xlabel="recall of in-focus pixels", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=120)


def write_markdown(path: Path, title: str, facts: Sequence[str], results: dict) -> None:
    """report.md beside pr.png, worst.png and best.png. `facts` are lines on how the numbers were made."""
    parts = [
        f"# {title}",
        "\n".join(f"- {fact}" for fact in facts),
        "`ddff` counts the blurred class at 0.5, per image; `dd` and `adaptive` count the in-focus class at 1.5 times "
        "the mean, pooled and per image; `max` at each image's best threshold. The docstring of "
        "`jaxdbd/scoring/metrics.py` says exactly how.",
        markdown_table(results),
        "## Precision and recall\n\n![precision against recall](pr.png)",
        "## The first photographs of the split\n\n![photograph, mask, focus and depths](panel.png)",
        "## Worst by MAE\n\n![the photographs of the largest MAE](worst.png)",
        "## Best by MAE\n\n![the photographs of the smallest MAE](best.png)",
    ]
    write_whole(path, "\n\n".join(parts) + "\n")
