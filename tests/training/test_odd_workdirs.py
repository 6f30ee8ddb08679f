"""Training where the disk is full."""

import os
import subprocess
import sys

import pytest
from odd_files import ROOT, one_line, small_disk  # noqa: F401

from data import build

pytestmark = pytest.mark.slow


def train(workdir, data_dir) -> subprocess.CompletedProcess:
    script = [sys.executable, str(ROOT / "tests" / "tiny.py")]
    flags = [f"--workdir={workdir}", f"--config.data_dir={data_dir}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([*script, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_full_disk_is_one_line_and_what_was_saved_is_resumed(tmp_path, small_disk):  # noqa: F811
    scenes = ["--dataset=synthetic", "--teacher=scene", "--train_scenes=16", "--test_scenes=8", "--size=64"]
    assert build.main([*scenes, f"--data_dir={tmp_path}"]) == 0
    done = train(small_disk, tmp_path)
    assert done.returncode == 1
    one_line(done.stderr, "No space left on device (free some space, and run it again)")
    assert "Traceback" not in done.stderr
