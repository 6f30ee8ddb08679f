"""Files and shards in an object store: what is there is whole, and what cannot be had is one line."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from object_store.objects import BUILD, names, one_line, remove

from jaxdbd import weights
from jaxdbd.errors import UserError
from jaxdbd.input import shards
from jaxdbd.input.records import open_split
from jaxdbd.machine import files, transfer
from jaxdbd.machine.paths import as_path, filesystem
from jaxdbd.machine.transfer import list_objects
from jaxdbd.training.logs import Spool

pytest.importorskip("gcsfs", reason="needs the optional extra: pip install 'jaxdbd[gcs]'")
pytest.importorskip("gcp_storage_emulator", reason="needs the emulator: pip install gcp-storage-emulator")


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
        [sys.executable, "-c", "from jaxdbd.machine import files; files.write_whole('gs://bucket/seen/b', 'x')"],
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
    download = transfer.download
    monkeypatch.setattr(transfer, "download", lambda *a: copied.append(a[1].name) or download(*a))
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
    (cached.parent / transfer.RECORD).unlink()
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_upload_of_shards_that_is_killed_goes_on(store, home, built):
    command = [sys.executable, str(tiny.ROOT / "data/build.py"), *BUILD, "--num_shards=6", "--data_dir=gs://slow/data"]
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
