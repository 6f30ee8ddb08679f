"""Several hosts, as two processes on this machine: what they go on from, where one cannot read the newest."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ports import free_port
from training.test_checkpoint import damage, read, write

from jaxdbd.errors import UserError

pytestmark = pytest.mark.slow
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
    return {"restored": {case.name: restored(case) for case in sorted(Path(folder).iterdir())}}


def restored(folder: Path) -> list[int] | str:
    """Step and row that a run goes on from, or why it does not."""
    try:
        state, rows = read(folder)
        return [int(state["step"]), rows]
    except UserError as error:
        return str(error)


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


def test_a_checkpoint_that_one_host_cannot_read_is_passed_over_by_all(told):
    for host in told:
        assert host["restored"]["whole"] == [3, 24]
        assert {case: host["restored"][case] for case in SPOILED} == {case: [2, 16] for case in SPOILED}


def test_where_each_can_read_what_the_other_cannot_all_stop_with_the_same_line(told):
    for host in told:
        line = host["restored"]["none for both"]
        assert line.startswith("no checkpoint in ")
        assert line.endswith(" can be read: take another --workdir, or delete it")
