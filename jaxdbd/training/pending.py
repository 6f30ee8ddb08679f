"""Steps that were dispatched, and whose metrics are read late: the device works on while the host looks at old ones."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax

from jaxdbd.errors import UserError
from jaxdbd.training.step import FINITE, Metrics

BEHIND = 4  # steps that the host leaves unread while it goes on; twice as many at most, since each keeps its batch


class Pending(NamedTuple):
    """A dispatched step, whose metrics the device may still be computing."""

    step: int
    metrics: Metrics
    ids: Callable[[], Iterable[str]]  # of its images


def check_older(pending: list[Pending]) -> None:
    """Once there are many, checks all but the newest as `check_finite` does, and forgets them."""
    if len(pending) >= 2 * BEHIND:
        check_finite(pending[:-BEHIND])
        del pending[:-BEHIND]


def check_finite(pending: Sequence[Pending]) -> None:
    """Waits for steps. Raises UserError for the first that gave something that is not finite."""
    flags = jax.device_get([step.metrics[FINITE] for step in pending])
    for step, finite in zip(pending, flags, strict=True):
        if not finite:
            values = ", ".join(f"{k} {v:.4g}" for k, v in values_of(step).items())
            raise UserError(
                f"step {step.step}: not finite ({values}) on images {', '.join(step.ids())}; the last checkpoint is "
                "untouched: lower config.learning_rate, or set config.clip_norm, and start again"
            )


def values_of(step: Pending) -> dict[str, float]:
    """The metrics of a step as numbers, once the device has them."""
    return {k: float(v) for k, v in jax.device_get(step.metrics).items() if k != FINITE}
