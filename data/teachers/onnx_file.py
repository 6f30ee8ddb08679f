"""The teacher `onnx:FILE`: a network in ONNX Runtime."""

import functools
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image

from data.teachers import onnx_taps
from data.teachers.teacher import BATCH, Settings, Teacher
from jaxdbd.errors import UserError
from jaxdbd.machine.files import read_bytes, shown
from jaxdbd.machine.parallel import in_turn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Polarity `near`: larger output = nearer (disparity). `far`: larger output = farther (depth).
PRESETS: dict[str, dict[str, Any]] = {
    "fastdepth": {"polarity": "far", "size": (224, 224), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
    # The small model of TCMonoDepth (MIT); it takes values of 0 to 255.
    "tcmonodepth": {"polarity": "near", "size": (192, 320), "mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3},
    "midas": {"polarity": "near", "size": (256, 256), "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
}


# What an input may be of. Bytes are fed as they are, unless the user gives mean and standard deviation.
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
AS_BYTES = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}


class Input(NamedTuple):
    """What a network takes: photographs [batch, 3, height, width]."""

    name: str
    dtype: type
    batch: int
    size: tuple[int, int] | None  # height and width; None: any


def onnx_teacher(settings: Settings, path: Path) -> Teacher:
    """The network in a file. Raises UserError where it is none, or nobody says its polarity or its input's size."""
    if not os.path.isfile(path):
        raise UserError(f"no teacher file {shown(path)}: --teacher=onnx:FILE must name an ONNX depth model")
    content = read_bytes(path)
    preset = settings.preset or next((name for name in PRESETS if name in path.stem.lower()), None)
    defaults: dict[str, Any] = PRESETS[preset] if preset else {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    polarity = settings.polarity or defaults.get("polarity")
    if polarity is None:
        raise UserError(f"{path.name}: say what larger outputs mean with --teacher_polarity=near or far")
    session = _open_session(path, settings.features)
    wanted = _input(session, path)
    size = settings.size or wanted.size or defaults.get("size")
    if size is None:
        raise UserError(f"{path.name}: takes any input size; choose one with --teacher_size=HEIGHTxWIDTH")
    if wanted.size and size != wanted.size:
        fixed = "x".join(map(str, wanted.size))
        raise UserError(f"--teacher_size={size[0]}x{size[1]}: {path.name} takes {fixed} only")
    if wanted.dtype == np.uint8:
        defaults = defaults | AS_BYTES
    mean = np.asarray(settings.mean or defaults["mean"], np.float32)
    std = np.asarray(settings.std or defaults["std"], np.float32)
    names = [_output(session, settings.output, path), *settings.features]
    blank = _try(session, names, wanted, size, path)

    def outputs(images: tuple[bytes, ...]) -> list[np.ndarray]:
        return _run(session, [(_pixels(image, size) - mean) / std for image in images], wanted, names)

    if settings.features:  # depth and features of a batch are asked for one after the other
        outputs = functools.lru_cache(maxsize=1)(outputs)

    def raw(records: Sequence[dict]) -> list[np.ndarray]:
        return list(outputs(tuple(record["image"] for record in records))[0])

    identity = {
        "name": f"onnx:{shown(path.name)}",
        "sha256": hashlib.sha256(content).hexdigest(),
        "polarity": polarity,
        "size": list(size),
        "mean": [round(float(v), 6) for v in mean],
        "std": [round(float(v), 6) for v in std],
    } | ({"output": settings.output} if settings.output else {})
    if not settings.features:
        return Teacher(identity, polarity, raw, slow=True)
    keys = onnx_taps.keys(settings.features, blank[1:], wanted.batch, size)
    identity["features"] = {
        key: {"tensor": name, "shape": list(onnx_taps.pooled(array[0]).shape)}
        for key, name, array in zip(keys, settings.features, blank[1:], strict=True)
    }

    def feature_maps(records: Sequence[dict]) -> list[dict[str, np.ndarray]]:
        arrays = outputs(tuple(record["image"] for record in records))[1:]
        return [
            {key: onnx_taps.pooled(array) for key, array in zip(keys, of_one, strict=True)}
            for of_one in zip(*arrays, strict=True)
        ]

    return Teacher(identity, polarity, raw, slow=True, features=feature_maps)


def _open_session(path: Path, tensors: Sequence[str]) -> Any:
    """A session of whose outputs the last are `tensors` of the graph."""
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


def _input(session: Any, path: Path) -> Input:
    """Its one input. Raises UserError for several, and for one that takes no photographs."""
    first, *others = session.get_inputs()
    if others:
        listing = ", ".join(value.name for value in (first, *others))
        raise UserError(
            f"{path}: it has {1 + len(others)} inputs ({listing}); a teacher takes a photograph and no more"
        )
    if len(first.shape) != 4 or first.shape[1] != 3:
        raise UserError(f"{path}: its input is {first.shape}, not [batch, 3, height, width]")
    if first.type not in DTYPES:
        kinds = ", ".join(DTYPES)
        raise UserError(f"{path}: its input is a {first.type}; what can be fed is {kinds}")
    batch, _, height, width = first.shape
    fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return Input(first.name, DTYPES[first.type], batch if isinstance(batch, int) else BATCH, fixed)


def _output(session: Any, chosen: str | None, path: Path) -> str:
    """The name of the output that is the depth: `chosen`, or the first. Raises UserError where there is no such."""
    names = [value.name for value in session.get_outputs()]
    if chosen is not None and chosen not in names:
        raise UserError(f"--teacher_output={chosen}: {path.name} has no such output; there are {', '.join(names[:8])}")
    return chosen or names[0]


def _try(session: Any, names: Sequence[str], wanted: Input, size: tuple[int, int], path: Path) -> list[np.ndarray]:
    """The outputs for a black picture. Raises UserError where the network does not run, or the first is no map."""
    try:
        blank = session.run(names, {wanted.name: np.zeros((wanted.batch, 3, *size), wanted.dtype)})
    except Exception as error:  # as above
        raise UserError(f"{path}: ONNX Runtime cannot run it ({str(error).splitlines()[0]})") from None
    if as_maps(blank[0], wanted.batch) is None:
        kind = f"{getattr(blank[0], 'dtype', type(blank[0]).__name__)} {list(np.shape(blank[0]))}"
        others = ", ".join(value.name for value in session.get_outputs() if value.name != names[0])
        hint = f"name another with --teacher_output ({others})" if others else "take another network"
        raise UserError(f"{path}: its output {names[0]} is {kind}, no map of one value for each pixel: {hint}")
    return blank


def as_maps(depth: Any, batch: int) -> Float32[np.ndarray, "b h w"] | None:
    """A network's output as one map for each photograph of a batch; None where it is something else."""
    if not isinstance(depth, np.ndarray) or depth.dtype.kind not in "fiu":
        return None
    if depth.ndim == 4 and 1 in (depth.shape[1], depth.shape[3]):
        depth = depth[:, 0] if depth.shape[1] == 1 else depth[..., 0]
    elif depth.ndim == 2 and batch == 1:
        depth = depth[None]
    return depth.astype(np.float32) if depth.ndim == 3 and len(depth) == batch else None


def _run(session: Any, pictures: Sequence[np.ndarray], wanted: Input, names: Sequence[str]) -> list[np.ndarray]:
    """The outputs `names` for pictures [h, w, 3]: the depth, [n, H, W], and tensors of the graph, [n, c, H, W] each."""
    inputs = np.stack(pictures).transpose(0, 3, 1, 2)
    if wanted.dtype == np.uint8:
        inputs = np.rint(inputs).clip(0, 255)
    inputs = inputs.astype(wanted.dtype)
    parts = []
    for start in range(0, len(inputs), wanted.batch):
        part = inputs[start : start + wanted.batch]
        # Padded to a full batch: a kernel chosen by batch size would let the same photograph come out differently.
        padded = np.concatenate([part, np.zeros((wanted.batch - len(part), *part.shape[1:]), part.dtype)])
        depth, *maps = session.run(names, {wanted.name: padded})
        depth = cast(np.ndarray, as_maps(depth, wanted.batch))  # as `_try` has seen
        parts.append([array[: len(part)] for array in (depth, *maps)])
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _pixels(encoded: bytes, size: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    height, width = size
    with Image.open(io.BytesIO(encoded)) as file, in_turn(file.width * file.height):  # RGB, as records are
        resized = file.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32) / 255
