"""`jaxdbd score` on small folders, and the published maps it has to reproduce."""

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdbd.__main__ import main
from jaxdbd.commands import score


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Three maps (white = focus) and masks (white = blur) of different file types and cases."""
    rng = np.random.default_rng(0)
    for i, (pred, gt) in enumerate([("a.png", "A.png"), ("b.PNG", "b.bmp"), ("c.png", "C.png")]):
        focused = np.zeros((30, 40), bool)
        focused[5 : 15 + i, 8:30] = True
        write(tmp_path / "pred" / pred, (focused * 150 + rng.integers(0, 90, focused.shape)).astype(np.uint8))
        write(tmp_path / "gt" / gt, np.where(focused, 0, 255).astype(np.uint8))
    return tmp_path / "pred", tmp_path / "gt"


def run_score(pred, gt, *flags) -> int:
    return main(["score", f"--pred={pred}", f"--gt={gt}", "--gt_white=blur", *flags])


def test_writes_every_protocol_and_the_per_image_values(folders, tmp_path, capsys):
    assert run_score(*folders, f"--json={tmp_path}/out/s.json", f"--csv={tmp_path}/out/s.csv") == 0
    results = json.loads((tmp_path / "out/s.json").read_text())
    assert results["n"] == 3
    assert set(results["ddff"]) == {"mae", "f", "iou"}
    assert results["ddff"]["f"] == results["ddff"]["iou"] == 1.0  # the noise stays on its side of one half
    assert 0 < results["ddff"]["mae"] < 0.3
    rows = list(csv.DictReader((tmp_path / "out/s.csv").open()))
    assert [row["id"] for row in rows] == ["A", "b", "C"]
    assert float(rows[0]["mae"]) == pytest.approx(results["images"][0]["mae"])
    printed = capsys.readouterr().out
    assert all(protocol in printed for protocol in ("ddff", "dd", "adaptive", "max", "threshold-free"))
    assert "warning" not in printed


def test_missing_map_is_an_error_that_lists_it(folders, capsys):
    (folders[0] / "c.png").unlink()
    assert run_score(*folders) == 1
    error = capsys.readouterr().err
    assert "no map for 1 of 3 images: c" in error
    assert error.count("\n") == 1


def test_names_pick_the_images_whatever_their_case_and_suffix(folders, tmp_path, capsys):
    (folders[0] / "c.png").unlink()
    (tmp_path / "names.txt").write_text("a.jpg\nB\n\n")
    assert run_score(*folders, f"--names={tmp_path}/names.txt", f"--json={tmp_path}/s.json") == 0
    assert json.loads((tmp_path / "s.json").read_text())["n"] == 2
    (tmp_path / "names.txt").write_text("a.jpg\nnobody.jpg\n")
    assert run_score(*folders, f"--names={tmp_path}/names.txt") == 1
    assert "no mask for 1 of 2 images: nobody" in capsys.readouterr().err


def test_map_of_another_size_is_resized_and_counted(folders, tmp_path, capsys):
    focus = Image.open(folders[0] / "a.png").resize((80, 60), Image.Resampling.NEAREST)
    focus.save(folders[0] / "a.png")
    assert run_score(*folders, f"--json={tmp_path}/s.json") == 0
    results = json.loads((tmp_path / "s.json").read_text())
    assert results["resized"] == 1
    assert results["n"] == 3
    assert "1 of 3 maps" in capsys.readouterr().out
    assert results["ddff"]["f"] > 0.95


def test_wrong_polarity_is_noticed_and_the_flag_mends_it(folders, tmp_path, capsys):
    for path in folders[0].iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert run_score(*folders, f"--json={tmp_path}/s.json") == 0
    assert "inverted maps score far better" in capsys.readouterr().out
    assert "inverted" in json.loads((tmp_path / "s.json").read_text())["warning"]
    assert run_score(*folders, "--pred_white=blur") == 0
    assert "warning" not in capsys.readouterr().out


def test_rgba_and_color_files_are_read_as_gray(tmp_path):
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    opaque = np.full_like(gray, 255)
    write(tmp_path / "rgba.png", np.dstack([gray, gray, gray, opaque]))
    write(tmp_path / "rgb.png", np.dstack([gray] * 3))
    for name in ("rgba.png", "rgb.png"):
        np.testing.assert_array_equal(score.read_focus(tmp_path / name, "focus"), gray)
        np.testing.assert_array_equal(score.read_focus(tmp_path / name, "blur"), 255 - gray)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda pred: (pred / "a.png").write_bytes(b"no image"), "cannot be read"),
        (lambda pred: Image.fromarray(np.zeros((30, 40), np.uint16)).save(pred / "a.png"), "not an 8-bit image"),
        (lambda pred: (pred / "a.bmp").write_bytes(b""), "stems must differ"),
        (lambda pred: [p.unlink() for p in pred.iterdir()], "holds no images"),
    ],
)
def test_users_mistakes_are_one_line(folders, capsys, break_it, message):
    break_it(folders[0])
    assert run_score(*folders) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_missing_folder_and_names_file(folders, tmp_path, capsys):
    assert run_score(tmp_path / "nowhere", folders[1]) == 1
    assert run_score(*folders, f"--names={tmp_path}/nowhere.txt") == 1
    assert capsys.readouterr().err.count("error: ") == 2


@pytest.mark.slow
def test_published_hifst_maps_under_ddff(shared, tmp_path):
    """Golestaneh and Karam's maps: .223 / .803 as published; IoU as computed from the maps themselves."""
    names = shared / "data/cuhk/test_xu100.txt"
    start = time.perf_counter()
    flags = [f"--names={names}", f"--json={tmp_path}/s.json"]
    assert run_score(shared / "reference/hifst_cuhk_te1", shared / "data/cuhk/gt", *flags) == 0
    assert time.perf_counter() - start < 60
    results = json.loads((tmp_path / "s.json").read_text())
    assert results["n"] == 100
    assert list(results["ddff"].values()) == pytest.approx([0.2228, 0.8030, 0.7621], abs=2e-4)
