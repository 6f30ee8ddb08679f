"""Focus maps of a dataset's records, and their scores: what `jaxdbd evaluate` prints and training watches."""

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

from jaxdbd.inference import maps_of, one_ahead
from jaxdbd.input.geometry import to_size
from jaxdbd.input.pipeline import Example, evaluation_batches
from jaxdbd.network.model import DepthDistilledDBD, normalize
from jaxdbd.parallel import ahead, worker_pool
from jaxdbd.scoring.metrics import ImageScores, best_threshold, count_levels, summarize_ddff
from jaxdbd.scoring.structure import score_image
from jaxdbd.sharding import all_rows_to_devices, replicated

TTA = ("flip", "scales")
SCALES = (0.75, 1.0, 1.25)
WAITING = 64  # maps that wait to be scored: bounds the memory of a large set
# Takes a batch [B, S, S, 3] of RGB bytes and gives the probability of being in focus.
PredictBatch = Callable[[UInt8[np.ndarray, "b s s 3"]], Float[Array, "b s s"]]


def focus_predictor(
    model: DepthDistilledDBD, mesh: Mesh, tta: Sequence[str] = ()
) -> Callable[[dict, UInt8[np.ndarray, "b s s 3"]], Float[Array, "b s s"]]:
    """A compiled (variables, images) -> probability of being in focus, the batch split over the mesh.

    B must be a multiple of the devices; `variables` are on the mesh, replicated or sharded. Rows do not see others
    (BatchNorm uses its running statistics), so neither the number of devices nor what pads a batch changes a row. Every
    device, and every process, gets the whole result.
    `tta` averages the probability over mirror images ("flip") and over three sizes of the batch ("scales").
    """

    def at_scale(variables, images, scale):
        b, size, _, channels = images.shape
        side = max(32, round(size * scale / 32) * 32)
        p, _ = maps_of(model, variables, jax.image.resize(images, (b, side, side, channels), "cubic"))
        return jax.image.resize(p, (b, size, size), "linear")

    @partial(jax.jit, out_shardings=replicated(mesh))
    def average(variables, images):
        images = normalize(images, model.encoder)
        views = [(images, lambda p: p)]
        if "flip" in tta:
            views.append((images[:, :, ::-1], lambda p: p[:, :, ::-1]))
        scales = SCALES if "scales" in tta else (1.0,)
        maps = [
            undo(maps_of(model, variables, view)[0] if scale == 1.0 else at_scale(variables, view, scale))
            for view, undo in views
            for scale in scales
        ]
        return jnp.stack(maps).mean(axis=0)

    return lambda variables, images: average(variables, all_rows_to_devices(images, mesh))


def to_map(p: Float32[np.ndarray, "s s"], shape: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Probabilities as the 8-bit map of a mask's (height, width) that `jaxdbd predict` would write."""
    return np.rint(to_size(p, shape) * 255).astype(np.uint8)


def focus_maps(
    predict_batch: PredictBatch, records: Sequence[dict], size: int, batch_size: int
) -> Iterator[tuple[Example, UInt8[np.ndarray, "h w"]]]:
    """Each record decoded, with its predicted map at its mask's size, in order; what pads the last batch is dropped."""
    batches = evaluation_batches(records, size=size, batch_size=batch_size)
    for (_, examples), p in one_ahead(lambda item: predict_batch(item[0]["image"]), batches):
        for example, row in zip(examples, np.asarray(p), strict=False):
            yield example, to_map(row, example.mask.shape)


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

    def to_score():
        for example, focus in focus_maps(predict_batch, records, size, batch_size):
            if maps_dir:
                Image.fromarray(focus).save(maps_dir / f"{example.id}.png")
            yield example.id, focus, example.mask

    with worker_pool() as pool:
        scored = ahead(pool, _score, to_score(), WAITING)
        return [future.result() for _, future in tqdm(scored, total=len(records), unit=" images")]


def _score(item: tuple[str, np.ndarray, np.ndarray]) -> ImageScores:
    return score_image(*item)
