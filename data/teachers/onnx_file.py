"""The teacher `onnx:FILE`: a network in ONNX Runtime."""

import functools
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from data.teachers import onnx_taps
from data.teachers.teacher import BATCH, Settings, Teacher
from jaxdbd.errors import UserError
from jaxdbd.machine.files import os_errors_in_one_line, shown
from jaxdbd.machine.parallel import in_turn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Polarity `near`: larger output = nearer (disparity). `far`: larger output = farther (depth).
PRESETS: dict[str, dict[str, Any]] = {
    "fastdepth": {"polarity": "far", "size": (224, 224), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
    # The small model of TCMonoDepth (MIT); it takes values of 0 to 255.
    "tcmonodepth": {"polarity": "near", "size": (192, 320), "mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3},
    "midas": {"polarity": "near", "size": (256, 256), "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
}


def onnx_teacher(settings: Settings, path: Path) -> Teacher:
    """The network in a file. Raises UserError where it is none, or nobody says its polarity or its input's size."""
    if not os.path.isfile(path):
        raise UserError(f"no teacher file {shown(path)}: --teacher=onnx:FILE must name an ONNX depth model")
    with os_errors_in_one_line(path, "cannot be read"):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    preset = settings.preset or next((name for name in PRESETS if name in path.stem.lower()), None)
    defaults: dict[str, Any] = PRESETS[preset] if preset else {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    polarity = settings.polarity or defaults.get("polarity")
    if polarity is None:
        raise UserError(f"{path.name}: say what larger outputs mean with --teacher_polarity=near or far")
    session = _open_session(path, settings.features)
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

    def outputs(images: tuple[bytes, ...]) -> list[np.ndarray]:
        return _run(session, [(_pixels(image, size) - mean) / std for image in images], batch, settings.features)

    if settings.features:  # depth and features of a batch are asked for one after the other
        outputs = functools.lru_cache(maxsize=1)(outputs)

    def raw(records: Sequence[dict]) -> list[np.ndarray]:
        return list(outputs(tuple(record["image"] for record in records))[0])

    identity = {
        "name": f"onnx:{shown(path.name)}",
        "sha256": sha256,
        "polarity": polarity,
        "size": list(size),
        "mean": [round(float(v), 6) for v in mean],
        "std": [round(float(v), 6) for v in std],
    }
    if not settings.features:
        return Teacher(identity, polarity, raw, slow=True)
    blank = session.run(settings.features, {wanted.name: np.zeros((batch, 3, *size), np.float32)})
    keys = onnx_taps.keys(settings.features, blank, batch, size)
    identity["features"] = {
        key: {"tensor": name, "shape": list(onnx_taps.pooled(array[0]).shape)}
        for key, name, array in zip(keys, settings.features, blank, strict=True)
    }

    def feature_maps(records: Sequence[dict]) -> list[dict[str, np.ndarray]]:
        arrays = outputs(tuple(record["image"] for record in records))[1:]
        return [
            {key: onnx_taps.pooled(array) for key, array in zip(keys, of_one, strict=True)}
            for of_one in zip(*arrays, strict=True)
        ]

    return Teacher(identity, polarity, raw, slow=True, features=feature_maps)


def _open_session(path: Path, tensors: Sequence[str]) -> Any:
    """A session of which the first output is the depth, and the next are `tensors` of the graph."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    available = onnxruntime.get_available_providers()
    model = onnx_taps.with_outputs(path, tensors) if tensors else path
    try:
        return onnxruntime.InferenceSession(
            model, providers=[p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise UserError(f"{path}: not a model ONNX Runtime can open ({str(error).splitlines()[0]})") from None


def _run(session: Any, pictures: Sequence[np.ndarray], batch: int, tensors: Sequence[str]) -> list[np.ndarray]:
    """The depth of pictures [h, w, 3], [n, H, W], and `tensors` of the graph, [n, c, H, W] each."""
    inputs = np.stack(pictures).transpose(0, 3, 1, 2)
    names = [session.get_outputs()[0].name, *tensors]
    parts = []
    for start in range(0, len(inputs), batch):
        part = inputs[start : start + batch]
        # Padded to a full batch: a kernel chosen by batch size would let the same photograph come out differently.
        padded = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), np.float32)])
        depth, *maps = session.run(names, {session.get_inputs()[0].name: padded})
        depth = depth.reshape(batch, *depth.shape[-2:])
        parts.append([array[: len(part)] for array in (depth, *maps)])
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _pixels(encoded: bytes, size: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    height, width = size
    with Image.open(io.BytesIO(encoded)) as file, in_turn(file.width * file.height):  # RGB, as records are
        resized = file.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32) / 255
