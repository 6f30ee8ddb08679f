"""Focus maps of a dataset's records, and their scores: what `jaxdbd evaluate` prints and training watches."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float32, Int, UInt8
from PIL import Image
from tqdm import tqdm

from jaxdbd.inference import SquareMaps, inference_options, maps_of, one_ahead, rows_of
from jaxdbd.input.geometry import rows_to_size, to_size
from jaxdbd.input.records import Example, evaluation_batches
from jaxdbd.machine.files import whole_file
from jaxdbd.machine.parallel import LARGE, ahead, strips_of, worker_pool
from jaxdbd.network.model import MULTIPLE, DepthDistilledDBD, normalize
from jaxdbd.scoring.blur import Sample, blur_scores, sample
from jaxdbd.scoring.depth import depth_scores, mean_scores
from jaxdbd.scoring.metrics import ImageScores, best_threshold, count_levels, score_counts, summarize_ddff
from jaxdbd.sharding import all_rows_to_devices, replicated

TTA = ("flip", "scales")
SCALES = (0.75, 1.0, 1.25)
WAITING, WAITING_PIXELS = 64, 32_000_000  # maps that wait to be scored: bounds the memory of a large set
# Takes a batch [B, S, S, 3] of RGB bytes.
Predict = Callable[[UInt8[np.ndarray, "b s s 3"]], SquareMaps]


class Counts(NamedTuple):
    """Of one photograph."""

    levels: Int[np.ndarray, "2 256"]  # pixels by level of the map
    depth: dict[str, float]  # its measures; {} where network or record have no depth
    blur: Sample | None


def focus_predictor(
    model: DepthDistilledDBD, mesh: Mesh, tta: Sequence[str] = ()
) -> Callable[[dict, UInt8[np.ndarray, "b s s 3"]], SquareMaps]:
    """A compiled (variables, images) -> maps of the batch, which is split over the mesh.

    B must be a multiple of the devices; `variables` are on the mesh, replicated or sharded. A row does not see the
    others (BatchNorm uses its running statistics), so neither the number of devices nor what pads a batch changes it.
    Every device, and every process, gets the whole result.
    `tta` averages the maps over mirror images ("flip") and over three sizes of the batch ("scales").
    """

    def at_scale(variables, images, scale):
        b, size, _, channels = images.shape
        side = max(1, round(size * scale / MULTIPLE)) * MULTIPLE
        maps = maps_of(model, variables, jax.image.resize(images, (b, side, side, channels), "cubic"))
        return jax.tree.map(lambda p: jax.image.resize(p, (b, size, size), "linear"), maps)

    @partial(jax.jit, out_shardings=replicated(mesh), compiler_options=inference_options())
    def average(variables, images):
        images = normalize(images, model.encoder)
        views = [(images, lambda p: p)]
        if "flip" in tta:
            views.append((images[:, :, ::-1], lambda p: p[:, :, ::-1]))
        scales = SCALES if "scales" in tta else (1.0,)
        maps = [
            jax.tree.map(undo, maps_of(model, variables, view) if scale == 1.0 else at_scale(variables, view, scale))
            for view, undo in views
            for scale in scales
        ]
        return jax.tree.map(lambda *each: jnp.stack(each).mean(axis=0), *maps)

    return lambda variables, images: average(variables, all_rows_to_devices(images, mesh))


def to_map(p: Float32[np.ndarray, "s s"], shape: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Probabilities as the 8-bit map of a mask's (height, width) that `jaxdbd predict` would write."""
    if shape[0] * shape[1] <= LARGE:
        return _levels(to_size(p, shape))
    levels = np.empty(shape, np.uint8)
    for rows in strips_of(levels):
        levels[rows] = _levels(rows_to_size(p, shape, rows))
    return levels


