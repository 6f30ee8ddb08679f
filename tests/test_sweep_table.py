"""The table of a sweep with scores beyond its data set: by hand, resumed, and what is said of wrong flags."""

import json
import sys

import numpy as np
import pytest

from jaxdbd.machine.files import write_whole
from tools import sweep_table

CONFIG = "configs/ablation.py"


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """Two runs of two seeds that have ended, and one that has not; weights are the number that their scores are."""
    values = {("gamma_0.1", 0): 0.10, ("gamma_0.1", 1): 0.20, ("gamma_5", 0): 0.14, ("gamma_5", 1): 0.22}
    for (run, seed), mae in values.items():
        lines = [
            {"step": step, "of": 10, "eval/mae": value, "eval/f": 0.9, "eval/iou": 0.8}
            for step, value in ((4, 0.9), (8, mae + 0.02), (10, mae))
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / run / f"seed{seed}").mkdir(parents=True)
        write_whole(tmp_path / run / f"seed{seed}" / "metrics.jsonl", text)
    (tmp_path / "gamma_1" / "seed0").mkdir(parents=True)
    write_whole(tmp_path / "gamma_1" / "seed0" / "metrics.jsonl", text.replace('"of": 10', '"of": 99'))
    loaded = []

    def load(folder):
        loaded.append(folder)
        return None, values[folder.parent.name, int(folder.name.removeprefix("seed"))]

    monkeypatch.setattr(sweep_table.jaxdbd, "load", load)
    monkeypatch.setattr(sweep_table, "read_named", lambda folder, names: ["photograph"])
    monkeypatch.setattr(sweep_table, "mean_focus", lambda model, mae, photographs: np.array([1 - mae, 1.0]))
    monkeypatch.setattr(sweep_table, "pair_shares", lambda model, mae, *_: {"a": (mae, 0.0), "b": (3 * mae, 0.0)})
    return tmp_path, loaded


def run(monkeypatch, workdir, *flags):
    monkeypatch.setattr(sys, "argv", ["sweep_table", f"--config={CONFIG}", f"--workdir={workdir}", *flags])
    return sweep_table.main()


def test_means_spreads_and_differences_seed_by_seed(workdir, monkeypatch, capsys):
    folder, loaded = workdir
    flags = ["--runs=gamma_0.1,gamma_1,gamma_5", "--seeds=0,1", "--sharp=S", "--sharp_names=N", "--pairs=P"]
    assert run(monkeypatch, folder, *flags) == 0
    table = capsys.readouterr().out
    # MAE .10 and .20: mean .15, deviation .0707; sharp .95 and .90; pairs twice the MAE.
    assert (
        "| gamma_0.1 | 2 | 0.1500 ± 0.0707 | 0.9000 ± 0.0000 | 0.8000 ± 0.0000 | 0.0200 ± 0.0000 | 0.9250 ± 0.0354 "
        "| 0.3000 ± 0.1414 |"
    ) in table
    assert "| gamma_1 | 0 | – |" in table
    # .14 - .10 and .22 - .20: mean .03, deviation .0141.
    assert "Less gamma_0.1, seed by seed:" in table
    assert "| gamma_5 | 2 | +0.0300 ± 0.0141 |" in table
    assert "| -0.0150 ± 0.0071 | +0.0600 ± 0.0283 |" in table
    assert (folder / "unseen.md").read_text() == table
    assert len(loaded) == 4
    assert run(monkeypatch, folder, *flags) == 0  # nothing is scored twice
    assert capsys.readouterr().out == table
    assert len(loaded) == 4


def test_without_folders_it_is_the_table_of_the_sweep_with_differences(workdir, monkeypatch, capsys):
    folder, loaded = workdir
    assert run(monkeypatch, folder, "--runs=gamma_0.1,gamma_5", "--seeds=0,1", "--base=gamma_5") == 0
    table = capsys.readouterr().out
    assert "sharp" not in table
    assert "Less gamma_5, seed by seed:" in table
    assert "| gamma_0.1 | 2 | -0.0300 ± 0.0141 |" in table
    assert not loaded
    for flags, message in ((["--base=7"], "--base=7: not one of"), (["--sharp=S"], "--sharp needs --sharp_names")):
        assert run(monkeypatch, folder, *flags) == 1
        assert message in capsys.readouterr().err
