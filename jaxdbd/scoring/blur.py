"""How well the width of the blur is told where it is known, and whether it says the same as the focus map."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32

from jaxdbd.inference import SquareMaps
from jaxdbd.network.model import SHARPNESS_LIMIT
from jaxdbd.scoring.depth import spearman

# Choices of ours. Diameters are shares of the photograph's longer side.
NARROWEST, WIDEST = 2 / 320, 20 / 320  # of the true ones that count: below, noise and JPEG blur as much
FACTOR = 1.5
SAMPLE_SIDE = 64  # of each photograph a grid of at most about so many pixels a side counts


class Sample(NamedTuple):
    """What counts of one photograph."""

    pairs: Float32[np.ndarray, "2 n"]  # true and predicted diameters
    agreement: float  # share of pixels of which focus and blur say the same


def sample(maps: SquareMaps, size: tuple[int, int], reference: Float[np.ndarray, "h w"] | None) -> Sample | None:
    """The sample of a photograph of (height, width) `size`; None where the network has no blur head.

    A pixel agrees where it is in focus, with a probability above 0.5, and blurred by less than SHARPNESS_LIMIT of the
    square's side, or neither. `reference` is the true diameter on a grid of its own, NaN where it is not known; without
    it there are no pairs.
    """
    if maps.blur is None:
        return None
    agreement = float(((maps.focus > 0.5) == (maps.blur < SHARPNESS_LIMIT)).mean())
    if reference is None:
        return Sample(np.zeros((2, 0), np.float32), agreement)
    # From a share of the square's side to one of the longer side: the square has the photograph's area.
    blur = maps.blur * np.float32((min(size) / max(size)) ** 0.5)
    blur = cv2.resize(blur, reference.shape[::-1], interpolation=cv2.INTER_AREA)
    rows, columns = (slice(None, None, max(1, n // SAMPLE_SIDE)) for n in reference.shape)
    pairs = np.stack([reference.astype(np.float32), blur])[:, rows, columns].reshape(2, -1)
    return Sample(pairs[:, (pairs[0] >= NARROWEST) & (pairs[0] <= WIDEST)], agreement)


def blur_scores(samples: Sequence[Sample]) -> dict[str, float]:
    """Measures of a set, {} for none. The first three pool the pairs, since one photograph may have one width alone.

    Returns:
      `spearman`: correlation of the ranks, in [-1, 1].
      `log2_error`: median |log2 of predicted over true|: 1 is off by a factor of two.
      `within_factor`: share of pixels whose prediction is between true / FACTOR and true * FACTOR.
      `agreement`: of the samples, averaged. It alone where no pair is known.
    """
    if not samples:
        return {}
    true, predicted = np.concatenate([each.pairs for each in samples], axis=1).astype(np.float64)
    agreement = {"agreement": float(np.mean([each.agreement for each in samples]))}
    if not len(true):
        return agreement
    error = np.abs(np.log2(np.maximum(predicted, 1e-6) / true))  # a prediction of none is off by many factors
    return {
        "spearman": spearman(predicted, true),
        "log2_error": float(np.median(error)),
        "within_factor": float((error <= np.log2(FACTOR)).mean()),
        **agreement,
    }
