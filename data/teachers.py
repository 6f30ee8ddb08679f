"""Depth teachers: a batch of photographs in, a map of nearness for each out. They run once, while shards are built.

To add a teacher, write a function that returns a `Teacher` and give it a line in `open_teacher`.
"""

import dataclasses
import functools
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Float16, Shaped
from PIL import Image
from scipy.ndimage import distance_transform_edt

from data import features
from jaxdbd.errors import UserError
from jaxdbd.files import make_folder, name_key, os_errors_in_one_line, shown, stem_key, whole_file
from jaxdbd.parallel import in_turn

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
STRETCHED = (1.0, 255.0, 65535.0)  # the largest values of maps that do not measure, but tell an order
LEAST_DISTANCE = 0.01  # of the largest, choice of ours: what depth cameras measure lies beyond
MOST_DEPTH = 1 << 22  # pixels, choice of ours: the network sees a fortieth of them
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
    features: tuple[str, ...] = ()  # tensors of an ONNX file's graph


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A depth teacher.

    `raw` turns records (see `sources.load`) into maps of any scale at the teacher's own resolution, in which `polarity`
    says what larger means. `features`, if given, turns them into feature maps by their names in the shards, of the
    shapes that `identity` names. `identity` goes into the dataset's metadata. What a `slow` teacher gives is cached on
    disk.
    """

    identity: dict
    polarity: str
    raw: Callable[[Sequence[dict]], list[Float[np.ndarray, "_ _"]]]
    slow: bool
    holes: bool = False  # 0 says that nothing was measured, as depth cameras write it
    features: Callable[[Sequence[dict]], list[dict[str, Float[np.ndarray, "_ _ _"]]]] | None = None

    def feature_shapes(self) -> dict[str, tuple[int, ...]]:
        """(height, width, channels) of each feature map."""
        return {key: tuple(found["shape"]) for key, found in self.identity.get("features", {}).items()}


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


def nearness(teacher: Teacher, records: Sequence[dict], cache: Path | None) -> list[Float16[np.ndarray, "_ _"]]:
    """The depth targets of a batch: [0, 1] over each image, 1 = nearest.

    With a `cache` folder a slow teacher sees each photograph once: maps are kept by (teacher, photograph).

    Raises:
        UserError: a map with NaN or infinities, or constant; the message names the photograph.
    """

    def made(some: Sequence[dict]) -> list[np.ndarray]:
        return [unit_nearness(raw, teacher, r["id"]) for raw, r in zip(teacher.raw(some), some, strict=True)]

    return _kept(teacher, records, cache, ".npy", made)


def feature_maps(teacher: Teacher, records: Sequence[dict], cache: Path | None) -> list[dict[str, np.ndarray]]:
    """The teacher's features of a batch, float16 [h, w, c] by their names in the shards; {} without any.

    Kept in the `cache` folder as `nearness` is. Raises UserError for values beyond float16; the message names the
    photograph.
    """
    if teacher.features is None:
        return [{} for _ in records]

    def made(some: Sequence[dict]) -> list[np.ndarray]:
        found = teacher.features(some) if teacher.features else []
        return [_halved(maps, teacher, record["id"]) for maps, record in zip(found, some, strict=True)]

    names = list(teacher.feature_shapes())
    return [{name: maps[name] for name in names} for maps in _kept(teacher, records, cache, ".features.npy", made)]


def _halved(maps: dict[str, np.ndarray], teacher: Teacher, name: str) -> np.ndarray:
    dtype = [(key, np.float16, shape) for key, shape in teacher.feature_shapes().items()]
    halved = np.zeros((), dtype)  # one array, so that one file holds them
    for key, values in maps.items():
        with np.errstate(over="ignore"):
            halved[key] = values
        if not np.isfinite(halved[key]).all():
            tensor = teacher.identity["features"][key]["tensor"]
            raise UserError(f"{name}: the teacher's {tensor} has NaN, or values beyond float16: leave it out")
    return halved


def _kept(
    teacher: Teacher, records: Sequence[dict], cache: Path | None, suffix: str, made: Callable[[Sequence[dict]], list]
) -> list[np.ndarray]:
    """What `made` says of each record, from the cache where it has said so before."""
    if not teacher.slow or cache is None:
        return made(records)
    folder = cache / digest(teacher.identity)[:16]
    make_folder(folder)
    files = [folder / f"{record['key']}{suffix}" for record in records]
    # By file: two renderings of one photograph want the same map.
    missing = {file: record for file, record in zip(files, records, strict=True) if not file.exists()}
    if missing:
        for file, array in zip(missing, made(list(missing.values())), strict=True):
            _save(file, array)
    return [np.load(file) for file in files]


def unit_nearness(raw: Float[np.ndarray, "h w"], teacher: Teacher, name: str) -> Float16[np.ndarray, "h w"]:
    """A teacher's output stretched to [0, 1] with 1 = nearest, NaN where a teacher with `holes` has measured nothing.

    A `far` output is mirrored, not inverted: of a relative teacher only the order is certain.
    """
    raw = np.asarray(raw, np.float32)
    if not np.isfinite(raw).all():
        raise UserError(f"{name}: the teacher {teacher.identity['name']} gave NaN or infinity for it")
    holes = unmeasured(raw) if teacher.holes else np.zeros(raw.shape, bool)
    measured = raw[~holes]
    low, high = float(measured.min(initial=np.inf)), float(measured.max(initial=-np.inf))
    if not high > low:
        raise UserError(f"{name}: the teacher {teacher.identity['name']} gave the same depth everywhere")
    raw = np.where(holes, np.float32(np.nan), raw)
    unit = (raw - low) / (high - low)
    return (unit if teacher.polarity == "near" else 1 - unit).astype(np.float16)


def unmeasured(depth: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Where 0 in a map of distances says that nothing was measured: no distance is 0.

    A map stretched to all of [0, 1], 8 or 16 bits may begin there, unless its 0 stands apart from every other value.
    """
    zero = depth == 0
    values = np.unique(depth[~zero])
    if not zero.any() or not values.size or values[0] < 0:
        return np.zeros(depth.shape, bool)
    step = float(np.median(np.diff(values))) if values.size > 1 else 0.0
    apart = values[0] >= max(LEAST_DISTANCE * values[-1], 3 * step)
    return zero & (apart or values[-1] not in STRETCHED)


