"""Trainings whose workdir lies in an object store: whatever is killed, what is there is whole, and the run goes on."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from emulator import HURRY, SECONDS, running_store
from object_store.objects import names
from ports import free_port
from training.test_loop import STEPS, assert_close, finish, losses, save_start, wait_for_step

from jaxdbd import weights
from jaxdbd.machine import files
from jaxdbd.machine.paths import as_path

pytest.importorskip("gcsfs", reason="needs the optional extra: pip install 'jaxdbd[gcs]'")
pytest.importorskip("gcp_storage_emulator", reason="needs the emulator: pip install gcp-storage-emulator")


@pytest.fixture(scope="module", autouse=True)
def first_weights(tmp_path_factory) -> Iterator[None]:
    """All runs of this file start from these weights."""
    folder = tmp_path_factory.mktemp("weights")
    save_start(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("START", str(folder / "start.safetensors"))
        yield


def start(home: Path, workdir: str, data_dir: str, *flags: str, devices: int = 1) -> subprocess.Popen:
    """train.py with the tiny network, on a machine that has only `home`."""
    home.mkdir(exist_ok=True)
    settings = {
        "HOME": str(home),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tiny.ROOT / ".cache" / "jax"),
    }
    data = [f"--config.data_dir={data_dir}", f"--config.init_from={os.environ['START']}"]
    command = [sys.executable, tiny.__file__, f"--workdir={workdir}", *data, *flags]
    return subprocess.Popen(command, env=os.environ | settings, stderr=subprocess.PIPE, text=True, cwd=home)


def local_files(home: Path) -> set[str]:
    """What a run left on a machine, but for the copy of the shards and what matplotlib keeps."""
    found = {str(p.relative_to(home)) for p in home.rglob("*") if p.is_file()}
    return {name for name in found if not name.startswith((".cache/jaxdbd/data/gs/", ".cache/matplotlib/"))}


def tensors(workdir: str | Path) -> dict[str, np.ndarray]:
    return weights.read_tensors(as_path(workdir) / "weights.safetensors")


@pytest.fixture(scope="module")
def undisturbed(built, tmp_path_factory) -> Path:
    """The workdir of a local run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(start(workdir / "home", str(workdir / "run"), str(built)))
    return workdir / "run"


