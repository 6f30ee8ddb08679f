"""docs/tour.ipynb runs, cell after cell, and shows what it says it shows.

Its outputs are those of `jupyter nbconvert --execute --inplace docs/tour.ipynb`.
"""

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from jaxdbd.training import losses

ROOT = Path(__file__).resolve().parents[1]
TOUR = ROOT / "docs" / "tour.ipynb"
CELLS = [cell for cell in json.loads(TOUR.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_every_cell_runs(monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(TOUR.parent)  # where Jupyter starts it
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(losses, "FOCUS_LOSSES", losses.FOCUS_LOSSES.copy())
    names = {}
    for i, cell in enumerate(CELLS):
        exec(compile("".join(cell["source"]), f"{TOUR.name}, cell {i}", "exec"), names)
    assert names["focus"].shape == names["photo"].shape[:2]
    # A pixel looks at what is around it more than at the rest.
    for (row, column), map_ in zip(names["points"].values(), names["reach"].values(), strict=True):
        around = np.asarray(map_)[row - 48 : row + 48, column - 48 : column + 48]
        assert around.mean() > 3 * map_.mean() > 0
    for _, errors in names["runs"].values():
        assert len(errors) == 6
        assert errors[-1] < 0.7 * errors[0]


def test_outputs_are_stored_whole_and_small():
    assert TOUR.stat().st_size < 300_000
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum(any(kind.startswith("image/") for kind in output.get("data", {})) for output in outputs) == 2
