"""What is left to do for a run that has ended."""

import os
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxdbd import sharding
from jaxdbd.machine.files import is_file
from jaxdbd.training import checkpoint
from jaxdbd.training.keeper import Keeper
from jaxdbd.training.provenance import counts
from jaxdbd.training.step import TrainState


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
    if not all(sharding.from_all(is_file(path))):
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
