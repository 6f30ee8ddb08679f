"""Data and runs in an object store, against an emulator on loopback: what is there is whole, whatever was killed."""

import contextlib
import errno
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from object_store import running_store
from training.test_loop import STEPS, assert_close, finish, losses, wait_for_step

from jaxdbd import files, sharding, weights
from jaxdbd.errors import UserError
from jaxdbd.input import shards
from jaxdbd.input.pipeline import open_split
from jaxdbd.paths import as_path, filesystem
from jaxdbd.training import checkpoint
from jaxdbd.training.logs import RunLog, read_metrics
from jaxdbd.training.loop import train
from jaxdbd.training.spool import Spool
from jaxdbd.transfer import list_objects

pytest.importorskip("gcsfs", reason="needs the optional extra: pip install 'jaxdbd[gcs]'")
pytest.importorskip("gcp_storage_emulator", reason="needs the emulator: pip install gcp-storage-emulator")

BUILD = ["--dataset=synthetic", "--teacher=scene", "--size=64", "--train_scenes=24", "--test_scenes=6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the store keeps its objects."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def store(folder) -> Iterator[dict[str, str]]:
    """A running store, for this process too; its environment variables."""
    with running_store(folder) as (environment, _), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty home; what stands in it is what was left on this machine."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The rendered dataset, built into a local folder."""
    data_dir = tmp_path_factory.mktemp("local")
    command = [sys.executable, str(tiny.ROOT / "data/build.py"), *BUILD, f"--data_dir={data_dir}"]
    subprocess.run(command, check=True, capture_output=True)
    return data_dir


@pytest.fixture(scope="module")
def data_dir(store, built) -> str:
    """The same in the store."""
    shards.put_dataset(built / "dbd/synthetic/1.0.0", as_path("gs://bucket/data/dbd/synthetic/1.0.0"))
    return "gs://bucket/data"


def names(folder: str) -> set[str]:
    """Of the objects below a folder."""
    return set(list_objects(as_path(folder)))


def remove(path: str) -> None:
    filesystem(as_path(path)).rm_file(path)


def one_line(text: str) -> str:
    """The only line that was written but for progress and what Google's library says of a machine of ours."""
    lines = [line for part in text.splitlines() for line in part.split("\r")]
    lines = [x for x in lines if x.strip() and not x.startswith(("WARNING:google", "I1", "I0")) and "%|" not in x]
    assert len(lines) == 1, text
    return lines[0]


# ---- files ----


def test_a_file_is_there_whole_or_not_at_all(store, home):
    path = as_path("gs://bucket/files/a.txt")
    assert not files.is_file(path)
    files.write_whole(path, "müller")
    assert files.is_file(path)
    assert not files.is_file(path.parent)
    assert files.read_text(path) == "müller"
    with files.whole_file(path) as unfinished:
        unfinished.write_text("new")
        assert files.read_text(path) == "müller"
    assert files.read_text(path) == "new"
    with contextlib.suppress(RuntimeError), files.whole_file(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert files.read_text(path) == "new"
    with files.local_file(path) as copy:
        assert copy.read_text() == "new"
        assert copy.name == "a.txt"
    assert not copy.exists()


def test_an_output_folder_arrives_as_it_was_written(store, home):
    with files.output_folder("gs://bucket/out") as out:
        (out / "maps").mkdir()
        (out / "maps" / "a.png").write_bytes(b"1")
        (out / "report.md").write_text("text")
    assert names("gs://bucket/out") == {"maps/a.png", "report.md"}
    assert not list(home.rglob("*"))


@pytest.mark.parametrize(
    ("bucket", "reason"), [("nowhere", "no such bucket, or nothing there"), ("forbidden", "the store refuses it")]
)
def test_a_store_that_does_not_give_or_take_is_one_line(store, home, bucket, reason, built):
    path = as_path(f"gs://{bucket}/x")
    attempts = {
        "write": lambda: files.write_whole(path, "x"),
        "read": lambda: files.read_text(path),
        "list": lambda: list_objects(path),
        "probe": lambda: files.check_writable(path),
        "copy": lambda: files.local_file(path).__enter__(),
        "split": lambda: open_split("dbd/synthetic", "train", str(path)),
        "put": lambda: shards.put_dataset(built / "dbd/synthetic/1.0.0", path),
        "spool": lambda: Spool(path),
    }
    for name, attempt in attempts.items():
        with pytest.raises(UserError, match=reason) as caught:
            attempt()
        assert str(caught.value).startswith(f"gs://{bucket}/x"), name
        assert "\n" not in str(caught.value)
    if bucket == "forbidden":  # a refusal is not a no
        with pytest.raises(UserError, match=reason):
            weights.load(path)


def test_what_another_host_wrote_is_seen(store, home):
    path = as_path("gs://bucket/seen/a")
    files.write_whole(path, "x")
    assert {p.name for p in path.parent.iterdir()} == {"a"}
    subprocess.run(
        [sys.executable, "-c", "from jaxdbd import files; files.write_whole('gs://bucket/seen/b', 'x')"],
        env=os.environ | {"PYTHONPATH": str(tiny.ROOT)},
        check=True,
    )
    assert {p.name for p in path.parent.iterdir()} == {"a", "b"}


# ---- shards ----


def same_records(a, b) -> None:
    assert len(a) == len(b) > 0
    for i in range(len(a)):
        assert a[i]["id"] == b[i]["id"]
        assert a[i]["image"] == b[i]["image"]
        np.testing.assert_array_equal(a[i]["depth"], b[i]["depth"])


def test_shards_are_copied_once_and_verified(data_dir, built, home, monkeypatch):
    local = open_split("dbd/synthetic", "train", built)
    same_records(open_split("dbd/synthetic", "train", data_dir), local)
    cached = home / ".cache/jaxdbd/data/gs/bucket/data/dbd/synthetic/1.0.0"
    originals = {p.name: p.read_bytes() for p in (built / "dbd/synthetic/1.0.0").iterdir()}
    assert {p.name: p.read_bytes() for p in cached.iterdir()} == originals
    copied = []
    download = shards.download
    monkeypatch.setattr(shards, "download", lambda *a: copied.append(a[1].name) or download(*a))
    open_split("dbd/synthetic", "train", data_dir)
    assert not copied
    (shard,) = cached.glob("*train*")
    for damage in (lambda: shard.unlink(), lambda: os.truncate(shard, 100), lambda: shard.write_bytes(
        bytes(len(originals[shard.name])))):  # fmt: skip
        damage()
        same_records(open_split("dbd/synthetic", "train", data_dir), local)
        assert copied == [shard.name]
        copied.clear()
    # Without the record of a copy, the bytes tell.
    (cached.parent / shards.RECORD).unlink()
    open_split("dbd/synthetic", "train", data_dir)
    assert not copied


def test_a_rebuild_of_the_same_size_is_copied_again(store, built, home):
    place = as_path("gs://bucket/rebuilt/dbd/synthetic/1.0.0")
    shards.put_dataset(built / "dbd/synthetic/1.0.0", place)
    open_split("dbd/synthetic", "test", "gs://bucket/rebuilt")
    files.write_whole(place / "metadata.json", files.read_text(place / "metadata.json").replace("near", "farr"))
    open_split("dbd/synthetic", "test", "gs://bucket/rebuilt")
    cached = home / ".cache/jaxdbd/data/gs/bucket/rebuilt/dbd/synthetic/1.0.0"
    assert "farr" in (cached / "metadata.json").read_text()


def test_a_half_upload_is_no_dataset(store, built, home):
    place = as_path("gs://bucket/half/dbd/synthetic/1.0.0")
    shards.put_dataset(built / "dbd/synthetic/1.0.0", place)
    open_split("dbd/synthetic", "test", "gs://bucket/half")
    remove(str(place / "dataset_info.json"))
    with pytest.raises(UserError, match="dbd/synthetic is not built in gs://bucket/half"):
        open_split("dbd/synthetic", "test", "gs://bucket/half")
    # Put again, only what is missing is sent.
    before = {n: filesystem(place).info(str(place / n))["generation"] for n in list_objects(place)}
    shards.put_dataset(built / "dbd/synthetic/1.0.0", place)
    after = {n: filesystem(place).info(str(place / n))["generation"] for n in list_objects(place)}
    assert after.keys() - before.keys() == {"dataset_info.json"}
    assert {n: after[n] for n in before} == before


def test_a_full_disk_under_the_cache_is_one_line(data_dir, home, monkeypatch):
    usage = shutil.disk_usage(home)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(UserError, match=r"no room for a copy of gs://bucket/data.*config\.cache_dir"):
            open_split("dbd/synthetic", "train", data_dir)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match=r"jaxdbd/data.*config\.cache_dir.*No space left") as caught:
            open_split("dbd/synthetic", "train", data_dir)
    assert "\n" not in str(caught.value)
    assert len(open_split("dbd/synthetic", "train", data_dir)) == 24


def test_a_missing_shard_is_not_an_empty_one(built, tmp_path):
    shutil.copytree(built, tmp_path / "data")
    (shard,) = tmp_path.rglob("*train.array_record*")
    shard.unlink()
    with pytest.raises(UserError, match="this shard is missing"):
        open_split("dbd/synthetic", "train", tmp_path / "data")


# ---- what a run leaves ----


def test_logs_go_on_from_the_stores_copy(store, home):
    workdir = as_path("gs://bucket/logs")
    for machine, (start, stop) in enumerate([(0, 7), (4, 10)]):  # killed after step 7; the last checkpoint is of step 4
        spool = Spool(workdir, str(home / str(machine)))
        log = RunLog(spool, 10, start, active=True)
        for step in range(start + 1, stop + 1):
            log.write(step, {"loss": 1 / step})
        log.publish(wait=True)
        if stop == 7:
            assert [line["step"] for line in read_metrics(workdir / "metrics.jsonl")] == list(range(1, 8))
        else:
            log.close()
            spool.close()
            assert not spool.folder.exists()
        time.sleep(1)  # event files are named by the second
    assert [line["step"] for line in read_metrics(workdir / "metrics.jsonl")] == list(range(1, 11))
    events = {n for n in names(str(workdir)) if n.startswith("tensorboard/")}
    assert len(events) == 2


def test_events_are_cut_into_files_that_can_be_sent_whole(store, home, monkeypatch):
    monkeypatch.setattr("jaxdbd.training.logs.EVENTS_SIZE", 1000)
    spool = Spool("gs://bucket/events")
    log = RunLog(spool, 10, 0, active=True)
    for step in range(1, 4):
        log.image(step, "panel", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
        until = time.time() + 20
        while log.boards < step and time.time() < until:  # the board writes in a thread of its own
            time.sleep(0.1)
            log.publish(wait=True)
    log.close()
    spool.close()
    assert len(names("gs://bucket/events/tensorboard")) == 4


CONFIG = {"encoder": "lite0", "optimizer": "adamw", "ema_decay": 0.9, "accumulate": 1, "model": {"sab": True}}


def make_state(step: int) -> dict:
    return {"step": jnp.int32(step), "params": {"kernel": jnp.full((4, 3), float(step))}}


def make_data():
    return iter(grain.MapDataset.range(100).seed(0).shuffle().batch(2).to_iter_dataset())


def save(folder: str, *steps: int, metrics: dict[str, float] | None = None) -> None:
    manager, data = checkpoint.open_manager(folder, 10), make_data()
    for step in range(1, max(steps) + 1):
        next(data)
        if step in steps:
            checkpoint.save(manager, step, make_state(step), data, CONFIG, metrics)
    manager.close()


def restore(folder: str):
    manager, data = checkpoint.open_manager(folder, 10), make_data()
    shapes = jax.eval_shape(lambda: make_state(0))
    placement = sharding.state_sharding(sharding.make_mesh(), shapes, fsdp=False)
    try:
        return checkpoint.restore(manager, checkpoint.abstract(shapes, placement), data, CONFIG), data
    finally:
        manager.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["data gone", "truncated", "meta garbled", "not committed"])
def test_a_damaged_checkpoint_is_passed_over_and_can_be_written_again(store, how, capfd):
    folder = f"gs://bucket/{how.replace(' ', '_')}"
    save(folder, 1, 2, 3)
    inside = {n for n in names(folder) if n.startswith("3/")}
    if how == "data gone":
        for name in inside:
            if "/d/" in name:
                remove(f"{folder}/{name}")
    elif how == "truncated":
        for name in inside:
            if "commit_success" not in name:
                content = filesystem(as_path(folder)).cat_file(f"{folder}/{name}")
                files.write_whole(as_path(folder) / name, content[: len(content) // 2])
    elif how == "meta garbled":
        files.write_whole(as_path(f"{folder}/3/meta/metadata"), "{")
    else:  # what a kill leaves
        remove(f"{folder}/3/commit_success.txt")
    capfd.readouterr()
    state, data = restore(folder)
    assert int(state["step"]) == 2
    assert data.get_state() == {"next_index": 2}
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    if how != "not committed":
        assert len(warnings) == 1
        assert warnings[0].startswith(f"warning: checkpoint {folder}/3 is damaged, passed over")
    save(folder, 3)
    state, data = restore(folder)
    assert int(state["step"]) == 3


@pytest.mark.slow
def test_metrics_that_cannot_be_read_set_their_checkpoint_aside_in_a_store(store, capfd):
    folder = "gs://bucket/metrics"
    save(folder, 1, 2, metrics={"mae": 0.3})
    files.write_whole(as_path(f"{folder}/2/metrics/metrics"), "")
    capfd.readouterr()
    assert int(restore(folder)[0]["step"]) == 1
    assert f"warning: checkpoint {folder}/2 is damaged, passed over (its metrics" in capfd.readouterr().err
    assert int(restore(folder)[0]["step"]) == 1  # what is left of it harms nobody
    assert "warning" not in capfd.readouterr().err
    save(folder, 2, metrics={"mae": 0.2})
    assert int(restore(folder)[0]["step"]) == 2
    for step in "12":
        files.write_whole(as_path(f"{folder}/{step}/metrics/metrics"), "")
    with pytest.raises(UserError, match=f"no checkpoint in {folder} can be read"):
        restore(folder)
    assert {f"{step}/commit_success.txt" for step in "12"} <= names(folder)


def test_a_store_that_goes_away_is_not_taken_for_damage(store, monkeypatch):
    save("gs://bucket/away", 1, 2)

    def gone(*_, **__):
        raise ValueError("UNAVAILABLE: connection refused")

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.CheckpointManager.restore", gone)
        with pytest.raises(UserError, match="the store does not give checkpoint 2"):
            restore("gs://bucket/away")
    assert int(restore("gs://bucket/away")[0]["step"]) == 2


# ---- commands ----


def run(*command: str) -> subprocess.CompletedProcess:
    ours = {"PYTHONPATH": str(tiny.ROOT)}  # rather than what is installed
    return subprocess.run(
        [sys.executable, *command], env=os.environ | ours, capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
@pytest.mark.parametrize(("bucket", "reason"), [("nowhere", "no such bucket"), ("forbidden", "the store refuses it")])
def test_commands_say_in_one_line_what_the_store_refuses(data_dir, home, bucket, reason):
    there = f"gs://{bucket}/x"
    for command in (
        [str(tiny.ROOT / "data/build.py"), *BUILD, f"--data_dir={there}"],
        [tiny.__file__, f"--workdir={there}", f"--config.data_dir={data_dir}"],
        [tiny.__file__, "--workdir=w", f"--config.data_dir={there}"],
        ["-m", "jaxdbd", "evaluate", f"--weights={there}", "--dataset=dbd/synthetic", f"--data_dir={data_dir}"],
    ):
        done = run(*command)
        assert done.returncode == 1, command
        line = one_line(done.stderr)
        assert line.startswith("error: ")
        assert there in line
        if not (bucket == "nowhere" and "evaluate" in command):  # there, no weights are found
            assert reason in line
    left = {str(p.relative_to(home)) for p in home.rglob("*") if p.is_file()}
    assert {name for name in left if not name.startswith((".cache/", ".config/matplotlib/"))} == set()
    assert not list(home.parent.glob("gs:*"))


def start(home: Path, workdir: str, data_dir: str, *flags: str, devices: int = 1) -> subprocess.Popen:
    """train.py with the tiny network, on a machine that has only `home`."""
    home.mkdir(exist_ok=True)
    settings = {
        "HOME": str(home),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tiny.ROOT / ".cache" / "jax"),
    }
    command = [sys.executable, tiny.__file__, f"--workdir={workdir}", f"--config.data_dir={data_dir}", *flags]
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
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = (f"--coordinator=localhost:{port}", "--process_count=2")
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
def test_an_upload_of_shards_that_is_killed_goes_on(store, home, built):
    command = [sys.executable, str(tiny.ROOT / "data/build.py"), *BUILD, "--num_shards=4", "--data_dir=gs://slow/data"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    place = "gs://slow/data/dbd/synthetic/1.0.0"
    while len(names(place)) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.kill()
    process.communicate()
    assert "dataset_info.json" not in names(place)
    with pytest.raises(UserError, match="not built in gs://slow/data"):
        open_split("dbd/synthetic", "train", "gs://slow/data", str(home / "other"))
    there = {n: filesystem(as_path(place)).info(f"{place}/{n}")["generation"] for n in names(place)}
    done = run(*command[1:])
    assert done.returncode == 0, done.stderr
    assert "built dbd/synthetic: 24 train, 6 test" in done.stdout.replace("6 test, 24 train", "24 train, 6 test")
    kept = {n: filesystem(as_path(place)).info(f"{place}/{n}")["generation"] for n in there}
    assert kept == there  # sent once
    records = open_split("dbd/synthetic", "train", "gs://slow/data", str(home / "other"))
    assert {r["id"] for r in records} == {r["id"] for r in open_split("dbd/synthetic", "train", built)}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["checkpoint", "weights"])
def test_an_upload_of_a_run_that_is_killed_leaves_what_was_whole(data_dir, undisturbed, tmp_path, what):
    workdir = as_path(f"gs://slow/{what}")
    flags = ("--config.log_every=5",)
    process = start(tmp_path / "a", str(workdir), data_dir, *flags)
    # In this bucket an object takes a second, so these kills hit the upload that comes next.
    sign = "checkpoints/8/" if what == "checkpoint" else "checkpoints/8/commit_success.txt"
    while not any(name.startswith(sign) for name in names(str(workdir))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    time.sleep(0.5 if what == "checkpoint" else 1.5)
    process.kill()
    process.communicate()
    there = names(str(workdir))
    assert ("checkpoints/8/commit_success.txt" in there) == (what == "weights")
    message = finish(start(tmp_path / "b", str(workdir), data_dir, *flags))
    assert f"resumed at step {4 if what == 'checkpoint' else 8} of {STEPS}" in message
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


def test_checkpoints_on_another_scheme_are_refused_before_anything_is_done(built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = tiny.get_config()
    config.data_dir = str(built)
    with pytest.raises(UserError, match=r"s3://bucket/run: s3:// needs a package that is not installed"):
        train(config, "s3://bucket/run")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(UserError, match=r"s3://bucket/run: Orbax writes checkpoints to gs://"):
        train(config, "s3://bucket/run")
    assert not list(tmp_path.iterdir())
