"""One training at a time in a workdir; a second one is refused, and a killed one is in nobody's way.

In a local folder the system holds the lock, and lets go of it when the process dies. On a network file system it holds
between machines as far as that file system does locks.

A store has no locks. There the run leaves a lease, an object in which it counts a beat every BEAT seconds. Whoever
finds one waits for the next beat: a lease that stays silent is of a dead run. This keeps out a second run that is
started by mistake. It does not keep out one that finds the first asleep for longer than SILENT, or that begins in the
same second and is slow to write: then the first is told of it at its next beat.
"""

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from jaxdbd.errors import UserError
from jaxdbd.machine.files import is_file, make_folder, os_errors_in_one_line, read_text, write_whole
from jaxdbd.machine.paths import as_path, filesystem, is_remote

BEAT, SILENT, SETTLE = 10.0, 35.0, 1.0  # seconds, choices of ours


@contextlib.contextmanager
def sole_run(workdir: str | os.PathLike) -> Iterator[None]:
    """Holds a workdir for this run. Raises UserError, on all processes of the run, where another has it."""
    workdir = as_path(workdir)
    with contextlib.ExitStack() as held:
        refused = None
        if jax.process_index() == 0:
            try:
                if not is_remote(workdir):
                    held.enter_context(_lock(Path(workdir)))
                elif str(workdir).startswith("gs://"):  # no run can write to another store
                    held.enter_context(_lease(workdir))
            except UserError as error:
                refused = error
        if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.int32(refused is not None)):
            refused = refused or UserError(f"{workdir}: process 0 may not write there, and says why")
        if refused:
            raise refused
        yield


def _in_use(workdir: os.PathLike, holder: str) -> UserError:
    return UserError(
        f"{workdir}: another training writes there ({holder}): wait for its end, or take another --workdir"
    )


# --- Local folders ---


@contextlib.contextmanager
def _lock(workdir: Path) -> Iterator[None]:
    is_new = not workdir.exists()
    make_folder(workdir)
    path = workdir / ".lock"
    with os_errors_in_one_line(workdir, "no training can write here"):
        file = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty, as after most runs
                workdir.rmdir()


def _locked(path: Path) -> Any:
    """The open file, locked, with a line in it that says by whom."""
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _in_use(path.parent, file.read().strip() or "it has just begun") from None
        except OSError:
            print(
                f"warning: {path.parent}: no locks on this file system; start no other training there", file=sys.stderr
            )
        # Another run may have ended, and deleted the file, between the two lines above.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


# --- Stores ---


@contextlib.contextmanager
def _lease(workdir: epath.Path) -> Iterator[None]:
    path = workdir / "lease.json"
    mine = {"run": uuid.uuid4().hex, "pid": os.getpid(), "host": socket.gethostname(), "machine": _machine(), "beat": 0}
    found = _read(path)
    if found and not _is_dead(path, found):
        raise _in_use(workdir, f"process {found['pid']} on {found['host']}")
    write_whole(path, json.dumps(mine))
    time.sleep(SETTLE)  # of two that begin at once, the one that wrote last has it
    now = _read(path)
    if not now or now["run"] != mine["run"]:
        raise _in_use(workdir, "it has just begun")
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, mine, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(UserError, FileNotFoundError):
            if (now := _read(path)) and now["run"] == mine["run"]:
                filesystem(path).rm_file(str(path))


def _beat(path: epath.Path, mine: dict, ended: threading.Event) -> None:
    """Counts up in the lease until the run has ended, or somebody else has the lease."""
    while not ended.wait(BEAT):
        with contextlib.suppress(UserError):  # the store is away; the run itself will say so if it stays away
            found = _read(path)
            if found and found["run"] != mine["run"]:
                other = f"process {found['pid']} on {found['host']}"
                print(f"warning: {path.parent}: {other} has taken it for dead and writes there, too", file=sys.stderr)
                return
            mine["beat"] += 1
            write_whole(path, json.dumps(mine))


def _read(path: epath.Path) -> dict | None:
    """A lease; None where there is none, or what is there is none."""
    try:
        found = json.loads(read_text(path)) if is_file(path) else None
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"run", "pid", "host", "machine"} <= found.keys() else None


def _is_dead(path: epath.Path, found: dict) -> bool:
    """Whether the run behind a lease is no more: its process is gone from this machine, or it stays silent."""
    if found["machine"] == _machine() and not _is_running(found["pid"]):
        return True
    print(f"{path} is of process {found['pid']} on {found['host']}: waiting for its next beat", file=sys.stderr)
    end = time.monotonic() + SILENT
    while time.monotonic() < end:
        time.sleep(BEAT / 5)
        if (now := _read(path)) != found:
            return now is None
    return True


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


def _machine() -> str:
    """What tells this machine, since its start, and its space of process numbers from all others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return f"{socket.gethostname()} {uuid.getnode()}"
