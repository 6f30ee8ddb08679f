"""Training state on disk, with Orbax: asynchronous, atomic, restorable on another number of devices or processes."""

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


def open_manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    """A manager that keeps the newest `keep` checkpoints and the one with the least evaluation MAE.

    A checkpoint whose metrics cannot be read is set aside with a warning, since no manager opens beside it. Raises
    UserError where there is no other.
    """
    # Orbax tells of every rename, of every save without an evaluation, and shows the traceback of what it raises later.
    logging.set_verbosity(logging.FATAL)
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
    return ocp.CheckpointManager(folder.absolute(), options=options)


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
    manager.save(step, args=args, metrics=metrics, force=True)


def restore(
    manager: ocp.CheckpointManager, abstract_state: Any, data: grain.DatasetIterator, config: dict
) -> Any | None:
    """The newest checkpoint that can be read, or None where there is none; `data` is moved to where it stood.

    One that cannot be read is passed over with a warning, and renamed so that the run can write its step again.

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
            check_same_run(Path(manager.directory), meta["config"], config)
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
        reason = f"{part}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        _warn_damaged(manager.directory, step, reason)
        return None


def _none_readable(folder: os.PathLike) -> UserError:
    return UserError(f"no checkpoint in {folder} can be read: take another --workdir, or delete it")


def _warn_damaged(folder: os.PathLike, step: int, reason: str) -> None:
    _warn(f"checkpoint {os.fspath(folder)}/{step} is damaged, passed over ({reason})")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def set_aside(manager: ocp.CheckpointManager, steps: list[int]) -> None:
    """Renames damaged checkpoints, once for all processes."""
    if steps:
        _rename_damaged(manager.directory, steps)
        manager.reload()


def set_aside_without_metrics(folder: Path) -> None:
    """Renames the checkpoints in `folder` whose metrics are no JSON, such as the empty file that a power cut leaves."""
    steps = sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()) if folder.exists() else []
    damaged = [step for step in steps if _metrics_fault(folder / str(step) / "metrics" / "metrics")]
    if not damaged:
        return
    for step in damaged:
        _warn_damaged(folder, step, "its metrics cannot be read")
    if damaged == steps:
        raise _none_readable(folder)
    _rename_damaged(folder, damaged)


def _metrics_fault(path: Path) -> bool:
    """Whether a checkpoint's metrics are there, as after an evaluation, and cannot be read."""
    if not path.exists():
        return False
    try:
        return not isinstance(json.loads(path.read_text())["mae"], int | float)
    except (ValueError, KeyError, TypeError):
        return True


def _rename_damaged(folder: epath.PathLike, steps: list[int]) -> None:
    if jax.process_index() == 0:
        for step in steps:
            (epath.Path(folder) / str(step)).rename(epath.Path(folder) / f"damaged_{step}")
    ocp.multihost.sync_global_processes("damaged checkpoints renamed")


def check_same_run(folder: Path, saved: dict, current: dict) -> None:
    """Raises UserError, saying what differs, where two configs do not describe the same network and optimizer state."""
    differing = [
        f"{name}: {old!r} -> {new!r}"
        for name, old, new in differences(saved, current)
        if name in ("encoder", "optimizer")
        or name.startswith("model.")
        # Zero or not decides whether the state holds an average at all.
        or (name == "ema_decay" and bool(old) != bool(new))
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
