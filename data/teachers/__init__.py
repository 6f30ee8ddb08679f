"""Depth teachers: a batch of photographs in, a map of nearness for each out. They run once, while shards are built.

To add a teacher, write a function that returns a `Teacher` and give it a line in `open_teacher`.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float16

from data.teachers.folder import folder_teacher, missing_maps
from data.teachers.onnx_file import PRESETS, onnx_teacher
from data.teachers.teacher import BATCH, Settings, Teacher, digest, fill_holes, unit_nearness
from data.teachers.transformers_model import transformers_teacher
from jaxdbd.errors import UserError
from jaxdbd.machine.files import make_folder, whole_file
from jaxdbd.machine.paths import local_path

__all__ = [
    "BATCH",
    "PRESETS",
    "Settings",
    "Teacher",
    "digest",
    "feature_maps",
    "fill_holes",
    "missing_maps",
    "nearness",
    "open_teacher",
]


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
        return folder_teacher(settings, local_path(where))
    if kind == "onnx" and where:
        return onnx_teacher(settings, local_path(where))
    if kind == "hf" and where:
        return transformers_teacher(settings, str(local_path(where)))
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
    if (features := teacher.features) is None:
        return [{} for _ in records]

    def made(some: Sequence[dict]) -> list[np.ndarray]:
        return [_halved(maps, teacher, record["id"]) for maps, record in zip(features(some), some, strict=True)]

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
    """What `made` gives for each record, from the cache where it is there already."""
    if not teacher.slow or cache is None:
        return made(records)
    folder = cache / digest(teacher.identity)[:16]
    make_folder(folder)
    files = [folder / f"{record['key']}{suffix}" for record in records]
    # One for each file: renderings of one photograph share a map.
    missing = {file: record for file, record in zip(files, records, strict=True) if not file.exists()}
    if missing:
        for file, array in zip(missing, made(list(missing.values())), strict=True):
            with whole_file(file) as unfinished, unfinished.open("wb") as out:
                np.save(out, array)
    return [np.load(file) for file in files]
