"""Photographs of 200 megapixels, as phones take them: every command works, and takes at most 3 GB."""

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from memory import ROOT, measured, need_proc
from odd_files import half, ramp, save, tiny_weights
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.large]

MOST = 3  # GB, of a command and all that it starts
HEIGHT, WIDTH = 12240, 16320
MIDDLING = (4992, 7008)  # 35 megapixels, several of which would be at work at once


class Run(NamedTuple):
    """What the commands left."""

    folder: Path
    figures: dict[str, list]  # status and gigabytes by command
    error: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two photographs with masks; one that EXIF turns and three of middling size; weights, and a teacher's maps."""
    need_proc()
    folder = tmp_path_factory.mktemp("large")
    picture = Image.fromarray(cv2.resize(ramp(), (WIDTH, HEIGHT)))
    save(folder / "image" / "a.jpg", picture)
    save(folder / "gt" / "a.png", half(HEIGHT, WIDTH))
    for place in ("image/a.jpg", "gt/a.png"):
        (folder / place).with_stem("b").hardlink_to(folder / place)
    for name in ("a", "b"):
        (folder / "depth").mkdir(exist_ok=True)
        np.save(folder / "depth" / f"{name}.npy", ramp()[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / "photos" / "turned.jpg", picture.transpose(Image.Transpose.ROTATE_90), exif=exif)
    (folder / "photos" / "a.jpg").hardlink_to(folder / "image" / "a.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (624, 876, 3), np.uint8)
    save(folder / "photos" / "c0.jpg", Image.fromarray(noise).resize(MIDDLING[::-1]))
    for name in ("c1", "c2"):
        (folder / "photos" / f"{name}.jpg").hardlink_to(folder / "photos" / "c0.jpg")
    tiny_weights(folder)
    return folder


@pytest.fixture(scope="module")
def run(folder) -> Run:
    """What all commands but `train` made of them."""
    done, _ = measured([sys.executable, ROOT / "tests" / "large_commands.py", folder])
    assert done.returncode == 0, done.stderr
    return Run(folder, json.loads((folder / "figures.json").read_text()), done.stderr)


@pytest.mark.parametrize("command", ["build", "describe", "refocused", "evaluate", "score", "predict", "app"])
def test_two_hundred_megapixels_fit_in_three_gigabytes(run, command):
    status, gigabytes = run.figures[command]
    assert status == 0, run.error
    assert gigabytes < MOST


def test_what_was_made_is_whole(run, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # of this process, which need not have read a photograph
    assert (run.folder / "built" / "dbd" / "folder" / "1.0.0" / "dataset_info.json").exists()
    results = json.loads((run.folder / "score.json").read_text())
    assert results["ddff"] == {"mae": 0, "f": 1, "iou": 1}
    assert results["threshold_free"]["boundary_iou"] == 1
    assert json.loads((run.folder / "evaluation" / "results.json").read_text())["n"] == 2
    for name, (height, width) in {"turned": (HEIGHT, WIDTH), "a": (HEIGHT, WIDTH), "c2": MIDDLING}.items():
        for ending in (".png", ".binary.png", ".overlay.jpg"):
            with Image.open(run.folder / "out" / f"{name}{ending}") as picture:
                assert picture.size == (width, height)
    assert "warning" not in run.error.lower()


def test_training_fits_in_three_gigabytes(run):
    # The program itself: it keeps what memory it has freed, as no command does.
    flags = ["dataset=dbd/folder", "eval_split=train", "steps=2", "batch_size=2", "gamma=0.0", "eval_every=2"]
    flags += [f"data_dir={run.folder}/built"]
    command = [sys.executable, ROOT / "train.py", "--config=tests/tiny.py", f"--workdir={run.folder}/run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    done, gigabytes = measured([*command, *(f"--config.{flag}" for flag in flags)], env=environment)
    assert done.returncode == 0, done.stderr
    assert gigabytes < MOST
    assert (run.folder / "run" / "weights.safetensors").exists()
