"""The log of a run: what is written, and that a resumed run repeats nothing."""

import itertools
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  # made at run time

from jaxdbd.training.logs import RunLog, Spool, read_metrics


def read_events(folder: Path) -> list[Event]:
    """All events of a TensorBoard folder, in the order of writing."""
    events = []
    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", data, at)
            events.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += 16 + length
    return events


def log_run(workdir: Path, steps, start: int = 0) -> None:
    log = RunLog(Spool(workdir), 10, start, active=True)
    for step in steps:
        log.advance(step)
        log.write(step, {"loss": 1 / step})
    log.close()


def test_writes_lines_and_tensorboard(tmp_path, capfd):
    log = RunLog(Spool(tmp_path), 10, 0, active=True)
    log.write(3, {"loss": 0.123456789, "eval/mae": 1e-9})
    log.image(3, "eval/panel", np.zeros((4, 6, 3), np.uint8))
    log.message("a word to who watches")
    log.close()
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert {k: v for k, v in line.items() if k != "time"} == {"step": 3, "of": 10, "loss": 0.1234568, "eval/mae": 1e-9}
    assert "a word to who watches" in capfd.readouterr().err
    values = {v.tag: (e.step, v) for e in read_events(tmp_path / "tensorboard") for v in e.summary.value}
    assert set(values) == {"loss", "eval/mae", "eval/panel"}
    assert values["loss"][0] == 3
    assert values["loss"][1].simple_value == pytest.approx(0.1234568)
    assert (values["eval/panel"][1].image.height, values["eval/panel"][1].image.width) == (4, 6)


def test_resumed_run_repeats_nothing(tmp_path):
    log_run(tmp_path, range(1, 8))  # killed after step 7; its last checkpoint is of step 4
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    log_run(tmp_path, range(5, 11), start=4)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert all(a["time"] <= b["time"] for a, b in itertools.pairwise(lines))
    # TensorBoard is told to forget what it has from step 5 on.
    starts = [e.step for e in read_events(tmp_path / "tensorboard") if e.HasField("session_log")]
    assert 5 in starts


def test_other_processes_write_nothing(tmp_path, capfd):
    log = RunLog(Spool(tmp_path), 10, 0, active=False)
    log.advance(1)
    log.write(1, {"loss": 1.0})
    log.image(1, "panel", np.zeros((4, 6, 3), np.uint8))
    log.message("unseen")
    log.close()
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""


def test_a_cut_line_ends_the_list(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text(json.dumps({"step": 1}) + '\n{"step": 2')
    assert read_metrics(path) == [{"step": 1}]