def _levels(focus: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    focus *= 255
    return np.rint(focus, out=focus).astype(np.uint8)


def focus_maps(
    predict: Predict, records: Sequence[dict], size: int, batch_size: int
) -> Iterator[tuple[Example, UInt8[np.ndarray, "h w"], SquareMaps]]:
    """Each record decoded, with its focus map at its mask's size and all maps as squares, in order."""
    batches = evaluation_batches(records, size=size, batch_size=batch_size)
    for (_, examples), maps in one_ahead(lambda item: predict(item[0]), batches):
        for example, squares in zip(examples, rows_of(maps, len(examples)), strict=True):
            yield example, to_map(squares.focus, example.mask.shape), squares


def quick_scores(predict: Predict, records: Sequence[dict], size: int, batch_size: int) -> dict[str, float]:
    """Scores that training can afford often: `summarize_counts` of `quick_counts`."""
    return summarize_counts(list(quick_counts(predict, records, size, batch_size)))


def quick_counts(predict: Predict, records: Sequence[dict], size: int, batch_size: int) -> Iterator[Counts]:
    """What `summarize_counts` needs to know of each record, in order."""
    for example, focus, squares in focus_maps(predict, records, size, batch_size):
        levels = count_levels(*valid_pixels(focus, example))
        yield Counts(levels, near_scores(example, squares.depth), sample(squares, example.mask.shape, example.blur))


def summarize_counts(counts: Sequence[Counts]) -> dict[str, float]:
    """The scores of a set from the counts of its photographs.

    Returns:
      `mae`, `f` and `iou` under protocol `ddff` at the masks' own sizes, over the pixels where the mask is valid;
      `threshold` for a binary mask, by `best_threshold`; and, where network and records have depth, each of
      `scoring.depth.MEASURES` as `depth/<measure>`, averaged over the photographs; and, where the network has a blur
      head, those of `scoring.blur.blur_scores` as `blur/<measure>`.
    """
    levels = [each.levels for each in counts]
    depth = mean_scores([each.depth for each in counts if each.depth])
    blur = blur_scores([each.blur for each in counts if each.blur])
    heads = {f"{head}/{name}": v for head, found in (("depth", depth), ("blur", blur)) for name, v in found.items()}
    return {**summarize_ddff(levels), "threshold": best_threshold(levels), **heads}


def near_scores(example: Example, depth: Float32[np.ndarray, "s s"] | None) -> dict[str, float]:
    """`depth_scores` of a photograph against its teacher, {} where either has no depth."""
    if depth is None or example.depth is None:
        return {}
    return depth_scores(depth, example.depth.astype(np.float32))


def valid_pixels(
    focus: UInt8[np.ndarray, "h w"], example: Example
) -> tuple[UInt8[np.ndarray, "*at"], Bool[np.ndarray, "*at"]]:
    """The map, and what its mask has in focus, where the mask counts."""
    in_focus = example.mask >= 128
    if example.valid is None:
        return focus, in_focus
    inside = example.valid >= 128
    return focus[inside], in_focus[inside]


def score_records(
    predict: Predict, records: Sequence[dict], size: int, batch_size: int, maps_dir: Path | None = None
) -> list[ImageScores]:
    """Every measure of every record; the maps are written to `maps_dir` as <id>.png where it is given.

    Where a mask does not count, the map is taken for right.
    """
    from jaxdbd.scoring.structure import reduced  # its py_sod_metrics takes a second, and a training scores without it

    def to_score():
        for example, focus, squares in focus_maps(predict, records, size, batch_size):
            if maps_dir:
                with whole_file(maps_dir / f"{example.id}.png") as unfinished:
                    Image.fromarray(focus).save(unfinished, "PNG")
            if example.valid is not None:
                focus = np.where(example.valid >= 128, focus, example.mask)
            near, blur = near_scores(example, squares.depth), sample(squares, example.mask.shape, example.blur)
            scores = dataclasses.replace(score_counts(example.id, focus, example.mask), depth=near, blur=blur)
            yield scores, reduced(focus), reduced(example.mask)  # so that no large map goes from process to process

    with worker_pool() as pool:
        scored = ahead(
            pool, _with_structure, to_score(), WAITING, weight=lambda item: item[1].size, most=WAITING_PIXELS
        )
        return [future.result() for _, future in tqdm(scored, total=len(records), unit=" images")]


def _with_structure(item: tuple[ImageScores, np.ndarray, np.ndarray]) -> ImageScores:
    from jaxdbd.scoring.structure import with_structure

    return with_structure(*item)
