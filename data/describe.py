"""What a built dataset holds: figures, a test of the teacher's polarity, and a sheet of examples to look at."""

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Float, Float16, UInt8
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from jaxdbd.input.records import reduced_size
from jaxdbd.input.shards import Records
from jaxdbd.machine.files import make_folder, shown
from jaxdbd.photographs.panels import gray, panel, save_picture

EXAMPLES, COLUMNS = 24, 3  # of the sheet
SHOWN = 1024  # pixels of the longer side, several times what the sheet shows


def depth_auc(depth: Float16[np.ndarray, "h w"], in_focus: Bool[np.ndarray, "H W"]) -> float:
    """The probability that a random pixel in focus is nearer than a random one out of focus; NaN without one kind.

    Area under the ROC curve by the rank sum (Mann and Whitney 1947), at the depth map's resolution. Pixels without a
    measurement, NaN, do not count.
    """
    known = np.isfinite(depth)
    mask = np.asarray(Image.fromarray(in_focus).resize(depth.shape[::-1], Image.Resampling.NEAREST))[known]
    focus, blur = int(mask.sum()), int((~mask).sum())
    if not focus or not blur:
        return float("nan")
    ranks = rankdata(depth[known].astype(np.float32))[mask]
    return float((ranks.sum() - focus * (focus + 1) / 2) / (focus * blur))


def open_dataset(folder: Path) -> Any:
    """TFDS's reader of a built dataset; its annotations say less than what it can do."""
    return tfds.builder_from_directory(folder)


def statistics(folder: Path) -> dict[str, dict]:
    """Figures of each split of the dataset built in `folder`.

    Returns:
        `{split: {height, width, counts, focus, depth_missing, auc, holes}}`, arrays [n] over images: `height` and
        `width` in pixels, `counts` the share of pixels whose mask counts, `focus` the share of those in focus,
        `depth_missing` 0 or 1, `auc` as `depth_auc` has it, NaN without depth, `holes` the share of the depth map
        without a measurement.
    """
    out = {}
    builder = open_dataset(folder)
    for split in builder.info.splits:
        rows = []
        for record in Records(builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})):
            mask = record["mask"][..., 0] > 127
            auc = depth_auc(record["depth"][..., 0], mask) if "depth" in record else np.nan
            holes = np.isnan(record["depth"]).mean() if "depth" in record else 0.0
            valid = record["valid"][..., 0] > 127 if "valid" in record else np.ones_like(mask)
            focus = mask[valid].mean() if valid.any() else np.nan
            rows.append((*mask.shape, valid.mean(), focus, "depth" not in record, auc, holes))
        columns = ("height", "width", "counts", "focus", "depth_missing", "auc", "holes")
        out[split] = dict(zip(columns, np.array(rows, float).T, strict=True))
    return out


def auc_line(split: str, auc: Float[np.ndarray, " n"]) -> str:
    """One line on how well nearness tells what is in focus. Quartiles go over images."""
    known = auc[~np.isnan(auc)]
    if not known.size:
        return f"{split}: no depth, or no image with both focus and blur: polarity not tested"
    mean, (low, middle, high) = known.mean(), np.percentile(known, [25, 50, 75])
    line = f"{split}: nearness ranks in-focus pixels with AUC {mean:.3f} (quartiles {low:.2f} {middle:.2f} {high:.2f})"
    if mean < 0.4:  # choice of ours: in photographs what is in focus is mostly near
        line += "; so far under 0.5 hints at an inverted teacher, see --teacher_polarity"
    return line


def holes_line(split: str, holes: Float[np.ndarray, " n"]) -> str | None:
    """One line on depth maps with pixels that were not measured, or None where there are none."""
    if not holes.any():
        return None
    count, share = int((holes > 0).sum()), holes.mean()
    return f"{split}: {count} of {len(holes)} depth maps have pixels without a measurement (0), {share:.2%} of all: NaN"


