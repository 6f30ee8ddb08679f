"""Being told to stop: SIGTERM, Ctrl-C or a preemption notice, agreed on between processes."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def stop_notices() -> Iterator[Callable[[int], int]]:
    """Within, SIGTERM and Ctrl-C are noted and do not end the process; yields `stop_notice(step)`, to ask after a step.

    `stop_notice` returns the number of the signal, or 0 to go on; with several processes, the same on all of them. With
    several, JAX tells every process of a SIGTERM (or of its cluster's preemption notice) and picks the step after which
    all stop. So SIGTERM is left to JAX, and Ctrl-C is sent on as a SIGTERM. A second Ctrl-C stops at once.
    """
    several = jax.process_count() > 1
    received = []

    def note(number, _frame):
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    def stop_notice(step):
        if several and multihost_utils.reached_preemption_sync_point(step):
            return signal.SIGTERM
        return received[0] if received and not several else 0

    numbers = [signal.SIGINT] if several else [signal.SIGINT, signal.SIGTERM]
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop_notice
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
