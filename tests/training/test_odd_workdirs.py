"""Training where the disk is full, and where photographs have 200 megapixels."""

import os
import subprocess
import sys

import numpy as np
import pytest
from odd_files import ROOT, half, one_line, ramp, save, small_disk  # noqa: F401
from PIL import Image

from data import build

pytestmark = pytest.mark.slow


def train(workdir, data_dir, *flags, measure: bool = False) -> subprocess.CompletedProcess:
    script = [str(ROOT / "tests" / "tiny.py")]
    if measure:
        code = (
            "import resource, sys; sys.path.insert(0, 'tests'); import tiny, train;"
            "sys.argv.insert(1, '--config=tests/tiny.py'); status = train.main();"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6); sys.exit(status)"
        )
        script = ["-c", code]
    command = [sys.executable, *script, f"--workdir={workdir}", f"--config.data_dir={data_dir}", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_full_disk_is_one_line_and_what_was_saved_is_resumed(tmp_path, small_disk):  # noqa: F811
    scenes = ["--dataset=synthetic", "--teacher=scene", "--train_scenes=16", "--test_scenes=8", "--size=64"]
    assert build.main([*scenes, f"--data_dir={tmp_path}"]) == 0
    done = train(small_disk, tmp_path)
    assert done.returncode == 1
    one_line(done.stderr, "No space left on device (free some space, and run it again)")
    assert "Traceback" not in done.stderr


def test_two_hundred_megapixels_fit_in_three_gigabytes(tmp_path):
    large = Image.fromarray(ramp(765, 1020)).resize((16320, 12240))
    for name in ("a", "b"):
        save(tmp_path / "image" / f"{name}.jpg", large)
        save(tmp_path / "gt" / f"{name}.png", half(12240, 16320))
    del large
    where = [f"--manual_dir={tmp_path}", f"--data_dir={tmp_path}/built", "--gt_white=focus"]
    assert build.main(["--dataset=folder", *where]) == 0
    flags = ["dataset=dbd/folder", "eval_split=train", "steps=2", "batch_size=2", "gamma=0.0", "eval_every=2"]
    done = train(tmp_path / "run", tmp_path / "built", *(f"--config.{flag}" for flag in flags), measure=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 3  # GB
    assert np.prod(Image.open(tmp_path / "image" / "a.jpg").size) > 199e6
