"""A broken connection (SIGHUP) ends a training, and a prediction, as SIGTERM does; test_loop.py stops whole runs so."""

import os
import signal
import subprocess
import sys

import pytest
import tiny

from jaxdbd.commands.predict import terminated_like_interrupted
from jaxdbd.training.stopping import stop_notices


@pytest.fixture(autouse=True)
def hangups_end_programs():
    """As from a terminal, where the tests themselves run under nohup, too; programs that are started inherit it."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, previous)


def test_a_hangup_is_noted_and_nohup_is_respected():
    with stop_notices() as stop_notice:
        assert stop_notice(1) == 0
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop_notice(2) == signal.SIGHUP
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a program
    try:
        with stop_notices() as stop_notice, terminated_like_interrupted():
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop_notice(1) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_prediction_writes_its_tables():
    done = []

    def predict():
        with terminated_like_interrupted():
            try:
                os.kill(os.getpid(), signal.SIGHUP)
            finally:
                done.append("tables")

    with pytest.raises(SystemExit) as caught:
        predict()
    assert caught.value.code == 128 + signal.SIGHUP
    assert done == ["tables"]


WAITS = """
import fcntl, sys, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # its own terminal
from jaxdbd.training.stopping import stop_notices
with stop_notices() as stop_notice:
    print("ready", flush=True)
    while not stop_notice(1):
        time.sleep(0.01)
    print("the terminal is gone", flush=True)
    print("the terminal is gone", file=sys.stderr, flush=True)
    open(sys.argv[1], "w").write("saved")
"""


@pytest.mark.slow
def test_what_is_printed_after_the_terminal_has_gone_ends_nothing(tmp_path):
    terminal, end = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(tmp_path / "file")],
        env=os.environ | {"PYTHONPATH": str(tiny.ROOT), "JAX_PLATFORMS": "cpu"},
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
    )
    os.close(end)
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 1000)
    os.close(terminal)  # the window is closed, or the connection breaks
    assert process.wait(60) == 0
    assert (tmp_path / "file").read_text() == "saved"
