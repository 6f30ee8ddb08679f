"""Training state on disk, with Orbax: asynchronous, atomic, restorable on another number of devices or processes."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jaxdbd.errors import UserError
from jaxdbd.machine.paths import as_path, is_remote, is_store_error
from jaxdbd.sharding import from_all
from jaxdbd.training.damage import none_readable, set_aside, set_aside_without_metrics, warn, warn_damaged
from jaxdbd.training.provenance import Provenance, check_same_shards, counts
from jaxdbd.training.vectors import Layout

# What a change of some fields means for a run that goes on.
MEANINGS = {
    "batch_size": "; the rows go on where they stood, each is seen once; the learning rate goes by updates",
    "seed": "; the rows come in another order from here on, so some are seen twice and some not in this pass",
    "mixture": "; the parts are counted anew from here on",
}
# TensorStore's names for what does not tell that an object is damaged.
REFUSALS = (
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED"),
    *("PERMISSION_DENIED", "UNAUTHENTICATED"),
)


def open_manager(folder: str | os.PathLike, keep: int, evaluated: str = "") -> ocp.CheckpointManager:
    """A manager that keeps the newest `keep` checkpoints and the one with the least MAE of the split `evaluated`.

    A checkpoint whose metrics cannot be read is set aside with a warning, since no manager opens beside it. Raises
    UserError where there is no other, and where a store refuses.
    """
    # Orbax tells of every rename, of every save without an evaluation, and several times of what we say in one line.
    logging.set_verbosity(logging.FATAL)
    folder = as_path(folder)
    with store_errors(folder):
        set_aside_without_metrics(folder)

    def mae(metrics: dict) -> float:
        return metrics["mae"] if counts(metrics, evaluated) else float("inf")

    policy = preservation_policy.AnyPreservationPolicy(
        [
            preservation_policy.LatestN(keep),
            preservation_policy.BestN(get_metric_fn=mae, reverse=True, n=1, keep_checkpoints_without_metrics=False),
        ]
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy, best_fn=mae, best_mode="min", enable_async_checkpointing=True
    )
    with store_errors(folder):
        return ocp.CheckpointManager(folder if is_remote(folder) else folder.absolute(), options=options)


@contextlib.contextmanager
def store_errors(folder: os.PathLike) -> Iterator[None]:
    """Within, what goes wrong between Orbax and a store is one UserError; with a local folder everything is as it was.

    TensorStore and Orbax hand on what a store says through many exception types, which none of their interfaces names.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_remote(as_path(folder)):
            raise
        raise UserError(
            f"{folder}: the store did not take or give a checkpoint ({first_line(error)}); those before it are "
            "untouched: the same command goes on from the last of them"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, without the description of the array that TensorStore ends it with."""
    text = (str(error).splitlines() or [""])[0].partition(" [tensorstore_spec")[0]
    return f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def closing(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Within, the manager is open; at the end what it still writes is finished."""
    try:
        yield
    finally:
        with store_errors(manager.directory):
            manager.close()


def wait(manager: ocp.CheckpointManager) -> None:
    """Until all that was started is written. Raises UserError where a store did not take it."""
    with store_errors(manager.directory):
        manager.wait_until_finished()


def best(manager: ocp.CheckpointManager) -> tuple[int, dict[str, Any]] | None:
    """The step of the least MAE among the checkpoints kept, and its metrics; None where none was evaluated."""
    step = manager.best_step()
    metrics = None if step is None else manager.metrics(step)
    return None if step is None or metrics is None else (step, metrics)


def best_mae(manager: ocp.CheckpointManager, evaluated: str = "") -> float:
    """The least MAE of the checkpoints kept on the split `evaluated`; infinite where there is none.

    Warns where all are of another split: their MAE is no mark for this one.
    """
    if (found := best(manager)) is None:
        return float("inf")
    _, metrics = found
    if counts(metrics, evaluated):
        return metrics["mae"]
    if evaluated:
        warn(
            f"the evaluations so far are of {metrics['split']} and do not count for {evaluated}: the next one writes "
            "weights.safetensors anew"
        )
    return float("inf")


def save(
    manager: ocp.CheckpointManager,
    step: int,
    state: Any,
    rows: int,
    layout: Layout,
    config: dict,
    metrics: dict[str, float] | None,
    origin: Provenance = Provenance({}, ""),  # noqa: B008, it cannot be changed
) -> None:
    """Starts writing state, layout, rows seen, config and origin under `step`, and returns meanwhile."""
    meta = {"config": config, "layout": layout, "git": origin.revision, "rows": rows, "shards": origin.shards}
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
    with store_errors(manager.directory):
        manager.save(step, args=args, metrics=metrics and {**metrics, "split": origin.evaluated}, force=True)


def restore(
    manager: ocp.CheckpointManager,
    abstract_state: Any,
    layout: Layout,
    config: dict,
    shards: Mapping[str, str] | None = None,
    accepts_rebuilt: bool = False,
) -> tuple[Any, int] | None:
    """The state of the newest checkpoint that can be read, and the row that comes next; None where there is none.

    One that a process cannot read is passed over with a warning by all, and set aside so that the run can write its
    step again.

    Args:
      manager: of the run's folder.
      abstract_state: shapes, dtypes and shardings to restore to; another number of devices than before is fine.
      layout: of the state's vectors; that of the checkpoint must be the same.
      config: of this run; its `model` must be that of the checkpoint.
      shards: digests of the datasets that this run reads; those of the checkpoint must be the same.
      accepts_rebuilt: where they are not, warn and go on.

    Raises:
      UserError: where the checkpoint belongs to another run, or to a dataset that was rebuilt, or none can be read.
    """
    damaged = []
    for step in sorted(set().union(*from_all(manager.all_steps())), reverse=True):
        meta = _read(manager, step, "meta", ocp.JsonCheckpointHandler(), ocp.args.JsonRestore())
        if meta is not None:
            check_same_run(manager.directory, meta["config"], config)
            check_same_shards(manager.directory, step, meta.get("shards"), shards or {}, accepts_rebuilt)
            check_same_layout(manager.directory, meta.get("layout"), layout)
            state = read_state(manager, step, abstract_state)
            if state is not None:
                break
        damaged.append(step)
    else:
        if damaged:
            raise none_readable(manager.directory)
        return None
    for name, old, new in differences(meta["config"], config):
        warn(f"config.{name} has changed since checkpoint {step}: {old!r} -> {new!r}{MEANINGS.get(name, '')}")
    set_aside(manager, damaged)
    return state, meta["rows"]


def read_state(manager: ocp.CheckpointManager, step: int, abstract_state: Any) -> Any | None:
    """The state of one checkpoint; None, after a warning, where a process cannot read it."""
    return _read(manager, step, "state", ocp.StandardCheckpointHandler(), ocp.args.StandardRestore(abstract_state))


def _read(
    manager: ocp.CheckpointManager, step: int, part: str, handler: ocp.CheckpointHandler, how: ocp.args.CheckpointArgs
) -> Any | None:
    """One part of a checkpoint; None for all processes where one cannot read it.

    By the handler, since the manager's own way has processes wait for each other, which fails if one cannot read. Orbax
    reports damage through many exception types, which none of its interfaces names. Each is shown, and where no
    checkpoint can be read the run stops.
    """
    found, refusal = None, None
    try:
        found = handler.restore(manager.directory / str(step) / part, args=how)
    except Exception as error:
        reason = f"{part}: {first_line(error)}"
        if is_remote(manager.directory) and is_refusal(error):
            refusal = f"{manager.directory}: the store does not give checkpoint {step} ({reason})"
        else:
            warn_damaged(manager.directory, step, reason)
    finally:
        handler.close()
    everywhere = from_all((found is not None, refusal))
    for _, refusal in everywhere:
        if refusal:
            raise UserError(refusal)
    can_read_all = all(can_read for can_read, _ in everywhere)
    if found is not None and not can_read_all:
        warn_damaged(manager.directory, step, f"{part}: another process cannot read it")
    return found if can_read_all else None


def is_refusal(error: BaseException) -> bool:
    """Whether a store would not give what may well be whole: it was out of reach, or we may not read there."""
    return is_store_error(error) or any(status in str(error) for status in REFUSALS)


def check_same_run(folder: os.PathLike, saved: dict, current: dict) -> None:
    """Raises UserError, saying what differs, where two configs do not describe the same network and optimizer state."""
    differing = [
        f"{name}: {old!r} -> {new!r}"
        for name, old, new in differences(saved, current)
        if name in ("encoder", "optimizer")
        or name.startswith("model.")
        # Zero or not decides whether the state holds an average, adapters, or a blur head, at all.
        or (name in ("ema_decay", "feature_weight", "blur_weight") and bool(old) != bool(new))
        or (name == "accumulate" and old != new)
    ]
    if differing:
        raise UserError(f"{folder} holds another network or optimizer ({', '.join(differing)}): take another --workdir")


def check_same_layout(folder: os.PathLike, saved: dict[str, Sequence] | None, current: Layout) -> None:
    """Raises UserError where another version of the code wrote a state, whose numbers would be taken for others."""
    # Through JSON, as the saved one went: tuples became lists.
    if saved != json.loads(json.dumps(current)):
        raise UserError(
            f"{folder} holds the state of another version of jaxdbd: take another --workdir, and to go on from its "
            f"weights --config.init_from={epath.Path(folder).parent / 'weights.safetensors'}"
        )


def differences(saved: Any, current: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, saved value, current value) of the fields in which two configs differ."""
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in sorted({*saved, *current}):
            yield from differences(saved.get(key), current.get(key), f"{name}.{key}" if name else key)
    # Through JSON, as the saved one went: tuples become lists.
    elif json.loads(json.dumps(saved)) != json.loads(json.dumps(current)):
        yield name, saved, current


def abstract(state_shapes: Any, shardings: Any) -> Any:
    """What to restore: the shapes and dtypes of a state, on the devices of `shardings`."""
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), state_shapes, shardings
    )
