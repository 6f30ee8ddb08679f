"""Logs and checkpoints in an object store."""

import importlib.util
import time

import numpy as np
import pytest
import tiny
from object_store.objects import names, remove
from training.test_checkpoint import read, write

from jaxdbd.errors import UserError
from jaxdbd.machine import files
from jaxdbd.machine.paths import as_path, filesystem
from jaxdbd.training.logs import RunLog, Spool, read_metrics
from jaxdbd.training.loop import train

pytest.importorskip("gcsfs", reason="needs the optional extra: pip install 'jaxdbd[gcs]'")
pytest.importorskip("gcp_storage_emulator", reason="needs the emulator: pip install gcp-storage-emulator")


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("how", ["data gone", "truncated", "meta garbled", "not committed"])
def test_a_damaged_checkpoint_is_passed_over_and_can_be_written_again(store, how, capfd):
    folder = f"gs://bucket/{how.replace(' ', '_')}"
    write(folder)
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
    state, rows = read(folder)
    assert int(state["step"]) == 2
    assert rows == 16
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    if how != "not committed":
        assert len(warnings) == 1
        assert warnings[0].startswith(f"warning: checkpoint {folder}/3 is damaged, passed over")
    write(folder, (3,))
    state, _ = read(folder)
    assert int(state["step"]) == 3


@pytest.mark.slow
def test_metrics_that_cannot_be_read_set_their_checkpoint_aside_in_a_store(store, capfd):
    folder = "gs://bucket/metrics"
    write(folder, (1, 2), maes={1: 0.3, 2: 0.3})
    files.write_whole(as_path(f"{folder}/2/metrics/metrics"), "")
    capfd.readouterr()
    assert int(read(folder)[0]["step"]) == 1
    assert f"warning: checkpoint {folder}/2 is damaged, passed over (its metrics" in capfd.readouterr().err
    assert int(read(folder)[0]["step"]) == 1  # what is left of it harms nobody
    assert "warning" not in capfd.readouterr().err
    write(folder, (2,), maes={2: 0.2})
    assert int(read(folder)[0]["step"]) == 2
    for step in "12":
        files.write_whole(as_path(f"{folder}/{step}/metrics/metrics"), "")
    with pytest.raises(UserError, match=f"no checkpoint in {folder} can be read"):
        read(folder)
    assert {f"{step}/commit_success.txt" for step in "12"} <= names(folder)


def test_a_store_that_goes_away_is_not_taken_for_damage(store, monkeypatch):
    write("gs://bucket/away", (1, 2))

    def gone(*_, **__):
        raise ValueError("UNAVAILABLE: connection refused")

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.StandardCheckpointHandler.restore", gone)
        with pytest.raises(UserError, match="the store does not give checkpoint 2"):
            read("gs://bucket/away")
    assert int(read("gs://bucket/away")[0]["step"]) == 2


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
