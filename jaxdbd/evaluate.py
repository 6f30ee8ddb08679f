"""`jaxdbd evaluate`: a network on a built dataset, under every protocol; and the quick scores that training watches."""

import argparse
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, UInt8
from PIL import Image
from tqdm import tqdm

from jaxdbd import input_pipeline, report, weights
from jaxdbd.errors import UserError
from jaxdbd.metrics import ImageScores, best_threshold, count_levels, summarize, summarize_ddff
from jaxdbd.model import DepthDistilledDBD, normalize
from jaxdbd.predict import predict, to_size
from jaxdbd.score import polarity_warning, worker_pool, write_csv, write_json
from jaxdbd.sharding import batch_sharding, make_mesh, replicated
from jaxdbd.structure import score_image
from jaxdbd.viz import example_panel

TTA = ("flip", "scales")
SCALES = (0.75, 1.0, 1.25)
PANEL_ROWS = 10
# Takes a batch [B, S, S, 3] of RGB bytes and gives the probability of being in focus.
PredictBatch = Callable[[UInt8[np.ndarray, "b s s 3"]], Float[Array, "b s s"]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxdbd evaluate`."""
    parser.add_argument("--weights", required=True, help="a .safetensors file, a training workdir, or a bundled name")
    parser.add_argument("--dataset", required=True, help="a built dataset, such as dbd/cuhk")
    parser.add_argument("--split", default="test", help="its split (test)")
    parser.add_argument("--data_dir", help="where the dataset was built (TFDS's own folder)")
    parser.add_argument("--out", type=Path, help="write report.md, the tables and the maps here")
    parser.add_argument("--tta", default="", help="average over flip, scales or flip,scales (none)")
    parser.add_argument("--batch_size", type=int, default=8, help="images per device (8)")


def focus_predictor(
    model: DepthDistilledDBD, mesh: Mesh, tta: Sequence[str] = ()
) -> Callable[[dict, UInt8[np.ndarray, "b s s 3"]], Float[Array, "b s s"]]:
    """A compiled (variables, images) -> probability of being in focus, the batch split over the mesh.

    B must be a multiple of the devices; `variables` are on the mesh, whole or cut. Rows do not see others (BatchNorm
    uses its running statistics), so neither the number of devices nor what pads a batch changes a row. Every device,
    and every process, gets the whole result.
    `tta` averages the probability over mirror images ("flip") and over three sizes of the batch ("scales").
    """
    rows = batch_sharding(mesh)

    def probability(variables, images):
        return jax.nn.sigmoid(model.apply(variables, images, train=False).focus[..., 0])

    def at_scale(variables, images, scale):
        b, size, _, channels = images.shape
        side = max(32, round(size * scale / 32) * 32)
        p = probability(variables, jax.image.resize(images, (b, side, side, channels), "cubic"))
        return jax.image.resize(p, (b, size, size), "linear")

    @partial(jax.jit, out_shardings=replicated(mesh))
    def average(variables, images):
        images = normalize(images, model.encoder)
        views = [(images, lambda p: p)]
        if "flip" in tta:
            views.append((images[:, :, ::-1], lambda p: p[:, :, ::-1]))
        scales = SCALES if "scales" in tta else (1.0,)
        maps = [
            undo(probability(variables, view) if scale == 1.0 else at_scale(variables, view, scale))
            for view, undo in views
            for scale in scales
        ]
        return jnp.stack(maps).mean(axis=0)

    def predict_batch(variables, images):
        # Every process has the whole batch, and hands over the rows of its own devices.
        return average(variables, jax.make_array_from_callback(images.shape, rows, lambda index: images[index]))

    return predict_batch


def to_map(p: Float32[np.ndarray, "s s"], shape: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Probabilities as the 8-bit map of a mask's (height, width) that `jaxdbd predict` would write."""
    return np.rint(to_size(p, shape) * 255).astype(np.uint8)


def focus_maps(
    predict_batch: PredictBatch, records: Sequence[dict], size: int, batch_size: int
) -> Iterator[tuple[input_pipeline.Example, UInt8[np.ndarray, "h w"]]]:
    """Each record decoded, with its predicted map at its mask's size, in order; what pads the last batch is dropped."""

    def finish(examples, p):
        for example, row in zip(examples, np.asarray(p), strict=False):
            yield example, to_map(row, example.mask.shape)

    # A batch's result is fetched after the next one is dispatched: photographs are decoded while the device works.
    running = None
    for batch, examples in input_pipeline.evaluation_batches(records, size=size, batch_size=batch_size):
        dispatched = examples, predict_batch(batch["image"])
        if running:
            yield from finish(*running)
        running = dispatched
    if running:
        yield from finish(*running)


def ddff_scores(predict_batch: PredictBatch, records: Sequence[dict], size: int, batch_size: int) -> dict[str, float]:
    """MAE, F and IoU under protocol `ddff` at the masks' own sizes, and the threshold of the best F for a binary mask.

    Nothing else, so that training can afford it often.
    """
    maps = focus_maps(predict_batch, records, size, batch_size)
    levels = [count_levels(focus, example.mask >= 128) for example, focus in maps]
    return {**summarize_ddff(levels), "threshold": best_threshold(levels)}


def score_records(
    predict_batch: PredictBatch, records: Sequence[dict], size: int, batch_size: int, maps_dir: Path | None = None
) -> list[ImageScores]:
    """Every measure of every record; the maps are written to `maps_dir` as <id>.png where it is given."""
    images, waiting = [], deque()
    with worker_pool() as pool:
        for example, focus in tqdm(
            focus_maps(predict_batch, records, size, batch_size), total=len(records), unit=" images"
        ):
            if maps_dir:
                Image.fromarray(focus).save(maps_dir / f"{example.id}.png")
            waiting.append(pool.submit(score_image, example.id, focus, example.mask))
            if len(waiting) > 64:  # bounds the memory of a large set
                images.append(waiting.popleft().result())
        images += [future.result() for future in waiting]
    return images


def draw_extremes(out: Path, records: Sequence[dict], images: Sequence[ImageScores]) -> None:
    """worst.png and best.png: the photographs with the largest and the smallest MAE."""
    rows = [x.row() for x in images]
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["mae"], rows[i]["id"]))
    for name, chosen in {"best": order[:PANEL_ROWS], "worst": order[::-1][:PANEL_ROWS]}.items():
        panel = []
        for i in chosen:
            example = input_pipeline.decode(records[i])
            focus = np.asarray(Image.open(out / "maps" / f"{example.id}.png"))
            caption = f"{example.id}\nMAE {rows[i]['mae']:.3f}  ddff F {rows[i]['ddff_f']:.3f}"
            panel.append((caption, example.image, example.mask, focus))
        report.draw_panel(out / f"{name}.png", panel)


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
    size = model.size
    records = input_pipeline.open_split(args.dataset, args.split, args.data_dir)
    mesh = make_mesh()
    variables = jax.device_put(variables, replicated(mesh))
    predict_batch = partial(focus_predictor(model, mesh, tta), variables)
    if args.out:
        (args.out / "maps").mkdir(parents=True, exist_ok=True)
    images = score_records(
        predict_batch, records, size, args.batch_size * mesh.size, args.out / "maps" if args.out else None
    )

    facts = {
        "dataset": args.dataset,
        "split": args.split,
        "weights": args.weights,
        "size": size,
        "tta": describe_tta(tta),
    }
    results = {"name": Path(args.weights).stem, **facts, **summarize(images)}
    title = f"{args.weights} on {args.dataset} {args.split}, {len(images)} images, {size}x{size}, TTA: {facts['tta']}"
    report.print_table(title, [results])
    if warning := polarity_warning(results):
        print(warning)
    if args.out:
        write_json(args.out / "results.json", results, images)
        write_csv(args.out / "per_image.csv", images)
        report.write_results_csv(args.out / "results.csv", results)
        report.draw_pr_curves(args.out / "pr.png", [results])
        draw_extremes(args.out, records, images)
        shown = [input_pipeline.decode(records[i]) for i in range(min(PANEL_ROWS, len(records)))]
        predictions = [predict(model, variables, example.image) for example in shown]
        Image.fromarray(example_panel(shown, predictions)).save(args.out / "panel.png")
        report.write_markdown(args.out / "report.md", title, [f"{k}: {v}" for k, v in facts.items()], results)
        print(f"wrote {args.out}/report.md")
