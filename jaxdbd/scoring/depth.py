"""How much of a reference depth a predicted one has: both are relative, so scale and shift are left free."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

MEASURES = ("pearson", "spearman", "abs_rel", "spread")
FLOOR = 0.05  # choice of ours: nearness is relative, so its zero is no distance, and errors there would count endlessly


def depth_scores(depth: Float[np.ndarray, "h w"], reference: Float[np.ndarray, "hr wr"]) -> dict[str, float]:
    """Measures of a predicted nearness against a teacher's or the true one, at the reference's resolution.

    Pixels that are NaN in the reference are left out.

    Returns:
      `pearson` and `spearman`: correlation of the values and of their ranks, in [-1, 1]; 0 where either is constant.
      `abs_rel`: mean |a depth + b - reference| / max(reference, 0.05), a and b by least squares.
      `spread`: standard deviation of the depth over that of the reference.
    """
    small = cv2.resize(depth.astype(np.float32), reference.shape[::-1], interpolation=cv2.INTER_AREA)
    known = np.isfinite(reference)
    x, y = small[known].astype(np.float64), reference[known].astype(np.float64)
    slope = np.cov(x, y, bias=True)[0, 1] / max(x.var(), 1e-12)
    aligned = slope * (x - x.mean()) + y.mean()
    return {
        "pearson": _correlation(x, y),
        "spearman": _correlation(rankdata(x), rankdata(y)),
        "abs_rel": float((np.abs(aligned - y) / np.maximum(y, FLOOR)).mean()),
        "spread": float(x.std() / max(y.std(), 1e-6)),
    }


def _correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    scale = x.std() * y.std()
    return float(((x - x.mean()) * (y - y.mean())).mean() / scale) if scale > 1e-12 else 0.0


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each measure averaged over photographs."""
    return {name: float(np.mean([s[name] for s in scores])) for name in MEASURES}
