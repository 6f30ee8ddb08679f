"""Depth teachers: a batch of photographs in, a map of nearness for each out. They run once, while shards are built.

To add a teacher, write a function that returns a `Teacher` and give it a line in `open_teacher`.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16
from PIL import Image

from jaxdbd.errors import UserError
from jaxdbd.files import whole_file

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Polarity `near`: larger output = nearer (disparity). `far`: larger output = farther (depth).
PRESETS: dict[str, dict[str, Any]] = {
    "fastdepth": {"polarity": "far", "size": (224, 224), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
    # The small model of TCMonoDepth (MIT); it takes values of 0 to 255.
    "tcmonodepth": {"polarity": "near", "size": (192, 320), "mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3},
    "midas": {"polarity": "near", "size": (256, 256), "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
}
# The Transformers models whose polarity follows from their kind.
HF_POLARITY = {"dpt": "near", "depth_anything": "near", "zoedepth": "far", "glpn": "far", "depth_pro": "far"}
DEPTH_SUFFIXES = (".npy", ".png", ".pfm", ".exr")
BATCH = 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the user said about a teacher; pickles, so that a worker elsewhere can open the same one."""

    spec: str  # none | scene | dir:DIR | onnx:FILE | hf:MODEL
    preset: str | None = None
    polarity: str | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A depth teacher.

    `raw` turns records (see `sources.load`) into maps of any scale at the teacher's own resolution, in which `polarity`
    says what larger means. `identity` goes into the dataset's metadata. A `slow` teacher's maps are cached on disk.
    """

    identity: dict
    polarity: str
    raw: Callable[[Sequence[dict]], list[Float[np.ndarray, "h w"]]]
    slow: bool


@functools.lru_cache(maxsize=1)
def open_teacher(settings: Settings) -> Teacher | None:
    """Opens the teacher; None for `none`.

    Raises:
        UserError: an unknown teacher, a file that is missing or no model, a polarity nobody stated.
    """
    kind, _, where = settings.spec.partition(":")
    if settings.spec == "none":
        return None
    if settings.spec == "scene":
        identity = {"name": "scene", "polarity": "near"}
        return Teacher(identity, "near", lambda records: [r["scene_depth"] for r in records], slow=False)
    if kind == "dir" and where:
        return _dir_teacher(settings, Path(where))
    if kind == "onnx" and where:
        return _onnx_teacher(settings, Path(where))
    if kind == "hf" and where:
        return _hf_teacher(settings, where)
    raise UserError(f"--teacher={settings.spec}: choose none, scene, dir:DIR, onnx:FILE or hf:MODEL")


def nearness(teacher: Teacher, records: Sequence[dict], cache: Path | None) -> list[Float16[np.ndarray, "h w"]]:
    """The depth targets of a batch: [0, 1] over each image, 1 = nearest.

    With a `cache` folder a slow teacher sees each photograph once: maps are kept by (teacher, photograph).

    Raises:
        UserError: a map with NaN or infinities, or constant; the message names the photograph.
    """
    if not teacher.slow or cache is None:
        return [unit_nearness(raw, teacher, r["id"]) for raw, r in zip(teacher.raw(records), records, strict=True)]
    folder = cache / digest(teacher.identity)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{record['key']}.npy" for record in records]
    # By file: two renderings of one photograph want the same map.
    missing = {file: record for file, record in zip(files, records, strict=True) if not file.exists()}
    if missing:
        for (file, record), raw in zip(missing.items(), teacher.raw(list(missing.values())), strict=True):
            _save(file, unit_nearness(raw, teacher, record["id"]))
    return [np.load(file) for file in files]


def unit_nearness(raw: Float[np.ndarray, "h w"], teacher: Teacher, name: str) -> Float16[np.ndarray, "h w"]:
    """A teacher's output stretched to [0, 1] with 1 = nearest.

    A `far` output is mirrored, not inverted: of a relative teacher only the order is certain.
    """
    raw = np.asarray(raw, np.float32)
    if not np.isfinite(raw).all():
        raise UserError(f"{name}: the teacher {teacher.identity['name']} gave NaN or infinity for it")
    low, high = float(raw.min()), float(raw.max())
    if not high > low:
        raise UserError(f"{name}: the teacher {teacher.identity['name']} gave the same depth everywhere")
    unit = (raw - low) / (high - low)
    return (unit if teacher.polarity == "near" else 1 - unit).astype(np.float16)


def digest(content: dict) -> str:
    """SHA-256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _save(path: Path, array: np.ndarray) -> None:
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, array)


# ---- a folder of depth maps ----


def _dir_teacher(settings: Settings, folder: Path) -> Teacher:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: --teacher=dir:DIR must name a folder of depth maps")
    if settings.polarity is None:
        raise UserError(f"{folder}: say what larger values mean with --teacher_polarity=near or far")
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    identity = {"name": f"dir:{folder.name}", "polarity": settings.polarity, "files": digest(sizes)}
    return Teacher(
        identity, settings.polarity, lambda records: [_read_map(folder, r["path"]) for r in records], slow=False
    )


def find_map(folder: Path, photo: Path) -> Path | None:
    """The depth map of a photograph: same stem, in `folder` or in its subfolder named like the photograph's own."""
    places = [
        place / f"{photo.stem}{suffix}" for place in (folder / photo.parent.name, folder) for suffix in DEPTH_SUFFIXES
    ]
    return next((path for path in places if path.is_file()), None)


