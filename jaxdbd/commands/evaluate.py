"""`jaxdbd evaluate`: a network on a built dataset, under every protocol."""

import argparse
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from jaxdbd import weights
from jaxdbd.errors import UserError
from jaxdbd.inference import Prediction, predict, raw
from jaxdbd.input.records import MOST_SHOWN, decode_reduced, open_split
from jaxdbd.machine.files import make_folder, output_folder
from jaxdbd.machine.paths import as_path
from jaxdbd.photographs.panels import example_panel, gray, panel, save_picture
from jaxdbd.scoring import report
from jaxdbd.scoring.maps import SCALES, TTA, focus_predictor, score_records
from jaxdbd.scoring.metrics import ImageScores, polarity_warning, summarize
from jaxdbd.sharding import make_mesh, replicated

PANEL_ROWS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxdbd evaluate`."""
    parser.add_argument("--weights", required=True, help="a .safetensors file, a training workdir, or a bundled name")
    parser.add_argument("--dataset", required=True, help="a built dataset, such as dbd/cuhk")
    parser.add_argument("--split", default="test", help="its split (test)")
    parser.add_argument("--data_dir", help="where the dataset was built (TFDS's own folder)")
    parser.add_argument("--cache_dir", default="", help="where shards of gs:// are copied to (the user's cache)")
    parser.add_argument("--out", type=as_path, help="write report.md, the tables and the maps here")
    parser.add_argument("--raw", action="store_true", help="the network's own probability, whose edges are soft")
    parser.add_argument("--tta", default="", help="average over flip, scales or flip,scales (none)")
    parser.add_argument("--batch_size", type=int, default=8, help="images per device (8)")


def draw_extremes(out: Path, records: Sequence[dict], images: Sequence[ImageScores]) -> None:
    """worst.png and best.png: the photographs with the largest and the smallest MAE."""
    rows = [x.row() for x in images]
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["mae"], rows[i]["id"]))
    for name, chosen in {"best": order[:PANEL_ROWS], "worst": order[::-1][:PANEL_ROWS]}.items():
        pictures, captions = [], []
        for i in chosen:
            example = decode_reduced(records[i], MOST_SHOWN)
            with Image.open(out / "maps" / f"{example.id}.png") as picture:
                smaller = picture.resize(example.mask.shape[::-1], Image.Resampling.BILINEAR)
            focus = np.asarray(smaller) / np.float32(255)
            mask = example.mask / np.float32(255)
            pictures.append([example.image, *map(gray, (mask, focus, np.abs(focus - mask)))])
            captions.append(f"{example.id}   MAE {rows[i]['mae']:.3f}   ddff F {rows[i]['ddff_f']:.3f}")
        save_picture(out / f"{name}.png", panel(pictures, ("photograph", "mask", "map", "error"), captions=captions))


def parse_tta(text: str) -> tuple[str, ...]:
    """The names of --tta. Raises UserError for one that there is not."""
    names = tuple(name for name in text.split(",") if name)
    if unknown := [name for name in names if name not in TTA]:
        raise UserError(f"--tta={text}: there is no {unknown[0]!r}, only {' and '.join(TTA)}")
    return names


def describe_tta(tta: Sequence[str]) -> str:
    """How the table names the averaging."""
    described = {"flip": "flip", "scales": "scales " + " ".join(f"{s:g}" for s in SCALES)}
    return ", ".join(described[name] for name in tta) or "none"


def run(args: argparse.Namespace) -> None:
    """Evaluate args.weights on args.dataset, print the table, and write the report where args.out says."""
    tta = parse_tta(args.tta)
    if args.batch_size < 1:
        raise UserError(f"--batch_size={args.batch_size}: must be at least 1")
    model, variables = weights.load(args.weights)
    model = raw(model) if args.raw else model
    size = model.size
    records = open_split(args.dataset, args.split, args.data_dir, args.cache_dir)
    mesh = make_mesh()
    variables = jax.device_put(variables, replicated(mesh))
    predict_batch = partial(focus_predictor(model, mesh, tta), variables)
    facts = {
        "dataset": args.dataset,
        "split": args.split,
        "weights": args.weights,
        "size": size,
        "tta": describe_tta(tta),
        "edges": "raw" if args.raw else f"radius {model.edge_radius:g}, slope {model.edge_slope:g}",
    }
    with output_folder(args.out) if args.out else contextlib.nullcontext() as out:
        if out:
            make_folder(out / "maps")
        maps = out / "maps" if out else None
        images = score_records(predict_batch, records, size, args.batch_size * mesh.size, maps)
        results = {"name": Path(args.weights).stem, **facts, **summarize(images)}
        title = (
            f"{args.weights} on {args.dataset} {args.split}, {len(images)} images, {size}x{size}, TTA: {facts['tta']}"
        )
        report.print_table(title, [results])
        if warning := polarity_warning(results):
            print(warning)
        if out:
            write_report(out, title, facts, results, records, images, partial(predict, model, variables))
    if args.out:
        print(f"wrote {args.out}/report.md")


def write_report(
    out: Path,
    title: str,
    facts: dict,
    results: dict,
    records: Sequence[dict],
    images: Sequence[ImageScores],
    predict_one: Callable[[np.ndarray], Prediction],
) -> None:
    """The report, the tables and the pictures, beside the maps that are in `out` already."""
    report.write_json(out / "results.json", results, images)
    report.write_csv(out / "per_image.csv", images)
    report.write_results_csv(out / "results.csv", results)
    report.draw_pr_curves(out / "pr.png", [results])
    draw_extremes(out, records, images)
    first = range(min(PANEL_ROWS, len(records)))
    shown = [decode_reduced(records[i], MOST_SHOWN) for i in first]
    save_picture(out / "panel.png", example_panel(shown, [predict_one(example.image) for example in shown]))
    report.write_markdown(out / "report.md", title, [f"{k}: {v}" for k, v in facts.items()], results)
