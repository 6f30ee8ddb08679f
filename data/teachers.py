"""Depth teachers: a batch of photographs in, a map of nearness for each out. They run once, while shards are built.

A teacher is whatever `open_teacher` returns; to add one, add a function that makes a `Teacher` and a line there.
"""

import dataclasses
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float16
from PIL import Image

from jaxdbd.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# `near`: larger output = nearer (disparity). `far`: larger output = farther (depth).
PRESETS = {
    "fastdepth": {"polarity": "far", "size": (224, 224), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
    "midas": {"polarity": "near", "size": (256, 256), "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
}
BATCH = 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the user said about a teacher; pickles, so that a worker elsewhere can open the same one."""

    spec: str  # none | scene | onnx:FILE | ...
    preset: str | None = None
    polarity: str | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A depth teacher.

    `raw` maps records (see `sources.load`) to maps of any scale at the teacher's own resolution, whose `polarity` is
    `near` or `far`. `identity` goes into the dataset's metadata. `slow` teachers are cached on disk.
    """

    identity: dict
    polarity: str
    raw: Callable[[Sequence[dict]], list[Float[np.ndarray, "h w"]]]
    slow: bool


def open_teacher(settings: Settings) -> Teacher | None:
    """Opens the teacher; None for `none`.

    Raises:
        UserError: an unknown teacher, a file that is missing or no model, a polarity nobody stated.
    """
    kind, _, where = settings.spec.partition(":")
    if settings.spec == "none":
        return None
    if settings.spec == "scene":
        return Teacher(
            {"name": "scene", "polarity": "near"}, "near", lambda batch: [r["scene_depth"] for r in batch], False
        )
    if kind == "onnx" and where:
        return _onnx(settings, Path(where))
    raise UserError(f"--teacher={settings.spec}: unknown; choose none, scene or onnx:FILE")


def _onnx(settings: Settings, path: Path) -> Teacher:
    import onnxruntime

    if not path.is_file():
        raise UserError(f"no teacher file {path}: --teacher=onnx:FILE must name an ONNX depth model")
    preset = settings.preset or next((name for name in PRESETS if name in path.stem.lower()), None)
    defaults = PRESETS[preset] if preset else {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    polarity = settings.polarity or defaults.get("polarity")
    if polarity is None:
        raise UserError(f"{path.name}: say whether larger is nearer with --teacher_polarity=near or far")
    onnxruntime.set_default_logger_severity(3)
    providers = [
        p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in onnxruntime.get_available_providers()
    ]
    try:
        session = onnxruntime.InferenceSession(path, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise UserError(f"{path}: not a model ONNX Runtime can open ({str(error).splitlines()[0]})") from None
    wanted = session.get_inputs()[0]
    if len(wanted.shape) != 4 or (isinstance(wanted.shape[1], int) and wanted.shape[1] != 3):
        raise UserError(f"{path}: its input is {wanted.shape}, not [batch, 3, height, width]")
    fixed = tuple(wanted.shape[2:]) if all(isinstance(n, int) for n in wanted.shape[2:]) else None
    size = settings.size or fixed or defaults.get("size")
    if size is None:
        raise UserError(f"{path.name}: takes any input size; choose one with --teacher_size=HEIGHTxWIDTH")
    if fixed and size != fixed:
        raise UserError(f"--teacher_size={size[0]}x{size[1]}: {path.name} takes {fixed[0]}x{fixed[1]} only")
    batch = wanted.shape[0] if isinstance(wanted.shape[0], int) else BATCH
    mean = np.float32(settings.mean or defaults["mean"])
    std = np.float32(settings.std or defaults["std"])

    def raw(records: Sequence[dict]) -> list[np.ndarray]:
        inputs = np.stack([(_pixels(record["image"], size) - mean) / std for record in records]).transpose(0, 3, 1, 2)
        maps = []
        for start in range(0, len(inputs), batch):
            part = inputs[start : start + batch]
            # Padded to a full batch: a kernel chosen by batch size would let the same photograph come out differently.
            padded = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), np.float32)])
            out = session.run(None, {wanted.name: padded})[0]
            maps += list(out.reshape(batch, *out.shape[-2:])[: len(part)])
        return maps

    identity = {
        "name": f"onnx:{path.name}",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "polarity": polarity,
        "size": list(size),
        "mean": [round(float(v), 6) for v in mean],
        "std": [round(float(v), 6) for v in std],
    }
    return Teacher(identity, polarity, raw, slow=True)


def _pixels(encoded: bytes, size: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    with Image.open(io.BytesIO(encoded)) as file:
        resized = file.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32) / 255


def nearness(teacher: Teacher, records: Sequence[dict], cache: Path | None) -> list[Float16[np.ndarray, "h w"]]:
    """The depth targets of a batch: [0, 1] over each image, 1 = nearest.

    With a `cache` folder a slow teacher sees each photograph once: maps are kept by (teacher, photograph).

    Raises:
        UserError: a map with NaN or infinities, or constant; the message names the photograph.
    """
    if not teacher.slow or cache is None:
        raw = teacher.raw(records)
        return [scaled(r, teacher, record["id"]) for r, record in zip(raw, records, strict=True)]
    folder = cache / digest(teacher.identity)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{record['key']}.npy" for record in records]
    missing = [i for i, file in enumerate(files) if not file.exists()]
    if missing:
        for i, raw in zip(missing, teacher.raw([records[i] for i in missing]), strict=True):
            _save(files[i], scaled(raw, teacher, records[i]["id"]))
    return [np.load(file) for file in files]


def scaled(raw: Float[np.ndarray, "h w"], teacher: Teacher, name: str) -> Float16[np.ndarray, "h w"]:
    """A teacher's output stretched to [0, 1] with 1 = nearest.

    A `far` output is mirrored rather than inverted: only the order is certain for a relative teacher.
    """
    raw = np.asarray(raw, np.float32)
    if not np.isfinite(raw).all():
        raise UserError(f"{name}: the teacher {teacher.identity['name']} gave NaN or infinity for it")
    low, high = float(raw.min()), float(raw.max())
    if not high > low:
        raise UserError(f"{name}: the teacher {teacher.identity['name']} gave a constant map for it")
    unit = (raw - low) / (high - low)
    return (unit if teacher.polarity == "near" else 1 - unit).astype(np.float16)


def digest(content: dict) -> str:
    """SHA-256 of a JSON-able dict."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _save(path: Path, array: np.ndarray) -> None:
    # Written aside and renamed, so that a build killed here leaves no half file behind.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        np.save(file, array)
    os.replace(file.name, path)
