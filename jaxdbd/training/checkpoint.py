"""Training state on disk, with Orbax: asynchronous, atomic, restorable on another number of devices or processes."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jaxdbd.errors import UserError
from jaxdbd.machine.files import is_file, read_text
from jaxdbd.machine.paths import as_path, is_remote, is_store_error

MARK = "commit_success.txt"  # a checkpoint in a store counts as whole, to Orbax, when this file is in it
# TensorStore's names for what does not tell that an object is damaged.
REFUSALS = (
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED"),
    *("PERMISSION_DENIED", "UNAUTHENTICATED"),
)


def open_manager(folder: str | os.PathLike, keep: int) -> ocp.CheckpointManager:
    """A manager that keeps the newest `keep` checkpoints and the one with the least evaluation MAE.

    A checkpoint whose metrics cannot be read is set aside with a warning, since no manager opens beside it. Raises
    UserError where there is no other, and where a store refuses.
    """
    # Orbax tells of every rename, of every save without an evaluation, and several times of what we say in one line.
    logging.set_verbosity(logging.FATAL)
    folder = as_path(folder)
    with store_errors(folder):
        set_aside_without_metrics(folder)
    policy = preservation_policy.AnyPreservationPolicy(
        [
            preservation_policy.LatestN(keep),
            preservation_policy.BestN(
                get_metric_fn=lambda m: m["mae"], reverse=True, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy, best_fn=lambda m: m["mae"], best_mode="min", enable_async_checkpointing=True
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


def git_revision() -> str:
    """The commit that the code stands at, with `+` where it was changed since; '' outside a git checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    if head.returncode:
        return ""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here, check=False).returncode
    return head.stdout.strip() + ("+" if changed else "")


def best_mae(manager: ocp.CheckpointManager) -> float:
    """The least evaluation MAE of the checkpoints kept; infinite where none was evaluated."""
    step = manager.best_step()
    metrics = None if step is None else manager.metrics(step)
    return float("inf") if metrics is None else metrics["mae"]


def save(
    manager: ocp.CheckpointManager,
    step: int,
    state: Any,
    data: grain.DatasetIterator,
    config: dict,
    metrics: dict[str, float] | None,
) -> None:
    """Starts writing state, data position, config and git revision under `step`, and returns meanwhile.

    The data position counts batches, so it is the same for any number of processes.
    """
    meta = {"config": config, "git": git_revision(), "data": data.get_state()}
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
    with store_errors(manager.directory):
        manager.save(step, args=args, metrics=metrics, force=True)


def restore(
    manager: ocp.CheckpointManager, abstract_state: Any, data: grain.DatasetIterator, config: dict
) -> Any | None:
    """The newest checkpoint that can be read, or None where there is none; `data` is moved to where it stood.

    One that cannot be read is passed over with a warning, and set aside so that the run can write its step again.

    Args:
      manager: of the run's folder.
      abstract_state: shapes, dtypes and shardings to restore to; another number of devices than before is fine.
      data: the iterator, set to the position in the checkpoint.
      config: of this run; its `model` must be that of the checkpoint.

    Raises:
      UserError: where the checkpoint belongs to another run, or none of several can be read.
    """
    damaged = []
    for step in sorted(manager.all_steps(), reverse=True):
        meta = _read(manager, step, "meta", ocp.args.JsonRestore())
        if meta is not None:
            check_same_run(manager.directory, meta["config"], config)
            state = _read(manager, step, "state", ocp.args.StandardRestore(abstract_state))
            if state is not None:
                break
        damaged.append(step)
    else:
        if damaged:
            raise _none_readable(manager.directory)
        return None
    for name, old, new in differences(meta["config"], config):
        _warn(f"config.{name} has changed since checkpoint {step}: {old!r} -> {new!r}")
    set_aside(manager, damaged)
    data.set_state(meta["data"])
    return state


def _read(manager: ocp.CheckpointManager, step: int, part: str, how: ocp.args.CheckpointArgs) -> Any | None:
    # Orbax reports damage through many exception types, which none of its interfaces names. Each is shown, and where no
    # checkpoint can be read the run stops.
    try:
        return manager.restore(step, args=ocp.args.Composite(**{part: how}))[part]
    except Exception as error:
        reason = f"{part}: {first_line(error)}"
        if is_remote(manager.directory) and is_refusal(error):
            raise UserError(f"{manager.directory}: the store does not give checkpoint {step} ({reason})") from error
        _warn_damaged(manager.directory, step, reason)
        return None


def is_refusal(error: BaseException) -> bool:
    """Whether a store would not give what may well be whole: it was out of reach, or we may not read there."""
    return is_store_error(error) or any(status in str(error) for status in REFUSALS)


def _none_readable(folder: os.PathLike) -> UserError:
    return UserError(f"no checkpoint in {folder} can be read: take another --workdir, or delete it")


def _warn_damaged(folder: os.PathLike, step: int, reason: str) -> None:
    _warn(f"checkpoint {os.fspath(folder)}/{step} is damaged, passed over ({reason})")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def set_aside(manager: ocp.CheckpointManager, steps: list[int]) -> None:
    """Takes damaged checkpoints out of the way, once for all processes."""
    if steps:
        _rename_damaged(manager.directory, steps)
        manager.reload()


def set_aside_without_metrics(folder: epath.Path) -> None:
    """Takes the checkpoints whose metrics are no JSON, such as the empty file that a power cut leaves, out of the way.

    Raises UserError where there is no other.
    """
    found = [entry for entry in folder.iterdir() if entry.name.isdigit()] if folder.exists() else []
    if is_remote(folder):
        found = [entry for entry in found if is_file(entry / MARK)]
    steps = sorted(int(entry.name) for entry in found)
    damaged = [step for step in steps if _metrics_fault(folder / str(step) / "metrics" / "metrics")]
    # All have looked before the first renames: a process that came later would see nothing damaged, and not wait below.
    ocp.multihost.sync_global_processes("checkpoints looked at")
    if not damaged:
        return
    for step in damaged:
        _warn_damaged(folder, step, "its metrics cannot be read")
    if damaged == steps:
        raise _none_readable(folder)
    _rename_damaged(folder, damaged)


def _metrics_fault(path: epath.Path) -> bool:
    """Whether a checkpoint's metrics are there, as after an evaluation, and cannot be read."""
    if not is_file(path):
        return False
    try:
        return not isinstance(json.loads(read_text(path))["mae"], int | float)
    except (ValueError, KeyError, TypeError):
        return True


def _rename_damaged(folder: epath.Path, steps: list[int]) -> None:
    """Renames checkpoints, or takes their mark where they lie in a store, which renames a folder object by object."""
    if jax.process_index() == 0:
        for step in steps:
            if is_remote(folder):
                (folder / str(step) / MARK).unlink()
            else:
                (folder / str(step)).rename(folder / f"damaged_{step}")
    ocp.multihost.sync_global_processes("damaged checkpoints set aside")


def check_same_run(folder: os.PathLike, saved: dict, current: dict) -> None:
    """Raises UserError, saying what differs, where two configs do not describe the same network and optimizer state."""
    differing = [
        f"{name}: {old!r} -> {new!r}"
        for name, old, new in differences(saved, current)
        if name in ("encoder", "optimizer")
        or name.startswith("model.")
        # Zero or not decides whether the state holds an average, or adapters, at all.
        or (name in ("ema_decay", "feature_weight") and bool(old) != bool(new))
        or (name == "accumulate" and old != new)
    ]
    if differing:
        raise UserError(f"{folder} holds another network or optimizer ({', '.join(differing)}): take another --workdir")


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
