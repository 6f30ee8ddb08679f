"""Training state on disk, with Orbax: asynchronous, atomic, restorable on another number of devices."""

import json
import subprocess
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jaxdbd.errors import UserError


def open_manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    """A manager that keeps the newest `keep` checkpoints and the one with the least evaluation MAE."""
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
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    if head.returncode:
        return ""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here, check=False).returncode
    return head.stdout.strip() + ("+" if changed else "")


def save(
    manager: ocp.CheckpointManager,
    state: Any,
    data: grain.DatasetIterator,
    config: dict,
    metrics: dict[str, float] | None,
) -> None:
    """Starts writing state, data position, config and git revision under the state's step, and returns meanwhile."""
    step = int(state.step)
    if step in manager.all_steps():
        return
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=grain.checkpoint.CheckpointSave(data),
        meta=ocp.args.JsonSave({"config": config, "git": git_revision()}),
    )
    manager.save(step, args=args, metrics=metrics, force=True)


def restore(
    manager: ocp.CheckpointManager, abstract_state: Any, data: grain.DatasetIterator, config: dict
) -> Any | None:
    """The newest checkpoint that can be read, or None where there is none; `data` is moved to where it stood.

    Args:
      manager: of the run's folder.
      abstract_state: shapes, dtypes and shardings to restore to; another number of devices than before is fine.
      data: the iterator, set to the position in the checkpoint.
      config: of this run; its `model` must be that of the checkpoint.

    Raises:
      UserError: where the checkpoint belongs to another network, or none of several can be read.
    """
    failures = []
    for step in sorted(manager.all_steps(), reverse=True):
        # Orbax reports a damaged checkpoint through many exception types, which none of its interfaces names. Each is
        # shown; and where no older checkpoint can be read the run stops.
        try:
            meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        except Exception as error:
            failures.append(_warn(manager, step, error))
            continue
        difference = model_difference(meta["config"], config)
        if difference:
            raise UserError(f"{manager.directory} holds another network ({difference}): take another --workdir")
        try:
            restored = manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract_state), data=grain.checkpoint.CheckpointRestore(data)
                ),
            )
        except Exception as error:
            failures.append(_warn(manager, step, error))
            continue
        return restored["state"]
    if failures:
        raise UserError(f"no checkpoint in {manager.directory} can be read: {failures[0]}; take another --workdir")
    return None


def _warn(manager: ocp.CheckpointManager, step: int, error: Exception) -> str:
    reason = f"checkpoint {step}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    logging.warning("%s is damaged, passed over: %s", manager.directory / str(step), reason)
    return reason


def model_difference(saved: dict, current: dict) -> str:
    """What differs between the networks of two configs, as 'field: saved -> current'; '' where they are the same."""
    names = ["encoder", *(f"model.{k}" for k in sorted({*saved["model"], *current["model"]}))]

    def value(config, name):
        part = config
        for key in name.split("."):
            part = part.get(key) if isinstance(part, dict) else None
        return json.loads(json.dumps(part))

    differing = [n for n in names if value(saved, n) != value(current, n)]
    return ", ".join(f"{n}: {value(saved, n)!r} -> {value(current, n)!r}" for n in differing)


def abstract(state_shapes: Any, shardings: Any) -> Any:
    """What to restore: the shapes and dtypes of a state, on the devices of `shardings`."""
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), state_shapes, shardings
    )
