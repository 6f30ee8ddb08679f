"""What a depth teacher is, and what a user says of one."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

BATCH = 8  # photographs that a teacher is asked for at once


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
