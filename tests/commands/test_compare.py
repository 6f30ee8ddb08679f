"""`jaxdbd compare`: published rows and paired intervals."""

import json

import numpy as np
import pytest

from jaxdbd.__main__ import main
from jaxdbd.commands import compare
from jaxdbd.scoring.metrics import summarize
from jaxdbd.scoring.structure import score_image


def make_run(name: str, noise: float, n: int = 30) -> dict:
    """A run on n random masks, the same for every noise."""
    images = []
    for i in range(n):
        rng = np.random.default_rng(i)
        mask = np.where(rng.random((20, 24)) < 0.4, 255, 0).astype(np.uint8)
        focus = np.clip(mask * 0.6 + 50 + noise * 255 * rng.standard_normal(mask.shape), 0, 255)
        images.append(score_image(f"img{i}", focus.astype(np.uint8), mask))
    return {"name": name, **summarize(images), "images": [x.row() for x in images]}


@pytest.fixture(scope="module")
def runs() -> tuple[dict, dict]:
    return make_run("good", 0.2), make_run("bad", 0.3)


def differences(a: dict, b: dict) -> dict:
    return {(p, m): values for p, m, *values in compare.paired_differences(a, b)}


def test_differences_are_those_of_the_summaries(runs):
    good, bad = runs
    found = differences(good, bad)
    for protocol, measure in [
        ("ddff", "mae"),
        ("ddff", "f"),
        ("ddff", "iou"),
        ("dd", "f"),
        ("adaptive", "f"),
        ("max", "f"),
    ]:
        assert found[protocol, measure][0] == pytest.approx(bad[protocol][measure] - good[protocol][measure], abs=1e-12)
    for measure in ("auc", "s", "weighted_f"):
        expected = bad["threshold_free"][measure] - good["threshold_free"][measure]
        assert found["threshold-free", measure][0] == pytest.approx(expected, abs=1e-12)


def test_interval_excludes_zero_for_a_worse_run_and_is_zero_for_the_same(runs):
    good, bad = runs
    delta, low, high = differences(good, bad)["ddff", "mae"]
    assert 0 < low < delta < high
    assert all(values == [0, 0, 0] for values in differences(good, good).values())


def test_interval_matches_the_normal_one_for_a_mean(runs):
    good, bad = runs
    d = np.array([b["mae"] - a["mae"] for a, b in zip(good["images"], bad["images"], strict=True)])
    half = 1.96 * d.std() / np.sqrt(len(d))
    _, low, high = differences(good, bad)["ddff", "mae"]
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert (high + low) / 2 == pytest.approx(d.mean(), abs=0.1 * half)


def test_runs_of_other_images_are_refused(runs, tmp_path, capsys):
    for name, run in {"a": runs[0], "b": runs[1] | {"images": runs[1]["images"][:-1]}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
    assert main(["compare", f"{tmp_path}/a.json", f"{tmp_path}/b.json"]) == 1
    assert "differ in 1 images (such as img29)" in capsys.readouterr().err


def test_prints_published_rows_beside_ours_with_the_protocol(runs, tmp_path, capsys):
    for run in runs:
        (tmp_path / f"{run['name']}.json").write_text(json.dumps(run))
    assert main(["compare", f"{tmp_path}/good.json", f"{tmp_path}/bad.json", "--benchmark=DUT-TE"]) == 0
    printed = capsys.readouterr().out
    assert "Protocol ddff. Published: DUT-TE" in printed
    assert "DD (ResNeXt101) 2020" in printed
    assert "0.074" in printed
    assert f"{runs[0]['ddff']['mae']:.4f}" in printed
    assert "2306.11334" in printed
    assert "0.8909" in printed  # the authors' own number, under its own protocol
    assert "paired bootstrap over 30 images" in printed


def test_the_dataset_of_an_evaluation_picks_the_benchmark(runs, tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps(runs[0] | {"dataset": "dbd/ebd"}))
    assert main(["compare", str(tmp_path)]) == 0
    assert "Published: EBD" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", '{"n": 1}'])
def test_other_files_are_refused(tmp_path, capsys, content):
    (tmp_path / "a.json").write_text(content)
    assert main(["compare", f"{tmp_path}/a.json"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_published_table_is_whole():
    table = compare.published()
    benchmarks = set(compare.BENCHMARK_OF_DATASET.values())
    assert table["protocol"] == "ddff"
    assert len(table["rows"]) == 10
    for row in table["rows"]:
        assert set(row["scores"]) <= benchmarks
        assert all(len(v) == 3 and all(0 < x < 1 for x in v) for v in row["scores"].values())
    (dd,) = (row for row in table["rows"] if row["method"].startswith("DD "))
    assert dd["scores"]["CUHK-TE-1"] == [0.045, 0.966, 0.941]
