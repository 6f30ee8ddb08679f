"""Makes the weights that ship from those of trainings: averaged, at another size, a shifted focus map, half the bytes.

    python -m tools.calibrate --weights DIR [DIR ...] --out=FILE --data_dir=DIR [--shares S ...] [--size=352]

Weights of two stages of which one went on from the other can be averaged: what the second forgot of the first comes
back (Wortsman et al., CVPR 2022). A network that is trained on crops of one size is better applied at a larger one
(Touvron et al., NeurIPS 2019). The focus map is pulled to the photograph's edges (`jaxdbd.network.edges`), a constant
is added to its logits, and they are made steeper: by the pair with the least mean error on the validation photographs,
each dataset counting as much as another. The threshold is that which calls most pixels right there.

The error falls with the slope as long as more pixels are right than wrong, but less and less, and what is left of the
probability falls too: so the slope is the least one that comes within `CLOSE` of the best.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxdbd import weights
from jaxdbd.errors import UserError
from jaxdbd.input.records import open_parts
from jaxdbd.machine.paths import as_path
from jaxdbd.machine.startup import exit_status
from jaxdbd.network.model import MULTIPLE, DepthDistilledDBD
from jaxdbd.scoring.maps import focus_maps, focus_predictor, valid_pixels
from jaxdbd.scoring.metrics import LEVELS, best_threshold, count_levels
from jaxdbd.sharding import make_mesh, replicated

SHIFTS = [i / 4 for i in range(-8, 13)]  # that are tried
SLOPES = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0]
CLOSE = 5e-4  # in mean absolute error
BATCH = 4


def averaged(variables: Sequence[weights.Variables], shares: Sequence[float]) -> weights.Variables:
    """The mean of weights of one network, each counting by its share."""
    shares = [share / sum(shares) for share in shares]
    return jax.tree.map(lambda *each: sum(np.float32(s) * x for s, x in zip(shares, each, strict=True)), *variables)


def with_blur_heads(
    networks: Sequence[tuple[DepthDistilledDBD, weights.Variables]],
) -> list[tuple[DepthDistilledDBD, weights.Variables]]:
    """The networks, of which those without a blur head get that of the first that has one, if any has."""
    head = next((weights.blur_head(variables) for model, variables in networks if model.blur_head), None)
    return [
        (model, variables)
        if head is None or model.blur_head
        else (model.clone(blur_head=True), weights.add_blur_head(variables, head))
        for model, variables in networks
    ]


def moved(p: Float[np.ndarray, " n"], shift: float, slope: float) -> Float[np.ndarray, " n"]:
    """Probabilities after a constant is added to their logits and the sum is made steeper; 0 and 1 stay."""
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return 1 / (1 + ((1 - p) / p * np.exp(-shift)) ** slope)


def mean_error(levels: Sequence[Int[np.ndarray, "2 256"]], shift: float, slope: float) -> float:
    """The mean absolute error of photographs of which `count_levels` is given, after `moved`."""
    p = moved(LEVELS / 255, shift, slope)
    return float(np.mean([(n[0] @ p + n[1] @ (1 - p)) / n.sum() for n in levels]))


def best_pair(
    parts: Sequence[Sequence[Int[np.ndarray, "2 256"]]], shifts: Sequence[float], slopes: Sequence[float]
) -> tuple[float, float]:
    """The shift and the least slope whose error, a mean over the parts, is `CLOSE` to the best; prints all."""
    best = []
    for slope in slopes:
        errors = {shift: [mean_error(levels, shift, slope) for levels in parts] for shift in shifts}
        shift = min(shifts, key=lambda shift: np.mean(errors[shift]))
        print(f"slope {slope:3.1f}, shift {shift:5.2f}: mean error", *(f"{e:.4f}" for e in errors[shift]), flush=True)
        best.append((float(np.mean(errors[shift])), slope, shift))
    least = min(best)[0]
    return next((shift, slope) for error, slope, shift in sorted(best, key=lambda b: b[1]) if error <= least + CLOSE)


def count(model, variables, records: Sequence[dict]) -> list[Int[np.ndarray, "2 256"]]:
    """`count_levels` of each record's focus map."""
    mesh = make_mesh()
    predict = partial(focus_predictor(model, mesh), jax.device_put(variables, replicated(mesh)))
    maps = focus_maps(predict, records, model.size, BATCH)
    return [count_levels(*valid_pixels(focus, example)) for example, focus, _ in maps]


def main() -> None:
    """Chooses shift and slope, and writes the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights", required=True, nargs="+", help=".safetensors files or trainings' folders, all of one network"
    )
    parser.add_argument("--out", required=True, type=as_path, help="FILE.safetensors")
    parser.add_argument("--shares", nargs="+", type=float, help="of each of the weights in the average (equal)")
    parser.add_argument("--size", type=int, help="side of the square that the network will see (as trained)")
    parser.add_argument(
        "--edge_radius", type=float, default=0.02, help="share of the longer side, 0 for no filter (0.02)"
    )
    parser.add_argument("--shift", type=float, help="of the logits (chosen on the split)")
    parser.add_argument("--edge_slope", type=float, help="factor of the logits (chosen on the split)")
    parser.add_argument("--dataset", default="dbd/cuhk+dbd/refocused")
    parser.add_argument("--split", default="train[:60]+test[:60]")
    parser.add_argument("--data_dir")
    args = parser.parse_args()
    networks = with_blur_heads([weights.load(name) for name in args.weights])
    size = args.size or networks[0][0].size
    model, *others = (network.clone(size=size, edge_radius=args.edge_radius, edge_slope=1.0) for network, _ in networks)
    if size % MULTIPLE:
        raise UserError(f"--size={size}: the network takes multiples of {MULTIPLE}")
    if any(other != model for other in others):
        raise UserError("--weights: these are of different networks; give those of one")
    shares = args.shares or [1.0] * len(networks)
    if len(shares) != len(networks) or sum(shares) <= 0:
        raise UserError(f"--shares: {len(shares)} numbers for {len(networks)} weights, or none above 0")
    variables = averaged([v for _, v in networks], shares)

    parts = [count(model, variables, records) for records in open_parts(args.dataset, args.split, args.data_dir)]
    shifts = SHIFTS if args.shift is None else [args.shift]
    shift, slope = best_pair(parts, shifts, SLOPES if args.edge_slope is None else [args.edge_slope])

    fuse = variables["params"]["fuse_focus"]
    variables = {
        **variables,
        "params": {**variables["params"], "fuse_focus": {**fuse, "bias": fuse["bias"] + np.float32(shift)}},
    }
    notes = weights.read_metadata(args.weights[-1])
    before = best_threshold([levels for part in parts for levels in part])
    threshold = float(moved(np.array([before]), shift, slope)[0])
    model = model.clone(edge_slope=slope)
    weights.save(
        args.out, model, variables, dataset=notes.dataset, license=notes.license, threshold=threshold, dtype=np.float16
    )
    print(f"{args.out}: {size} pixels, logits shifted by {shift:g}, slope {slope:g}, threshold {threshold:.3f}")


if __name__ == "__main__":
    sys.exit(exit_status(main))
