"""Several processes find each other: a roll call at the coordinator's address before JAX, which would abort, begins.

Process 0 listens at HOST:PORT, and the others tell it who they are. Once all have come, each of them starts JAX, whose
own server then has the port. So every process says in one line who is missing, or which numbers do not fit.
"""

import contextlib
import dataclasses
import json
import os
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from jaxdbd.errors import UserError, check_within

TELL_EVERY = 30.0  # seconds
TIMEOUT = 300.0  # seconds that the others are waited for; as in JAX
ROLL = {"process_id": int, "process_count": int}


def join(coordinator: str, process_id: int, process_count: int, timeout: float = TIMEOUT) -> None:
    """Joins this process to `process_count` in all, by the address HOST:PORT of process 0.

    Raises UserError for an address without a port or one in use, for numbers that do not fit each other, and where a
    process does not come within `timeout` seconds.
    """
    host, port = address(coordinator)
    check_within("--process_count", process_count, "[1, inf)")
    check_within("--process_id", process_id, f"[0, {process_count})")
    check_within("--coordinator_timeout", timeout, "(0, inf)")
    if process_id == 0:
        call_the_roll(coordinator, port, process_count, timeout)
    else:
        answer_the_roll(coordinator, host, port, process_id, process_count, timeout)
    with watched(timeout):
        # JAX would abort the process: it is to wait longer than we do.
        jax.distributed.initialize(coordinator, process_count, process_id, initialization_timeout=int(timeout) + 60)


def address(coordinator: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, where an IPv6 address stands in brackets. Raises UserError for anything else."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]/\s]+):(\d{1,5})", coordinator)
    if not found or not 0 < int(found[2]) < 2**16:
        raise UserError(f"--coordinator={coordinator}: give HOST:PORT of process 0, such as node0:9999")
    return found[1].strip("[]"), int(found[2])


@contextlib.contextmanager
def watched(timeout: float) -> Iterator[None]:
    """Within, tells every half minute that the others are waited for; after `timeout` seconds the program ends.

    What waits there is JAX, and nothing else than the end of the program can interrupt it. Raises UserError for a
    timeout that is none.
    """
    check_within("--coordinator_timeout", timeout, "(0, inf)")
    joined, end = threading.Event(), time.monotonic() + timeout

    def tell() -> None:
        while not joined.wait(max(0.0, min(TELL_EVERY, end - time.monotonic()))):
            if time.monotonic() >= end:
                print(f"error: {late(timeout)}", file=sys.stderr, flush=True)
                os._exit(1)
            print("waiting for the other processes", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        joined.set()
        thread.join()


def late(timeout: float, who: str = "other processes") -> str:
    """That somebody did not come in time, and what to do."""
    return (
        f"{who} did not come within {timeout:g} s: start them with the same --coordinator, or give a longer "
        "--coordinator_timeout"
    )


@dataclasses.dataclass
class Patience:
    """How long to wait on, with a line every half minute."""

    end: float  # by time.monotonic, as the other
    told: float

    @classmethod
    def of(cls, seconds: float) -> "Patience":
        """From now on, for so many seconds."""
        return cls(time.monotonic() + seconds, time.monotonic())

    def left(self) -> float:
        """Seconds until the end, 0 after it."""
        return max(0.0, self.end - time.monotonic())

    def tell(self, what: str) -> None:
        """Says what is waited for, unless that was said within the last half minute."""
        if time.monotonic() - self.told >= TELL_EVERY:
            self.told = time.monotonic()
            print(f"waiting for {what}", file=sys.stderr, flush=True)


def call_the_roll(coordinator: str, port: int, process_count: int, timeout: float) -> None:
    """Process 0: waits until every other process has come, and tells all of them to go on, or what is wrong."""
    patience, fault = Patience.of(timeout), ""
    present: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as connections:
        try:
            listener = connections.enter_context(_listener(port))
        except OSError as error:
            raise UserError(f"--coordinator={coordinator}: its port cannot be used here ({error.strerror})") from error
        came = []
        while not fault and (missing := sorted(set(range(1, process_count)) - present.keys())):
            named = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
            patience.tell(f"process {named} of {process_count} at {coordinator}")
            if not patience.left():
                fault = late(timeout, f"process {named} of {process_count}")
            elif _is_readable(listener, patience):
                connection = connections.enter_context(listener.accept()[0])
                if given := _received(connection):
                    came.append(connection)
                    fault = _misfit(given, present, process_count)
                    present[given["process_id"]] = connection
        listener.close()  # JAX's server takes its place
        for connection in came:
            with contextlib.suppress(OSError):
                connection.sendall(_line(fault=fault))
    if fault:
        raise UserError(fault)


def _misfit(given: dict, present: dict[int, socket.socket], process_count: int) -> str:
    """Why a process that has come cannot be one of ours; '' for one that can."""
    number, count = given["process_id"], given["process_count"]
    if count != process_count:
        return f"process {number} was started with --process_count={count}, process 0 with {process_count}"
    if number in present and not _has_gone(present[number]):
        return f"two processes were started with --process_id={number}: each needs a number of its own"
    return ""


def answer_the_roll(
    coordinator: str, host: str, port: int, process_id: int, process_count: int, timeout: float
) -> None:
    """Another process: tells process 0 that it is there, and waits for the others."""
    patience = Patience.of(timeout)
    while patience.left():
        patience.tell(f"process 0 at {coordinator}")
        with contextlib.suppress(OSError), socket.create_connection((host, port), min(5.0, patience.left())) as place:
            place.sendall(_line(process_id=process_id, process_count=process_count))
            while patience.left():
                patience.tell("the other processes")
                if _is_readable(place, patience):
                    told = _received(place, {"fault": str})
                    if told is None:
                        break  # process 0 has ended; another may be started
                    if told["fault"]:
                        raise UserError(told["fault"])
                    return
        time.sleep(min(0.2, patience.left()))
    raise UserError(late(timeout, f"process 0 at {coordinator}"))


def _listener(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    return socket.create_server(("", port), backlog=512)


def _is_readable(place: socket.socket, patience: Patience) -> bool:
    return bool(select.select([place], [], [], min(1.0, TELL_EVERY, patience.left()))[0])


def _has_gone(connection: socket.socket) -> bool:
    """Whether the process at the other end, which has nothing more to say, has ended."""
    if not select.select([connection], [], [], 0)[0]:
        return False
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


def _line(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _received(connection: socket.socket, kinds: dict[str, type] = ROLL) -> dict | None:
    """What the other end has sent; None where it is no process of ours, or has gone."""
    connection.settimeout(5.0)
    try:
        with connection.makefile("rb") as file:
            found = json.loads(file.readline(4096))
    except (OSError, ValueError):
        return None
    fits = isinstance(found, dict) and all(type(found.get(name)) is kind for name, kind in kinds.items())
    return found if fits else None