def fill_holes(near: Float16[np.ndarray, "h w"]) -> Float16[np.ndarray, "h w"]:
    """A nearness with the value of the closest measured pixel in place of each NaN."""
    holes = np.isnan(near)
    if not holes.any():
        return near
    rows, columns = cast(np.ndarray, distance_transform_edt(holes, return_distances=False, return_indices=True))
    return near[rows, columns]


def digest(content: dict) -> str:
    """SHA-256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _save(path: Path, array: np.ndarray) -> None:
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, array)


# ---- a folder of depth maps ----


def _dir_teacher(settings: Settings, folder: Path) -> Teacher:
    if not os.path.isdir(folder):
        raise UserError(f"no folder {shown(folder)}: --teacher=dir:DIR must name a folder of depth maps")
    if settings.polarity is None:
        raise UserError(f"{shown(folder)}: say what larger values mean with --teacher_polarity=near or far")
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    identity = {"name": f"dir:{shown(folder.name)}", "polarity": settings.polarity, "files": digest(sizes)}
    maps = depth_maps(folder)
    return Teacher(
        identity,
        settings.polarity,
        lambda records: [_read_map(folder, maps, record) for record in records],
        slow=False,
        holes=settings.polarity == "far",
    )


def depth_maps(folder: Path) -> dict[tuple[str, str], Path]:
    """The depth maps in a folder and those in it, by the `name_key` of the folder inside, or '', and the `stem_key`.

    Of several kinds of one name, the first of DEPTH_SUFFIXES. Raises UserError for a folder that cannot be read.
    """
    found: dict[tuple[str, str], Path] = {}
    with os_errors_in_one_line(folder, "this folder cannot be read"):
        entries = sorted(folder.iterdir())
        entries += [path for inner in entries if inner.is_dir() for path in sorted(inner.iterdir())]
    for suffix in DEPTH_SUFFIXES:
        for path in entries:
            if path.suffix.lower() == suffix and (path.is_file() or path.is_symlink()):
                inside = "" if path.parent == folder else name_key(path.parent.name)
                found.setdefault((inside, stem_key(path.name, DEPTH_SUFFIXES)), path)
    return found


def find_map(maps: dict[tuple[str, str], Path], photo: Path) -> Path | None:
    """The depth map of a photograph: same stem, in the folder or in its subfolder named like the photograph's own."""
    key = name_key(photo.stem)
    return maps.get((name_key(photo.parent.name), key)) or maps.get(("", key))


