"""A step that was dispatched, and whose metrics are read while the device works on the next."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from jaxdbd.errors import UserError
from jaxdbd.training.step import Metrics


class Pending(NamedTuple):
    """A dispatched step, whose metrics the device may still be computing."""

    step: int
    metrics: Metrics
    ids: Callable[[], Iterable[str]]  # of its images


def wait_for_finite_metrics(pending: Pending | None) -> dict[str, float]:
    """The metrics of a dispatched step as numbers, once the device has them; {} for None.

    Raises UserError where one is not finite.
    """
    if pending is None:
        return {}
    metrics = {k: float(v) for k, v in pending.metrics.items()}
    if not np.isfinite(list(metrics.values())).all():
        values = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        raise UserError(
            f"step {pending.step}: not finite ({values}) on images {', '.join(pending.ids())}; the last checkpoint is "
            "untouched: lower config.learning_rate, or set config.clip_norm, and start again"
        )
    return metrics
