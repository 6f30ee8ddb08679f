"""One training at a time in a local workdir; object_store/test_stored_lock.py has those in a store."""

import contextlib
import fcntl
import os
import socket
import subprocess
import sys

import pytest
import tiny
from odd_files import one_line, without_rights
from training.test_loop import data_dir, finish, start, start_two  # noqa: F401

from jaxdbd.errors import UserError
from jaxdbd.training import lock
from jaxdbd.training.lock import sole_run

HOLDS = """
import sys, time
from jaxdbd.training.lock import sole_run
with sole_run(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def held_elsewhere(workdir):
    """Within, another process has the workdir."""
    command = [sys.executable, "-c", HOLDS, str(workdir)]
    environment = os.environ | {"PYTHONPATH": str(tiny.ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_second_run_is_refused_and_a_killed_one_is_in_nobodys_way(tmp_path):
    with held_elsewhere(tmp_path / "run") as process:
        with pytest.raises(UserError) as caught, sole_run(tmp_path / "run"):
            pass
        assert str(caught.value) == (
            f"{tmp_path / 'run'}: another training writes there (process {process.pid} on {socket.gethostname()}): "
            "wait for its end, or take another --workdir"
        )
        assert (tmp_path / "run" / ".lock").exists()
    # It was killed just now.
    with sole_run(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / ".lock").read_text()


def test_nothing_is_left_of_a_lock(tmp_path):
    with sole_run(tmp_path / "new"):
        with pytest.raises(UserError, match="another training writes there"), sole_run(tmp_path / "new"):
            pass
        assert [path.name for path in (tmp_path / "new").iterdir()] == [".lock"]
    assert not (tmp_path / "new").exists()  # nothing was written in it
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").write_text("")
    with contextlib.suppress(KeyError), sole_run(tmp_path / "run"):
        raise KeyError
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]
    with sole_run(tmp_path / "run"):
        pass


def test_a_lock_that_was_deleted_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """The run before ends, and deletes its file, between our opening it and our locking it."""
    path, flock, calls = tmp_path / ".lock", fcntl.flock, []

    def after_the_other_has_ended(file, how):
        if not calls:
            path.unlink()
        calls.append(file)
        flock(file, how)

    monkeypatch.setattr(lock.fcntl, "flock", after_the_other_has_ended)
    with sole_run(tmp_path):
        assert len(calls) == 2
        assert path.exists()
        with pytest.raises(UserError, match="another training"), sole_run(tmp_path):
            pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with sole_run(tmp_path):
        assert capsys.readouterr().err.startswith(f"warning: {tmp_path}: no locks on this file system")


@pytest.mark.slow
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path):
    (tmp_path / "run").mkdir(mode=0o555)
    code = (
        "import sys; from jaxdbd.machine.startup import exit_status; from jaxdbd.training.lock import sole_run\n"
        "sys.exit(exit_status(lambda: sole_run(sys.argv[1]).__enter__()))"
    )
    done = without_rights(code, tmp_path / "run")
    assert done.returncode == 1
    one_line(done.stderr, f"{tmp_path / 'run'}: no training can write here: Permission denied")


@pytest.mark.slow
def test_a_training_in_a_workdir_in_use_is_one_line_on_every_process(data_dir, tmp_path):  # noqa: F811
    with sole_run(tmp_path / "run"):
        told = finish(start(data_dir, tmp_path / "run"), status=1)
        one_line(told, f"{tmp_path / 'run'}: another training writes there (process {os.getpid()} on ")
        assert len(told.splitlines()) == 1
        processes = start_two(data_dir, tmp_path / "run")
        written = [process.communicate(timeout=300)[1] for process in processes]
        assert [process.returncode for process in processes] == [1, 1], written
        one_line(written[0], "another training writes there")
        one_line(written[1], "process 0 may not write there, and says why")
