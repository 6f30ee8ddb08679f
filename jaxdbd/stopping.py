"""Being told to stop: SIGTERM, Ctrl-C or a preemption notice, agreed on between processes."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def stop_notices() -> Iterator[Callable[[int], int]]:
    """Within, SIGTERM and Ctrl-C only leave word; yields `stop_notice(step)`, to be asked after every step.

    It answers with the signal's number, or 0 to go on; and with several processes, the same on all. There JAX carries
    word of a SIGTERM (or of its cluster's preemption notice) to every process, and picks the step after which all stop:
    that signal is left to it, and Ctrl-C handed on as one. A second Ctrl-C stops at once.
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
