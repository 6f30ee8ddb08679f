"""Several processes find each other, or say in one line why not."""

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import tiny
from ports import free_port

from jaxdbd import peers
from jaxdbd.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:9999", ("localhost", 9999)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("node-0.job.svc:80", ("node-0.job.svc", 80)),
    ],
)
def test_an_address_is_host_and_port(text, expected):
    assert peers.address(text) == expected


@pytest.mark.parametrize(
    "text", ["localhost", "localhost:", ":99", "a:0", "a:65536", "a:b", "::1", "http://a:1", "a:1/x"]
)
def test_anything_else_is_one_line(text):
    with pytest.raises(UserError, match=r"^--coordinator=.*: give HOST:PORT of process 0, such as node0:9999$"):
        peers.address(text)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((2, 2), r"^--process_id: 2 is not in \[0, 2\)$"),
        ((-1, 2), r"^--process_id: -1 is not in \[0, 2\)$"),
        ((0, 0), r"^--process_count: 0 is not in \[1, inf\)$"),
        ((0, 2, 0.0), r"^--coordinator_timeout: 0.0 is not in \(0, inf\)$"),
    ],
)
def test_numbers_that_cannot_be_are_one_line(numbers, message):
    with pytest.raises(UserError, match=message):
        peers.join("localhost:9999", *numbers)


@pytest.fixture
def roll():
    """A function that lets process 0 and others take part in a roll call, and gives what each of them is told."""
    with ThreadPoolExecutor(8) as pool:
        port = free_port()
        where = f"localhost:{port}"

        def begin(count: int, others: list[tuple[int, int]], timeout: float = 20.0) -> list[Future]:
            zero = pool.submit(peers.call_the_roll, where, port, count, timeout)
            return [zero] + [
                pool.submit(peers.answer_the_roll, where, "localhost", port, number, given, timeout)
                for number, given in others
            ]

        begin.port = port
        yield begin


def told(futures: list[Future]) -> list[str]:
    return [str(future.exception(60) or "") for future in futures]


def test_all_go_on_once_all_have_come(roll):
    assert told(roll(4, [(3, 4), (1, 4), (2, 4)])) == [""] * 4
    assert told(roll(1, [])) == [""]
    assert told(roll(2, [(1, 2)])) == [""] * 2  # the port is free again


def test_another_count_is_told_to_all(roll):
    line = "process 1 was started with --process_count=3, process 0 with 2"
    assert told(roll(2, [(1, 3)])) == [line] * 2


def test_a_number_that_is_there_twice_is_told_to_all(roll):
    line = "two processes were started with --process_id=1: each needs a number of its own"
    assert told(roll(3, [(1, 3), (1, 3)])) == [line] * 3


def test_who_does_not_come_is_named_by_all(roll, monkeypatch, capfd):
    monkeypatch.setattr(peers, "TELL_EVERY", 0.5)
    line = (
        "process 2, 3 of 4 did not come within 2 s: start them with the same --coordinator, or give a longer "
        "--coordinator_timeout"
    )
    zero, one = roll(4, [(1, 4)], timeout=2.0)
    assert told([zero]) == [line]
    assert told([one])[0] in (line, line.replace("process 2, 3 of 4", f"process 0 at localhost:{roll.port}"))
    written = capfd.readouterr().err
    assert f"waiting for process 2, 3 of 4 at localhost:{roll.port}\n" in written
    assert "waiting for the other processes\n" in written


def test_without_process_0_the_others_say_so():
    port = free_port()
    with pytest.raises(UserError, match=f"^process 0 at localhost:{port} did not come within 1 s: "):
        peers.answer_the_roll(f"localhost:{port}", "localhost", port, 1, 2, 1.0)


def test_a_port_in_use_is_one_line():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^--coordinator=localhost:{port}: its port cannot be used here \(Address al"
        ):
            peers.call_the_roll(f"localhost:{port}", port, 2, 5.0)


def connected(port: int) -> socket.socket:
    while True:
        try:
            return socket.create_connection(("localhost", port))
        except ConnectionRefusedError:
            threading.Event().wait(0.01)


def test_strangers_are_passed_over(roll):
    (zero,) = roll(2, [])
    for content in (b"GET / HTTP/1.0\r\n\r\n", b"[1]\n", b'{"process_id": "1", "process_count": 2}\n', b""):
        with connected(roll.port) as stranger:
            stranger.sendall(content)
    peers.answer_the_roll(f"localhost:{roll.port}", "localhost", roll.port, 1, 2, 20.0)
    assert told([zero]) == [""]


def test_a_process_that_died_may_come_again(roll):
    (zero,) = roll(3, [])
    with connected(roll.port) as died:
        died.sendall(b'{"process_id": 1, "process_count": 3}\n')
        threading.Event().wait(0.5)
    with ThreadPoolExecutor(2) as pool:
        where = f"localhost:{roll.port}"
        others = [pool.submit(peers.answer_the_roll, where, "localhost", roll.port, i, 3, 20.0) for i in (1, 2)]
        assert told([zero, *others]) == ["", "", ""]


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_one_line(timeout):
    with pytest.raises(UserError, match=r"^--coordinator_timeout: .* is not in \(0, inf\)$"), peers.watched(timeout):
        pass


WAITS = """
import time
from jaxdbd import peers
peers.TELL_EVERY = 0.5
with peers.watched(0.2): pass
with peers.watched(1.2): time.sleep(60)
"""


def run(code: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(tiny.ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_what_waits_in_jax_is_watched():
    done = run(WAITS)
    assert done.returncode == 1
    *waiting, last = done.stderr.splitlines()
    assert waiting == ["waiting for the other processes"] * 2
    assert last.startswith("error: other processes did not come within 1.2 s: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--coordinator=localhost"],
            "error: --coordinator=localhost: give HOST:PORT of process 0, such as node0:9999",
        ),
        (
            ["--coordinator=localhost:PORT", "--coordinator_timeout=1"],
            "error: process 1 of 2 did not come within 1 s: ",
        ),
    ],
)
def test_train_says_it_in_one_line(flags, line, tmp_path):
    flags = [flag.replace("PORT", str(free_port())) for flag in flags]
    command = [sys.executable, tiny.__file__, f"--workdir={tmp_path}", "--process_id=0", "--process_count=2", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1