def missing_maps(settings: Settings, photos: Iterable[Path]) -> list[str]:
    """For a folder of depth maps, a line for each photograph that has none there."""
    kind, _, where = settings.spec.partition(":")
    if kind != "dir":
        return []
    wanted = "/".join(DEPTH_SUFFIXES)
    return [
        f"{photo}: no depth map {photo.stem}{wanted} in {where}" for photo in photos if not find_map(Path(where), photo)
    ]


def _read_map(folder: Path, photo: Path) -> Float[np.ndarray, "h w"]:
    path = find_map(folder, photo)
    if path is None:
        raise UserError(f"{photo}: no depth map in {folder}")
    if path.suffix == ".npy":
        try:
            depth = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a NumPy array ({error})") from None
    else:
        os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # read when OpenCV meets the first EXR file
        import cv2

        try:
            depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            depth = None
        if depth is None:
            raise UserError(f"{path}: OpenCV cannot read it; save the depth as .npy")
    depth = np.squeeze(depth)
    if depth.ndim == 3 and (depth == depth[..., :1]).all():
        depth = depth[..., 0]
    if depth.ndim != 2:
        raise UserError(f"{path}: of shape {depth.shape}, not one channel of depth")
    return depth.astype(np.float32)


# ---- a network in ONNX Runtime ----


def _onnx_teacher(settings: Settings, path: Path) -> Teacher:
    import onnxruntime

    if not path.is_file():
        raise UserError(f"no teacher file {path}: --teacher=onnx:FILE must name an ONNX depth model")
    preset = settings.preset or next((name for name in PRESETS if name in path.stem.lower()), None)
    defaults: dict[str, Any] = PRESETS[preset] if preset else {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    polarity = settings.polarity or defaults.get("polarity")
    if polarity is None:
        raise UserError(f"{path.name}: say what larger outputs mean with --teacher_polarity=near or far")
    onnxruntime.set_default_logger_severity(3)
    available = onnxruntime.get_available_providers()
    try:
        session = onnxruntime.InferenceSession(
            path, providers=[p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise UserError(f"{path}: not a model ONNX Runtime can open ({str(error).splitlines()[0]})") from None
    wanted = session.get_inputs()[0]
    if len(wanted.shape) != 4 or wanted.shape[1] != 3:
        raise UserError(f"{path}: its input is {wanted.shape}, not [batch, 3, height, width]")
    fixed = tuple(wanted.shape[2:]) if all(isinstance(n, int) for n in wanted.shape[2:]) else None
    size = settings.size or fixed or defaults.get("size")
    if size is None:
        raise UserError(f"{path.name}: takes any input size; choose one with --teacher_size=HEIGHTxWIDTH")
    if fixed and size != fixed:
        raise UserError(f"--teacher_size={size[0]}x{size[1]}: {path.name} takes {fixed[0]}x{fixed[1]} only")
    batch = wanted.shape[0] if isinstance(wanted.shape[0], int) else BATCH
    mean = np.asarray(settings.mean or defaults["mean"], np.float32)
    std = np.asarray(settings.std or defaults["std"], np.float32)

    def raw(records: Sequence[dict]) -> list[np.ndarray]:
        inputs = np.stack([(_pixels(record["image"], size) - mean) / std for record in records]).transpose(0, 3, 1, 2)
        maps = []
        for start in range(0, len(inputs), batch):
            part = inputs[start : start + batch]
            # Padded to a full batch: a kernel chosen by batch size would let the same photograph come out differently.
            padded = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), np.float32)])
            out = np.asarray(session.run(None, {wanted.name: padded})[0])
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
    height, width = size
    with Image.open(io.BytesIO(encoded)) as file:
        resized = file.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32) / 255


# ---- a network in Transformers ----


def _hf_teacher(settings: Settings, model_name: str) -> Teacher:
    try:
        import torch  # pyright: ignore[reportMissingImports]  # an extra
        from transformers import (  # pyright: ignore[reportMissingImports]  # an extra
            AutoImageProcessor,
            AutoModelForDepthEstimation,
        )
    except ImportError as error:
        raise UserError(f"--teacher=hf:{model_name} needs {error.name}: pip install 'jaxdbd[hf]'") from None
    try:
        processor = AutoImageProcessor.from_pretrained(model_name)
        model = AutoModelForDepthEstimation.from_pretrained(model_name)
    except (OSError, ValueError) as error:
        raise UserError(f"--teacher=hf:{model_name}: {str(error).splitlines()[0]}") from None
    metric = getattr(model.config, "depth_estimation_type", "relative") == "metric"
    polarity = settings.polarity or ("far" if metric else HF_POLARITY.get(model.config.model_type))
    if polarity is None:
        raise UserError(f"{model_name}: say what larger outputs mean with --teacher_polarity=near or far")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).eval()
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())

    def raw(records: Sequence[dict]) -> list[np.ndarray]:
        maps = []
        for record in records:  # one by one: most processors keep the aspect ratio, so shapes differ
            with Image.open(io.BytesIO(record["image"])) as file:
                inputs = processor(images=file.convert("RGB"), return_tensors="pt").to(device)
            with torch.inference_mode():
                maps.append(model(**inputs).predicted_depth[0].float().cpu().numpy())
        return maps

    identity = {
        "name": f"hf:{model_name}",
        "sha256": weights.hexdigest(),
        "polarity": polarity,
        "size": json.loads(json.dumps(dict(getattr(processor, "size", None) or {}))),
    }
    return Teacher(identity, polarity, raw, slow=True)
