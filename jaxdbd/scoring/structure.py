"""Measures that look at where a map errs: S-measure, E-measure, weighted F (all from pysodmetrics) and boundary IoU.

The maps are used as they are. pysodmetrics by default first stretches each map to [0, 1] (`normalize=True`); here a
value means a probability, so a map that never reaches 0 or 1 keeps its range. On maps that span 0 to 255 both agree.

They take some 85 bytes a pixel, so maps of more than MOST_PIXELS are reduced to that many first, by averaging.
"""

from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from py_sod_metrics import Emeasure, Smeasure, WeightedFmeasure
from scipy.ndimage import minimum_filter

from jaxdbd.scoring.metrics import ImageScores, score_counts

# Width of the boundary band as a share of the image diagonal (Cheng et al., CVPR 2021).
BOUNDARY_SHARE = 0.02
MOST_PIXELS = 1 << 22  # choice of ours; no photograph of the benchmarks has more


class _SMeasure(Smeasure):
    """S-measure that gives an empty quadrant, whose weight is 0, the score 0 where pysodmetrics makes it NaN."""

    def ssim(self, pred: np.ndarray, gt: np.ndarray) -> float:
        # np.mean of nothing is NaN, and NaN times the weight 0 stays NaN.
        return float(super().ssim(pred, gt)) if pred.size else 0.0


def boundary(region: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The region's pixels within 2 % of the image diagonal of its edge (chessboard distance; the frame is an edge)."""
    width = max(1, round(BOUNDARY_SHARE * float(np.hypot(*region.shape))))
    inner = np.asarray(minimum_filter(region, size=2 * width + 1, mode="constant", cval=0), bool)
    return region & ~inner


def boundary_iou(predicted: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """Boundary IoU (Cheng et al., CVPR 2021, eq. 1) of two binary maps; 1 where both are empty."""
    a, b = boundary(predicted), boundary(truth)
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def e_curve(p: Float[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, " 256"]:
    """E-measure (Fan et al., IJCAI 2018) of the map cut at 255, 254, ..., 0."""
    measure = Emeasure()
    measure.step(p, truth, normalize=False)
    return measure.get_results()["em"]["curve"]


def s_measure(p: Float[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """S-measure (Fan et al., ICCV 2017), alpha = 0.5."""
    measure = _SMeasure()
    measure.step(p, truth, normalize=False)
    return float(measure.get_results()["sm"])


def weighted_f(p: Float[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """Weighted F-measure (Margolin et al., CVPR 2014), beta = 1; 0 for a mask with nothing in focus."""
    measure = WeightedFmeasure()
    measure.step(p, truth, normalize=False)
    return float(measure.get_results()["wfm"])


def reduced(levels: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h2 w2"]:
    """A map of at most MOST_PIXELS: itself, or smaller by averaging."""
    scale = (MOST_PIXELS / levels.size) ** 0.5
    if scale >= 1:
        return levels
    height, width = (max(1, int(n * scale)) for n in levels.shape)
    return cv2.resize(levels, (width, height), interpolation=cv2.INTER_AREA)


def score_image(id: str, focus: UInt8[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"]) -> ImageScores:
    """Every measure of one photograph's map and mask (255 = in focus), of one size."""
    return with_structure(score_counts(id, focus, mask), reduced(focus), reduced(mask))


def with_structure(
    scores: ImageScores, small: UInt8[np.ndarray, "h w"], small_mask: UInt8[np.ndarray, "h w"]
) -> ImageScores:
    """Scores by counts with the measures of this module, of the `reduced` map and mask."""
    p, truth = small / 255.0, small_mask >= 128
    curve = e_curve(p, truth)
    structure = {
        "e_mean": float(curve.mean()),
        "s": s_measure(p, truth),
        "weighted_f": weighted_f(p, truth),
        "boundary_iou": boundary_iou(small >= 128, truth),
    }
    return replace(scores, structure=structure, e_curve=curve)
