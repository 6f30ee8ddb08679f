"""One training at a time in a workdir of a store, which has no locks."""

import json
import os
import subprocess
import sys
import threading

import pytest

from jaxdbd.errors import UserError
from jaxdbd.machine.files import is_file, read_text, write_whole
from jaxdbd.machine.paths import as_path
from jaxdbd.training import lock
from jaxdbd.training.lock import sole_run

pytest.importorskip("gcsfs", reason="needs the optional extra: pip install 'jaxdbd[gcs]'")
pytest.importorskip("gcp_storage_emulator", reason="needs the emulator: pip install gcp-storage-emulator")


@pytest.fixture(autouse=True)
def quick(store, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.2)
    monkeypatch.setattr(lock, "SILENT", 1.5)
    monkeypatch.setattr(lock, "SETTLE", 0.1)


def lease_of(workdir, **fields) -> dict:
    """Leaves a lease as another run does."""
    lease = {"run": "other", "pid": os.getpid(), "host": "elsewhere", "machine": "another", "beat": 3} | fields
    write_whole(as_path(workdir) / "lease.json", json.dumps(lease))
    return lease


def test_a_second_run_is_refused_while_the_first_beats():
    workdir = as_path("gs://bucket/beats")
    with sole_run(workdir):
        first = json.loads(read_text(workdir / "lease.json"))
        assert first["pid"] == os.getpid()
        refused = pytest.raises(UserError, match=r"another training writes there \(process \d+ on .*another --workdir")
        with refused, sole_run(workdir):
            pass
        now = json.loads(read_text(workdir / "lease.json"))
        assert now["run"] == first["run"]
        assert now["beat"] > first["beat"]
    assert not is_file(workdir / "lease.json")


def test_a_silent_lease_of_another_machine_is_waited_for_and_then_taken(capfd):
    lease_of("gs://bucket/silent")
    with sole_run("gs://bucket/silent"):
        assert "is of process" in capfd.readouterr().err
        assert json.loads(read_text("gs://bucket/silent/lease.json"))["run"] != "other"
    assert not is_file("gs://bucket/silent/lease.json")


def test_a_lease_of_a_process_that_died_here_is_taken_at_once(capfd):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    lease_of("gs://bucket/died", pid=process.pid, machine=lock._machine())
    with sole_run("gs://bucket/died"):
        assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00"])
def test_what_is_no_lease_is_none(content):
    write_whole("gs://bucket/none/lease.json", content)
    with sole_run("gs://bucket/none"):
        pass


def test_of_two_that_begin_at_once_one_goes_on(monkeypatch):
    """Both find no lease; who wrote last has it."""
    monkeypatch.setattr(lock, "SETTLE", 2.0)
    both, outcomes, done = threading.Barrier(2), [], threading.Barrier(2)

    def begin():
        both.wait()
        try:
            with sole_run("gs://bucket/race"):
                outcomes.append("ran")
                done.wait(30)
        except UserError as error:
            outcomes.append(str(error))
            done.wait(30)

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=len)[0] == "ran"
    assert "another training writes there" in sorted(outcomes, key=len)[1]


def test_who_was_taken_for_dead_is_told(capfd):
    with sole_run("gs://bucket/lost"):
        lease_of("gs://bucket/lost")
        deadline = threading.Event()
        for _ in range(50):
            deadline.wait(0.1)
            if told := capfd.readouterr().err:
                break
        assert "process" in told
        assert "has taken it for dead and writes there, too" in told
    assert json.loads(read_text("gs://bucket/lost/lease.json"))["run"] == "other"  # which is left to it