@pytest.mark.slow
def test_killed_and_resumed_on_empty_machines_ends_bit_identical(data_dir, undisturbed, tmp_path):
    workdir = as_path("gs://bucket/killed")
    for machine, step in enumerate((random.randint(5, 9), random.randint(12, 18))):
        process = start(tmp_path / str(machine), str(workdir), data_dir)
        wait_for_step(workdir, step, process)
        process.kill()
        process.communicate()
    finish(start(tmp_path / "last", str(workdir), data_dir))
    assert local_files(tmp_path / "last") == set()
    jax.tree.map(np.testing.assert_array_equal, tensors(workdir), tensors(undisturbed))
    np.testing.assert_array_equal(losses(workdir), losses(undisturbed))
    assert {n.split("/")[0] for n in names(str(workdir))} == {p.name for p in undisturbed.iterdir()}

    # The command knows no tiny encoder; tests/tiny.py gives it one.
    code = "import sys, tiny; from jaxdbd.__main__ import main; sys.exit(main(['evaluate', *sys.argv[1:]]))"
    results = []
    for origin, out in ((workdir, as_path("gs://bucket/report")), (undisturbed, tmp_path / "report")):
        command = [sys.executable, "-c", code, "--dataset=dbd/synthetic", f"--data_dir={data_dir}"]
        done = subprocess.run(
            [*command, f"--weights={origin}", f"--out={out}"],
            env=os.environ | {"HOME": str(tmp_path / "e"), "PYTHONPATH": f"{tiny.ROOT}:{tiny.ROOT / 'tests'}"},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        results.append(json.loads(files.read_text(out / "results.json")))
    assert results[0]["ddff"] == results[1]["ddff"]
    assert len(names("gs://bucket/report/maps")) == 6
    assert not list(tmp_path.glob("gs:*"))


def start_two(tmp_path: Path, workdir: str, data_dir: str) -> list[subprocess.Popen]:
    """Two processes with two devices each, on machines that share nothing but the store."""
    flags = (f"--coordinator=localhost:{free_port()}", "--process_count=2")
    return [start(tmp_path / f"host{i}", workdir, data_dir, *flags, f"--process_id={i}", devices=2) for i in range(2)]


@pytest.mark.slow
def test_hosts_that_share_only_the_store_train_as_one_and_one_dies(data_dir, undisturbed, tmp_path):
    workdir = as_path("gs://bucket/hosts")
    processes = start_two(tmp_path, str(workdir), data_dir)
    wait_for_step(workdir, 6, processes[0])
    processes[1].kill()
    processes[1].communicate()
    processes[0].communicate(timeout=300)  # ends by itself: it cannot go on alone
    assert processes[0].returncode != 0
    shutil.rmtree(tmp_path / "host1")
    assert "resumed at step 4" in finish(*start_two(tmp_path, str(workdir), data_dir))
    assert_close(workdir, undisturbed, rtol=1e-4)
    assert local_files(tmp_path / "host0") == local_files(tmp_path / "host1") == set()


@pytest.mark.slow
def test_uploads_of_a_run_that_are_killed_leave_what_was_whole(folder, data_dir, undisturbed, tmp_path):
    """Of a checkpoint, and in the run that goes on from the one before, of what comes after it."""
    workdir = as_path("gs://slow/killed")
    flags = ("--config.log_every=5",)
    # In this bucket an object takes its time, so these kills hit the upload that comes next.
    for sign, pause, resumed in (
        ("checkpoints/8/", 0.5, ""),
        ("checkpoints/8/commit_success.txt", 1.5, "step 4 of 20"),
    ):
        process = start(tmp_path / "a", str(workdir), data_dir, *flags)
        there = set(names(str(workdir)))
        while not any(name.startswith(sign) for name in set(names(str(workdir))) - there):
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        time.sleep(SECONDS * pause)
        process.kill()
        assert resumed in process.communicate()[1]
        assert ("checkpoints/8/commit_success.txt" in names(str(workdir))) == bool(resumed)
    (folder / HURRY).touch()
    message = finish(start(tmp_path / "b", str(workdir), data_dir, *flags))
    (folder / HURRY).unlink()
    assert f"resumed at step 8 of {STEPS}" in message
    jax.tree.map(np.testing.assert_array_equal, tensors(workdir), tensors(undisturbed))


@pytest.mark.slow
def test_a_store_that_is_away_for_ten_seconds_is_waited_for(built, undisturbed, tmp_path):
    with contextlib.ExitStack() as first, pytest.MonkeyPatch.context() as patch:
        environment, server = first.enter_context(running_store(tmp_path / "store"))
        for name, value in environment.items():
            patch.setenv(name, value)
        process = start(tmp_path / "home", "gs://bucket/away", str(built))
        objects = tmp_path / "store/.cloudstorage/bucket/away/checkpoints/8"
        while not objects.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        server.send_signal(signal.SIGKILL)
        server.wait()
        time.sleep(10)
        port = int(environment["STORAGE_EMULATOR_HOST"].rpartition(":")[2])
        first.enter_context(running_store(tmp_path / "store", port))
        _, message = process.communicate(timeout=300)
        if process.returncode:  # one line, and the same command goes on
            assert message.splitlines()[-1].startswith("error: gs://bucket/away")
            finish(start(tmp_path / "home", "gs://bucket/away", str(built)))
        with files.local_file("gs://bucket/away/weights.safetensors") as copy:
            ours = weights.read_tensors(copy)
        jax.tree.map(np.testing.assert_array_equal, ours, tensors(undisturbed))
