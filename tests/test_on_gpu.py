"""`tools.on_gpu` on a CPU, with tiny sizes: every part runs, and one that overruns is cut and named."""

import subprocess
import sys

import pytest

from tools import on_gpu
from tools.gpu.parts import PARTS, ROOT, depthwise_layers, main


def test_all_parts_together_take_eight_minutes_at_most():
    assert on_gpu.LIMITS.keys() == PARTS.keys()
    assert sum(on_gpu.LIMITS.values()) <= 480


def test_the_layers_are_those_of_the_network():
    layers = depthwise_layers(256)
    assert layers[0] == (128, 32, 3, 1, 1)
    assert sum(count for *_, count in layers) == 16
    assert (8, 1152, 5, 1, 3) in layers


def test_what_overruns_is_cut_and_named(tmp_path):
    with open(tmp_path / "report.txt", "a") as report:
        assert not on_gpu.run_part("versions", 0.01, report, tmp_path, True)
    assert (tmp_path / "report.txt").read_text().splitlines()[-1] == "versions: CUT at 0 s"


def test_what_fails_is_named_with_its_last_word(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/ls")  # knows no flag --out
    with open(tmp_path / "report.txt", "a") as report:
        assert not on_gpu.run_part("versions", 20, report, tmp_path, True)
    assert "versions: FAILED with 2: " in (tmp_path / "report.txt").read_text()


@pytest.mark.slow
@pytest.mark.large
def test_a_dry_run_goes_through_every_part(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tools.on_gpu", f"--out={tmp_path}", "--dry-run"], cwd=ROOT, capture_output=True
    )
    report = (tmp_path / "report.txt").read_text()
    assert done.returncode == 0, report
    assert all(f"\n{name}: took" in report for name in PARTS)
    assert report.count("\ntiny fwd 32 pixels") == 3
    for line in ("1 passed", "all of them: grouped", "images/s", "training: step 20", "waiting_for_input"):
        assert line in report
    assert list((tmp_path / "training" / "profile").rglob("*.xplane.pb"))


def test_a_part_without_its_packages_says_which_it_lacks(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    monkeypatch.setattr(sys, "argv", ["parts", "pytorch", f"--out={tmp_path}"])
    main()
    assert capsys.readouterr().out == "pytorch: left out, as torch is not installed\n"
