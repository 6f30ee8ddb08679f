"""A benchmark of a few small photographs, written to a folder, and what is built of it, for the tests of data/."""

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image


def photograph(seed: int, width: int = 48, height: int = 32) -> np.ndarray:
    """Smooth random colors: photographs of different seeds are unlike each other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def mask(seed: int, width: int = 48, height: int = 32) -> np.ndarray:
    """White (255) in a rectangle, black elsewhere."""
    rng = np.random.default_rng(seed + 1000)
    out = np.zeros((height, width), np.uint8)
    out[rng.integers(0, height // 2) : height - 4, rng.integers(0, width // 2) : width - 4] = 255
    return out


def write_pair(folder: Path, name: str, seed: int, images: str = "image", masks: str = "gt") -> None:
    """Writes `name` (with suffix) and its PNG mask."""
    (folder / images).mkdir(parents=True, exist_ok=True)
    (folder / masks).mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph(seed)).save(folder / images / name, quality=95)
    Image.fromarray(mask(seed)).save(folder / masks / f"{Path(name).stem}.png")


def write_benchmark(folder: Path, count: int = 10) -> list[str]:
    """Writes photo00.jpg, photo01.jpg, ... with masks, and returns the names."""
    names = [f"photo{i:02d}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        write_pair(folder, name, i)
    return names


def decoded(encoded: bytes) -> np.ndarray:
    """The pixels of an encoded picture."""
    return np.asarray(Image.open(io.BytesIO(encoded)))


def hashes(data_dir: Path, dataset: str = "folder") -> dict[str, str]:
    """SHA-256 of every file of a built dataset."""
    files = sorted((data_dir / "dbd" / dataset / "1.0.0").iterdir())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
