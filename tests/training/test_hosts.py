"""Several hosts, as two processes on this machine: what one of them cannot read, and what each evaluates."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands.test_evaluate import make_records
from ports import free_port
from training.test_checkpoint import damage, read, write

from jaxdbd.errors import UserError
from jaxdbd.inference import SquareMaps
from jaxdbd.scoring.maps import quick_scores
from jaxdbd.training.keeper import Share, evaluate

TESTS = Path(__file__).resolve().parents[1]

HOST = """
import json, sys
from jaxdbd import sharding
sharding.initialize_distributed(sys.argv[1], int(sys.argv[2]), 2)
from training.test_hosts import answers
print(json.dumps(answers(sys.argv[3])))
"""


def answers(folder: str) -> dict:
    """What one host says to all questions of this file."""
    scores, _ = evaluate(brightness, {"a": records_with_depth(5), "b": make_records(1)}, 32, 2)
    return {"restored": {case.name: restored(case) for case in sorted(Path(folder).iterdir())}, "scores": scores}


def restored(folder: Path) -> list[int] | str:
    """Step and row that a run goes on from, or why it does not."""
    try:
        state, rows = read(folder)
        return [int(state["step"]), rows]
    except UserError as error:
        return str(error)


def brightness(images: np.ndarray) -> SquareMaps:
    """Maps of a network that takes what is bright for sharp and near."""
    bright = images.mean(axis=-1, dtype=np.float32) / 255
    return SquareMaps(bright, bright, None)


def records_with_depth(n: int) -> list[dict]:
    """Photographs of several sizes, with depth."""
    rng = np.random.default_rng(n)
    return [record | {"depth": rng.random((24, 24, 1)).astype(np.float16)} for record in make_records(n)]


def spoil(how: str, checkpoint: Path) -> None:
    """Makes a checkpoint one that a host cannot read."""
    if how == "metrics empty":
        (checkpoint / "metrics" / "metrics").write_text("")
    elif how == "not there":
        shutil.rmtree(checkpoint)
    else:
        damage(checkpoint, how)


# What a host cannot read the first takes out of the way, for all: here, where each has its own folder, for itself.
SPOILED = {
    f"{how}, {host}": (how, host)
    for how, hosts in {"state gone": (0, 1), "not there": (0, 1), "meta garbled": (1,), "metrics empty": (0,)}.items()
    for host in hosts
}


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> list[dict]:
    """The answers of two hosts, each of which sees a folder of its own."""
    roots = [tmp_path_factory.mktemp(f"host{i}") for i in range(2)]
    written = tmp_path_factory.mktemp("written")
    write(written, maes={1: 0.3, 2: 0.2, 3: 0.1})
    for root in roots:
        for case in ("whole", "none for both", *SPOILED):
            shutil.copytree(written, root / case)
    for case, (how, host) in SPOILED.items():
        spoil(how, roots[host] / case / "3")
    for step, host in ((1, 0), (2, 1), (3, 0)):
        spoil("state gone", roots[host] / "none for both" / str(step))
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    coordinator = f"localhost:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, coordinator, str(i), str(root)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i, root in enumerate(roots)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return [json.loads(text.splitlines()[-1]) for text in said]


@pytest.mark.slow
def test_a_checkpoint_that_one_host_cannot_read_is_passed_over_by_all(told):
    for host in told:
        assert host["restored"]["whole"] == [3, 24]
        assert {case: host["restored"][case] for case in SPOILED} == {case: [2, 16] for case in SPOILED}


@pytest.mark.slow
def test_where_each_can_read_what_the_other_cannot_all_stop_with_the_same_line(told):
    for host in told:
        line = host["restored"]["none for both"]
        assert line.startswith("no checkpoint in ")
        assert line.endswith(" can be read: take another --workdir, or delete it")


@pytest.mark.slow
def test_two_hosts_score_as_one(told):
    a, b = (quick_scores(brightness, records, 32, 2) for records in (records_with_depth(5), make_records(1)))
    assert "depth/pearson" in a.keys() - b.keys()
    expected = {m: float(np.mean([scores[m] for scores in (a, b) if m in scores])) for m in a}
    expected |= {f"{name}/{m}": value for name, scores in (("a", a), ("b", b)) for m, value in scores.items()}
    assert [host["scores"] for host in told] == [expected] * 2


def test_shares_make_up_the_whole():
    records = [{"id": i} for i in range(7)]
    shares = [Share(records, first, 3) for first in range(3)]
    assert [[record["id"] for record in share] for share in shares] == [[0, 3, 6], [1, 4], [2, 5]]
    assert list(Share(records[:2], 2, 3)) == []
