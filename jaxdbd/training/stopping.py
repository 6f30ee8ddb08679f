"""Being told to stop: SIGTERM, Ctrl-C, a hang-up or a preemption notice, agreed on between processes."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from jaxdbd.machine.startup import handled, is_heard, leave_terminal


@contextlib.contextmanager
def stop_notices() -> Iterator[Callable[[int], int]]:
    """Within, SIGTERM, Ctrl-C and SIGHUP are noted and do not end the process; yields `stop_notice(step)`.

    That is to be asked after a step. It returns the number of the signal, or 0 to go on; with several processes, the
    same on all of them. With several, JAX tells every process of a SIGTERM (or of its cluster's preemption notice) and
    picks the step after which all stop. So SIGTERM is left to JAX, and the others are sent on as a SIGTERM. A second
    Ctrl-C stops at once. Under nohup, which has a hang-up ignored, it stays so.
    """
    several = jax.process_count() > 1
    received = []

    def note(number, _frame):
        received.append(number)
        if number == signal.SIGHUP:
            leave_terminal()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    def stop_notice(step):
        if several and multihost_utils.reached_preemption_sync_point(step):
            return signal.SIGTERM
        return received[0] if received and not several else 0

    numbers = [signal.SIGINT] if several else [signal.SIGINT, signal.SIGTERM]
    numbers += [signal.SIGHUP] if is_heard(signal.SIGHUP) else []
    with handled(numbers, note):
        yield stop_notice
