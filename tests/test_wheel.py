"""The package as a user has it: a wheel, installed in an environment of its own, used outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageFilter

from jaxdbd.scoring.metrics import summarize
from jaxdbd.scoring.structure import score_image

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("jaxdbd", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")


def run(*command: object, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def binaries(tmp_path_factory) -> Path:
    """The programs of an environment that holds the wheel; what it depends on is found in this one."""
    for package in ("setuptools", "wheel"):
        pytest.importorskip(package, reason="a wheel is built without the network by these two")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, since building leaves files behind
    source.mkdir()
    for name in SHIPPED:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(*pip, f"--python={python}", "install", "--no-deps", "--no-index", wheel, cwd=folder)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # A path alone: what .pth files over there say, such as where an editable install lies, is not read.
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.mark.slow
def test_the_package_comes_from_the_wheel_and_brings_nothing_else(binaries, tmp_path):
    code = "import importlib.util as u, jaxdbd; print(jaxdbd.__file__, u.find_spec('data'), u.find_spec('tests'))"
    file, *others = run(binaries / "python", "-c", code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(binaries.parent)
    assert others == ["None", "None"]


@pytest.mark.slow
def test_predict_has_the_bundled_weights(binaries, tmp_path):
    photo = skimage.data.astronaut()
    Image.fromarray(photo).save(tmp_path / "sharp.png")
    Image.fromarray(photo).filter(ImageFilter.GaussianBlur(8)).save(tmp_path / "blurred.png")
    run(binaries / "jaxdbd", "predict", "sharp.png", "blurred.png", "--out=maps", "--overlay", cwd=tmp_path)
    sharp, blurred = (np.asarray(Image.open(tmp_path / "maps" / name)) / 255 for name in ("sharp.png", "blurred.png"))
    assert sharp.shape == photo.shape[:2]
    assert sharp[100:500, 150:300].mean() > 0.9  # the astronaut, before a background out of focus
    assert blurred.mean() < 0.1
    assert (tmp_path / "maps" / "sharp.overlay.jpg").exists()


@pytest.mark.slow
def test_compare_has_the_published_numbers(binaries, tmp_path):
    rng = np.random.default_rng(0)
    mask = np.where(rng.random((20, 24)) < 0.4, 255, 0).astype(np.uint8)
    scores = [score_image("photo", mask // 2, mask)]
    (tmp_path / "run.json").write_text(
        json.dumps({"name": "run", **summarize(scores), "images": [s.row() for s in scores]})
    )
    assert "DD (ResNeXt101) 2020" in run(binaries / "jaxdbd", "compare", "run.json", cwd=tmp_path)