def missing_maps(settings: Settings, photos: Iterable[Path]) -> list[str]:
    """For a folder of depth maps, a line for each photograph that has none there."""
    kind, _, where = settings.spec.partition(":")
    if kind != "dir":
        return []
    maps, wanted = depth_maps(Path(where)), "/".join(DEPTH_SUFFIXES)
    return [
        f"{shown(photo)}: no depth map {shown(photo.stem)}{wanted} in {where}"
        for photo in photos
        if not find_map(maps, photo)
    ]


def _read_map(folder: Path, maps: dict[tuple[str, str], Path], record: dict) -> Float[np.ndarray, "h w"]:
    photo = record["path"]
    path = find_map(maps, photo)
    if path is None:
        raise UserError(f"{shown(photo)}: no depth map in {shown(folder)}")
    with os_errors_in_one_line(path, "cannot be read"):
        content = path.read_bytes()
    depth = _decode_map(path, content)
    depth = np.squeeze(depth)
    if depth.ndim == 3 and (depth == depth[..., :1]).all():
        depth = depth[..., 0]
    if depth.ndim != 2 or depth.dtype.kind not in "buif":
        raise UserError(f"{shown(path)}: {depth.dtype} of shape {depth.shape}, not one channel of depth")
    if "image" in record:
        with Image.open(io.BytesIO(record["image"])) as file:
            width, height = file.size
        if (height, width) == depth.shape[::-1] and height != width:
            raise UserError(
                f"{shown(path)}: {depth.shape[1]}x{depth.shape[0]}, but its photograph is {width}x{height}, turned by "
                "90 degrees: turn the map"
            )
    with np.errstate(over="ignore"):  # infinity is refused by whoever stretches the map
        return thinned(depth).astype(np.float32)


def thinned(depth: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "h2 w2"]:
    """A map of at most MOST_DEPTH pixels or so: every few rows and columns of a larger, as means would mix holes."""
    step = math.ceil((depth.size / MOST_DEPTH) ** 0.5)
    return depth[step // 2 :: step, step // 2 :: step] if step > 1 else depth


def _decode_map(path: Path, content: bytes) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        try:
            return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
            raise UserError(f"{shown(path)}: not a NumPy array ({shown(str(error))[:200]})") from None
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # read when OpenCV meets the first EXR file
    import cv2

    try:
        depth = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    except cv2.error:
        depth = None
    if depth is None:
        raise UserError(f"{shown(path)}: OpenCV cannot read it; save the depth as .npy")
    return depth


# ---- a network in ONNX Runtime ----


def _onnx_teacher(settings: Settings, path: Path) -> Teacher:
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
    keys = features.keys(settings.features, blank, batch, size)
    identity["features"] = {
        key: {"tensor": name, "shape": list(features.pooled(array[0]).shape)}
        for key, name, array in zip(keys, settings.features, blank, strict=True)
    }

    def feature_maps(records: Sequence[dict]) -> list[dict[str, np.ndarray]]:
        arrays = outputs(tuple(record["image"] for record in records))[1:]
        return [
            {key: features.pooled(array) for key, array in zip(keys, of_one, strict=True)}
            for of_one in zip(*arrays, strict=True)
        ]

    return Teacher(identity, polarity, raw, slow=True, features=feature_maps)


def _open_session(path: Path, tensors: Sequence[str]) -> Any:
    """A session of which the first output is the depth, and the next are `tensors` of the graph."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    available = onnxruntime.get_available_providers()
    model = features.with_outputs(path, tensors) if tensors else path
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
