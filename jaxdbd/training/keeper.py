"""What a run keeps of itself: scores, its best weights, and checkpoints; and what is left to do once it has ended."""

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import UInt8

from jaxdbd import weights
from jaxdbd.inference import at_size, rows_of
from jaxdbd.input.records import MOST_SHOWN, evaluation_batches, reduced
from jaxdbd.machine.files import is_file
from jaxdbd.photographs.panels import example_panel
from jaxdbd.scoring.maps import Predict, quick_counts, summarize_counts
from jaxdbd.sharding import from_all
from jaxdbd.training import checkpoint
from jaxdbd.training.logs import RunLog
from jaxdbd.training.provenance import counts
from jaxdbd.training.step import TrainState

PANEL_ROWS = 8


@dataclasses.dataclass(frozen=True)
class Share(Sequence):
    """Every n-th of some records, from the `first` on; read as they are asked for."""

    records: Sequence[dict]
    first: int
    n: int

    def __len__(self) -> int:
        return len(range(self.first, len(self.records), self.n))

    def __getitem__(self, i: int) -> dict:
        return self.records[range(self.first, len(self.records), self.n)[i]]


def evaluate(
    predict: Predict, parts: dict[str, Sequence[dict]], size: int, batch_size: int
) -> tuple[dict[str, float], UInt8[np.ndarray, "h w 3"] | None]:
    """Scores of the records of each dataset, the same on all processes; on the first, a panel of the first few of all.

    `predict` is that of `Steps`, bound. Each process looks at its share of the records. The scores are those of
    `quick_scores`, averaged over the datasets, each with the same weight; where there are several, also each one's own
    as `<dataset>/<measure>`.
    """
    each = {name: shared_scores(predict, records, size, batch_size) for name, records in parts.items()}
    measures = next(iter(each.values())).keys()
    scores = {m: float(np.mean([s[m] for s in each.values() if m in s])) for m in measures}
    if len(each) > 1:
        scores |= {f"{name}/{m}": value for name, s in each.items() for m, value in s.items()}
    return scores, panel(predict, parts, size, batch_size) if jax.process_index() == 0 else None


def shared_scores(predict: Predict, records: Sequence[dict], size: int, batch_size: int) -> dict[str, float]:
    """`quick_scores` of records, of which each process looks at its share."""
    n = jax.process_count()
    share = Share(records, jax.process_index(), n)
    shares = from_all(list(quick_counts(predict, share, size, batch_size)))
    return summarize_counts([shares[i % n][i // n] for i in range(len(records))])


def panel(predict: Predict, parts: dict[str, Sequence[dict]], size: int, batch_size: int) -> UInt8[np.ndarray, "h w 3"]:
    """The first few records of each dataset, with their maps."""
    shown = [records[i] for records in parts.values() for i in range(min(PANEL_ROWS // len(parts), len(records)))]
    examples, predictions = [], []
    for images, rows in evaluation_batches(shown, size=size, batch_size=batch_size):
        rows = [reduced(example, MOST_SHOWN) for example in rows]
        maps = rows_of(predict(images), len(rows))
        predictions += [at_size(each, example.mask.shape) for each, example in zip(maps, rows, strict=True)]
        examples += rows
    return example_panel(examples, predictions)


@dataclasses.dataclass
class Keeper:
    """Evaluates a run, and keeps its best weights and its checkpoints on disk."""

    best: float  # the least evaluation MAE so far
    variables_of: Callable[[TrainState], weights.Variables]  # what of a state is evaluated and shipped, on the host
    evaluate: Callable[[weights.Variables], tuple[dict[str, float], UInt8[np.ndarray, "h w 3"] | None]] | None
    save_weights: Callable[[weights.Variables, float], None]  # variables and threshold
    save_checkpoint: Callable[[int, TrainState, dict[str, float] | None], None]
    log: RunLog

    def keep(self, step: int, state: TrainState, evaluates: bool) -> None:
        """Starts a checkpoint, after an evaluation if `evaluates`. Without held-out records the newest weights stay."""
        scores = None
        if evaluates and self.evaluate is not None:
            variables = self.variables_of(state)
            scores, panel = self.evaluate(variables)
            self.log.write(step, {f"eval/{k}": v for k, v in scores.items()})
            if panel is not None:
                self.log.image(step, "eval/panel", panel)
            shown = ", ".join(f"{k} {v:.4f}" for k, v in scores.items())
            self.log.message(f"step {step}: {shown} (ddff)")
            if scores["mae"] < self.best:
                self.best = scores["mae"]
                self.save_weights(variables, scores["threshold"])
        elif self.evaluate is None:
            self.save_weights(self.variables_of(state), 0.5)
        self.log.publish(wait=True)  # a run that goes on from this checkpoint finds the curves up to it
        self.save_checkpoint(step, state, scores)


def leave_finished(
    keeper: Keeper,
    manager: ocp.CheckpointManager,
    newest: TrainState,
    abstract_state: Any,
    last: int,
    evaluated: str,
    path: os.PathLike,
) -> None:
    """Says that there is nothing left to train. Where the weights are missing, writes the best, else the newest.

    Args:
      keeper: of the run.
      manager: of its checkpoints.
      newest: the state of the last one.
      abstract_state: shapes, dtypes and shardings of a state.
      last: the step that the config asks for; the run may have gone further.
      evaluated: the split whose MAE picks the weights; that of another one does not count.
      path: of the weights.
    """
    said = f"step {int(newest.step)} of {last} is done: nothing is left to train"
    if not all(from_all(is_file(path))):
        state, threshold = best(manager, abstract_state, evaluated) or (newest, 0.5)
        keeper.save_weights(keeper.variables_of(state), threshold)
        said += f"; wrote {os.fspath(path)}"
    if jax.process_index() == 0:
        print(said, file=sys.stderr)


def best(manager: ocp.CheckpointManager, abstract_state: Any, evaluated: str) -> tuple[TrainState, float] | None:
    """The state of the least MAE on the split `evaluated`, and its threshold; None where there is none."""
    found = checkpoint.best(manager)
    if found is None or not counts(found[1], evaluated):
        return None
    step, metrics = found
    state = checkpoint.read_state(manager, step, abstract_state)
    return None if state is None else (state, metrics["threshold"])
