"""Draws what augmentation makes of photographs: a line for each thing that may happen to them.

python -m tools.augmented --dataset=dbd/cuhk --data_dir=DIR --out=FILE.png
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Key, UInt8

from jaxdbd.input.augment import Augmentation, augment
from jaxdbd.input.placement import place
from jaxdbd.input.records import open_split
from jaxdbd.input.resident import longest_side
from jaxdbd.input.views import Canvas
from jaxdbd.machine.paths import as_path
from jaxdbd.machine.startup import exit_status
from jaxdbd.photographs.overlay import depth_colors
from jaxdbd.photographs.panels import panel, save_picture

SHOWN = 4  # photographs, two pairs of partners
PLAIN = Augmentation(flip=False, min_area=1.0, max_aspect=1.0, jitter=0.0)
FORCED = ("sharp", "tiled", "blurred", "refocused", "pasted", "veiled", "shrunk", "gray", "jpeg")
ALONE = {
    "nothing": PLAIN,
    "flip, min_area, max_aspect": Augmentation(jitter=0.0),
    **{name: dataclasses.replace(PLAIN, **{name: 1.0}) for name in FORCED},
    "tiled and sky": dataclasses.replace(PLAIN, tiled=1.0, sky=1.0),
    "jitter": dataclasses.replace(PLAIN, jitter=0.3),
    "noise": dataclasses.replace(PLAIN, noise=20.0),
}
UNCOUNTED = np.array([255, 80, 80], np.uint8)  # the color of mask pixels that do not count


def pictures(rows: Mapping[str, np.ndarray], i: int) -> list[UInt8[np.ndarray, "s s 3"]]:
    """Row i of what `augment` returns: the photograph, its mask, and the depth if there is one."""
    mask = np.repeat(rows["mask"][i], 3, axis=-1)
    found = [rows["image"][i], np.where(rows["valid"][i] > 127, mask, UNCOUNTED)]
    return found + ([depth_colors(rows["depth"][i, ..., 0])] if "depth" in rows else [])


def sheet(
    canvases: Canvas, keys: Key[Array, " b"], size: int, lines: Mapping[str, Augmentation] = ALONE
) -> UInt8[np.ndarray, "h w 3"]:
    """A grid of pictures: each of `lines` with a view of every photograph, under the name it has there."""
    rows, captions = [], []
    for name, settings in lines.items():
        seen = jax.tree.map(np.asarray, jax.jit(partial(augment, size=size, settings=settings))(canvases, keys))
        rows.append([picture for i in range(len(keys)) for picture in pictures(seen, i)])
        captions.append(name)
    titles = ["photograph", "mask", *(["depth"] if "depth" in canvases.maps else [])] * len(keys)
    return panel(rows, titles, side=size, captions=captions)


def main() -> None:
    """Draws the sheet of a few photographs of a dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="dbd/cuhk")
    parser.add_argument("--split", default="train")
    parser.add_argument("--data_dir", type=as_path)
    parser.add_argument("--size", type=int, default=192, help="side of a view, a multiple of 16 (192)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=as_path, required=True, help="FILE.png")
    args = parser.parse_args()
    records = open_split(args.dataset, args.split, args.data_dir)
    chosen = np.random.default_rng(args.seed).permutation(len(records))[:SHOWN]
    placed = place([[records[int(i)] for i in chosen]], longest_side(args.size), ["depth"], "host")
    keys = jax.random.split(jax.random.key(args.seed), SHOWN)
    save_picture(args.out, sheet(placed.gather(np.arange(SHOWN, dtype=np.int32)), keys, args.size))


if __name__ == "__main__":
    sys.exit(exit_status(main))
