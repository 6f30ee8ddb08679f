"""What a depth teacher is, what a user says of one, and how its output becomes nearness in [0, 1], 1 = nearest."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
from jaxtyping import Bool, Float, Float16
from scipy.ndimage import distance_transform_edt

from jaxdbd.errors import UserError

BATCH = 8  # photographs that a teacher is asked for at once
STRETCHED = (1.0, 255.0, 65535.0)  # the largest values of maps that tell an order, and measure nothing
LEAST_DISTANCE = 0.01  # of the largest, choice of ours: what depth cameras measure lies beyond


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
    output: str | None = None  # the one of an ONNX file's outputs that is the depth; None: the first


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


def digest(content: dict) -> str:
    """SHA-256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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

    A map stretched to all of [0, 1], 8 or 16 bits may begin at 0: there it has to stand apart from every other value.
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
