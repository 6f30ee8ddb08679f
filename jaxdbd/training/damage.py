"""Damaged checkpoints: told, and taken out of the way by all processes alike, so that a run goes on from one before."""

import json
import os
import sys

import jax
import orbax.checkpoint as ocp
from etils import epath

from jaxdbd.errors import UserError
from jaxdbd.machine.files import is_file, read_text
from jaxdbd.machine.paths import is_remote
from jaxdbd.sharding import from_all

MARK = "commit_success.txt"  # a checkpoint in a store counts as whole, to Orbax, when this file is in it


def none_readable(folder: os.PathLike) -> UserError:
    """The error where every checkpoint is damaged."""
    return UserError(f"no checkpoint in {folder} can be read: take another --workdir, or delete it")


def warn_damaged(folder: os.PathLike, step: int, reason: str) -> None:
    """Tells of a damaged checkpoint."""
    warn(f"checkpoint {os.fspath(folder)}/{step} is damaged, passed over ({reason})")


def warn(text: str) -> None:
    """One line on stderr."""
    print(f"warning: {text}", file=sys.stderr)


def set_aside(manager: ocp.CheckpointManager, steps: list[int]) -> None:
    """Takes damaged checkpoints out of the way, once for all processes."""
    if steps:
        _rename_damaged(manager.directory, steps)
        manager.reload()


def set_aside_without_metrics(folder: epath.Path) -> None:
    """Takes checkpoints out of the way whose metrics are no JSON, such as the empty file that a power cut leaves.

    Raises UserError where there is no other.
    """
    found = [entry for entry in folder.iterdir() if entry.name.isdigit()] if folder.exists() else []
    if is_remote(folder):
        found = [entry for entry in found if is_file(entry / MARK)]
    steps = {int(entry.name) for entry in found}
    damaged = {step for step in steps if _metrics_fault(folder / str(step) / "metrics" / "metrics")}
    for step in sorted(damaged):
        warn_damaged(folder, step, "its metrics cannot be read")
    # What one process cannot read is out of the way for all; and all have looked before the first renames.
    steps, damaged = (set().union(*from_all(numbers)) for numbers in (steps, damaged))
    if damaged and damaged == steps:
        raise none_readable(folder)
    if damaged:
        _rename_damaged(folder, sorted(damaged))


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
                (folder / str(step) / MARK).unlink(missing_ok=True)
            elif (folder / str(step)).exists():  # or only another process sees it
                (folder / str(step)).rename(folder / f"damaged_{step}")
    ocp.multihost.sync_global_processes("damaged checkpoints set aside")
