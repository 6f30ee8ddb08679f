"""Files and folders as people really have them, made by the tests: what they share."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from drawn_network import drawn
from PIL import Image

from jaxdbd import inference, weights
from jaxdbd.network.model import DepthDistilledDBD

ROOT = Path(__file__).resolve().parents[1]
NO_RIGHTS = "--drop=cap_dac_override,cap_dac_read_search"  # what lets root read and write everything
NOT_UTF8 = os.fsdecode(b"caf\xe9")
LONG = "n" * 251  # and ".jpg": as long as a name may be


def ramp(height: int = 40, width: int = 60) -> np.ndarray:
    """Dark on the left, bright on the right, uint8 [h, w, 3]."""
    return np.linspace(0, 255, width).astype(np.uint8)[None, :, None].repeat(height, 0).repeat(3, 2)


def half(height: int = 40, width: int = 60) -> np.ndarray:
    """A mask, white on the right, uint8 [h, w]."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return mask


def save(path: Path, pixels: np.ndarray | Image.Image, **options) -> Path:
    """Writes a picture, and the folder it lies in; with a suffix that Pillow does not know, give `format`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(path, **options)
    return path


def camera_raw(path: Path, **tags) -> Path:
    """A TIFF laid out as NEF and DNG are: first a small preview, and the sensor's grid in a SubIFD."""
    grid = np.arange(120 * 160, dtype=np.uint16).reshape(120, 160)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(ramp(12, 16), subfiletype=1, subifds=1, photometric="rgb", **tags)
        tiff.write(grid, photometric="cfa", extratags=[(33421, "H", 2, (2, 2)), (33422, "B", 4, (0, 1, 1, 2))])
    return path


def brightness(monkeypatch, folder: Path) -> Path:
    """Weights, threshold 0.5, in whose network's place focus is brightness and depth is redness."""

    def compiled(model):
        return lambda variables, images: inference.SquareMaps(
            jnp.mean(images / 255, axis=-1), images[..., 0] / np.float32(255), None
        )

    monkeypatch.setattr(inference, "compiled", compiled)
    return tiny_weights(folder)


def tiny_weights(folder: Path) -> Path:
    """Weights of a small network."""
    model = DepthDistilledDBD("lite0", widths=(8,) * 5, full_resolution=False, srfb="none", sab=False, size=64)
    path = folder / "tiny.safetensors"
    weights.save(path, model, drawn(model), dataset="", license="", threshold=0.5)
    return path


def without_rights(code: str, *arguments) -> subprocess.CompletedProcess:
    """Runs Python as somebody whom permissions stop; skips where that cannot be."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    if os.geteuid() == 0:
        if not shutil.which("capsh"):
            pytest.skip("root may read everything, and capsh, which takes that away, is not installed")
        command = ["capsh", NO_RIGHTS, "--", "-c", 'exec "$@"', "sh", *command]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own that holds 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a full disk needs a small file system, and none can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def one_line(error: str, *parts: str) -> None:
    """Asserts that a console shows one error, in one line, with all `parts`."""
    lines = [line for line in error.splitlines() if line.startswith(("error: ", "Traceback"))]
    assert len(lines) == 1, error
    assert lines[0].startswith("error: "), error
    for part in parts:
        assert part in lines[0], (part, lines[0])