def describe(folder: Path, sheet: Path) -> None:
    """Prints the figures of the dataset built in `folder` and draws 24 of its examples."""
    info = open_dataset(folder).info
    figures = statistics(folder)
    gaps = "valid" in info.features
    names = ["split", "images", "width", "height", *["mask counts"] * gaps, "in focus", "without depth"]
    table = Table(*names, title=info.full_name)
    for split, s in figures.items():
        width, height = (f"{np.median(v):.0f} ({v.min():.0f}-{v.max():.0f})" for v in (s["width"], s["height"]))
        shares = [share(s[name]) for name in ["counts"] * gaps + ["focus"]]
        table.add_row(split, str(len(s["focus"])), width, height, *shares, f"{s['depth_missing'].mean():.0%}")
    Console().print(table)
    print("width, height: median (range); mask counts, in focus: mean share (quartiles)")
    teacher: Any = info.metadata["teacher"] or {"name": "none"}
    print("teacher:", ", ".join(f"{key} {value}" for key, value in teacher.items() if key != "features"))
    for key, found in teacher.get("features", {}).items():
        print(f"{key}: {found['tensor']}, {' x '.join(map(str, found['shape']))}")
    for split, s in figures.items():
        if not gaps:  # else someone chose the focus, and it tells nothing of the teacher
            print(auc_line(split, s["auc"]))
    for split, s in figures.items():
        if line := holes_line(split, s["holes"]):
            print(line)
    draw_sheet(folder, sheet)
    left_out = ", gray = left out of the loss" if gaps else ""
    print(f"examples (photograph; mask, white = in focus{left_out}; depth, white = near): {sheet}")


def share(values: Float[np.ndarray, " n"]) -> str:
    """The mean and the quartiles of shares."""
    low, middle, high = np.nanpercentile(values, [25, 50, 75])
    return f"{np.nanmean(values):.3f} ({low:.2f} {middle:.2f} {high:.2f})"


def draw_sheet(folder: Path, path: Path) -> None:
    """Draws EXAMPLES spread over all splits, COLUMNS of them in a row, and saves them as one image."""
    builder = open_dataset(folder)
    sources = map(Records, builder.as_data_source().values())
    everything = [(source, i) for source in sources for i in range(len(source))]
    chosen = np.unique(np.linspace(0, len(everything) - 1, EXAMPLES).round().astype(int))
    drawn = [pictures(source[i]) for source, i in (everything[index] for index in chosen)]
    rows = [list(itertools.chain(*drawn[i : i + COLUMNS])) for i in range(0, len(drawn), COLUMNS)]
    titles = ["photograph", "mask", "depth"][: len(drawn[0])] * min(COLUMNS, len(drawn))
    save_picture(path, panel(rows, titles, side=200))


def draw_scenes(folder: Path, pictures_folder: Path) -> None:
    """Draws each scene of pairs as one image, NAME.png, with a row for each of its photographs."""
    builder, found = open_dataset(folder), {}
    for split in builder.info.splits:
        encoded = dict.fromkeys(("image", "mask", "valid"), tfds.decode.SkipDecoding())
        for index, record in enumerate(builder.as_data_source(split, decoders=encoded)):
            name = record["id"].decode()
            found.setdefault(name.rpartition("_")[0], []).append((name, split, index))
    make_folder(pictures_folder)
    for scene, places in found.items():
        ordered = sorted(places, key=lambda place: int(place[0].rpartition("_")[2]))
        rows = [pictures(builder.as_data_source(split)[index]) for _, split, index in ordered]
        titles = ["photograph", "mask", "depth"][: len(rows[0])]
        save_picture(pictures_folder / f"{scene}.png", panel(rows, titles, side=400))
    print(f"{len(found)} scenes: {shown(pictures_folder)}")


def pictures(record: dict) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Photograph, mask and, where there is one, depth, in at most SHOWN pixels. The mask is gray where not valid.

    Of a depth map black is far, or was not measured.
    """
    mask = _shrunk(record["mask"][..., 0]) / np.float32(255)
    if "valid" in record:
        mask = np.where(_shrunk(record["valid"][..., 0]) > 127, mask, np.float32(0.5))
    maps = [mask, np.nan_to_num(record["depth"][..., 0])] if "depth" in record else [mask]
    return [_shrunk(record["image"]), *map(gray, maps)]


def _shrunk(picture: UInt8[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h2 w2 *c"]:
    height, width = reduced_size(picture.shape[:2], SHOWN)
    if (height, width) == picture.shape[:2]:
        return picture
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
