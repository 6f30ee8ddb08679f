"""How much of a reference depth a predicted one has: both are relative, so scale and shift are left free."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float

MEASURES = ("pearson", "spearman", "abs_rel", "spread")
FLOOR = 0.05  # choice of ours: zero nearness is no distance, and errors near it would count without limit


def depth_scores(depth: Float[np.ndarray, "h w"], reference: Float[np.ndarray, "hr wr"]) -> dict[str, float]:
    """Measures of a predicted nearness against a teacher's or the true one, at the reference's resolution.

    Pixels that are NaN in the reference are left out.

    Returns:
      `pearson` and `spearman`: correlation of the values and of their ranks, in [-1, 1]; 0 where either is constant.
      `abs_rel`: mean |a depth + b - reference| / max(reference, 0.05), a and b by least squares.
      `spread`: standard deviation of the depth over that of the reference.
    """
    known = np.isfinite(reference)
    x = cv2.resize(depth.astype(np.float32), reference.shape[::-1], interpolation=cv2.INTER_AREA)[known]
    x, y = x.astype(np.float64), reference[known].astype(np.float64)
    slope, offset = _fit(x, y)
    return {
        "pearson": _correlation(x, y),
        "spearman": spearman(x, y),
        "abs_rel": float((np.abs(slope * x + offset - y) / np.maximum(y, FLOOR)).mean()),
        "spread": float(x.std() / max(y.std(), 1e-6)),
    }


def fitted_to(depth: Float[np.ndarray, "h w"], reference: Float[np.ndarray, "hr wr"]) -> Float[np.ndarray, "h w"]:
    """The depth with the scale and shift that bring it closest to the reference, by least squares."""
    known = np.isfinite(reference)
    small = cv2.resize(depth, reference.shape[::-1], interpolation=cv2.INTER_AREA)
    slope, offset = _fit(small[known].astype(np.float64), reference[known].astype(np.float64))
    return (slope * depth + offset).astype(np.float32)


def _fit(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> tuple[float, float]:
    slope = float(((x - x.mean()) * (y - y.mean())).mean() / max(x.var(), 1e-12))
    return slope, float(y.mean() - slope * x.mean())


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Correlation of the ranks of values, in [-1, 1]; 0 where either are all the same."""
    from scipy.stats import rankdata  # takes a second to import, which no start needs to wait for

    return _correlation(rankdata(x), rankdata(y))


def _correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    scale = x.std() * y.std()
    return float(((x - x.mean()) * (y - y.mean())).mean() / scale) if scale > 1e-12 else 0.0


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each measure averaged over photographs; {} for none."""
    if not scores:
        return {}
    return {name: float(np.mean([s[name] for s in scores])) for name in MEASURES}
