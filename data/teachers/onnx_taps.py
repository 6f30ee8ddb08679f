"""Features of a depth teacher: intermediate tensors of its ONNX graph, each named by its stride.

An encoder has one tap at each of the strides 2 to 32, and learns what the teacher's tensor of the same stride holds: so
a name such as `features_8` is all that training needs.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxdbd.errors import UserError
from jaxdbd.input.records import FEATURES
from jaxdbd.machine.files import shown
from jaxdbd.network.encoders import STRIDES

MOST_CELLS = 40  # of the longer side, choice of ours: TCMonoDepth's grid at stride 8
NAMED = 8  # tensors that an error lists


def with_outputs(path: Path, names: Sequence[str]) -> bytes:
    """The ONNX model of a file, with the tensors `names` of its graph among its outputs.

    Raises UserError for a file that is no model, and for a tensor that is not there.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise UserError("--teacher_features needs onnx: pip install 'jaxdbd[onnx]'") from None
    try:
        model = onnx.load(path)
    except DecodeError:
        raise UserError(f"{shown(path)}: not an ONNX model") from None
    outputs = {value.name for value in model.graph.output}
    tensors = [name for node in model.graph.node for name in node.output if name and node.op_type != "Constant"]
    for name in names:
        if name not in tensors:
            raise UserError(f"{path.name}: no tensor {name!r} in its graph; some that it has: {some(name, tensors)}")
        if name not in outputs:
            # Without a type: ONNX Runtime infers it.
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return model.SerializeToString()


def some(name: str, tensors: list[str]) -> str:
    """A few tensors: those whose names are close to `name`, then others from all over the graph."""
    spread = [tensors[i * (len(tensors) - 1) // (NAMED - 1)] for i in range(NAMED)]
    found = dict.fromkeys(difflib.get_close_matches(name, tensors, n=NAMED // 2) + spread)
    return ", ".join(list(found)[:NAMED])


def keys(names: Sequence[str], arrays: Sequence[np.ndarray], batch: int, size: tuple[int, int]) -> list[str]:
    """What the tensors `names` are called in the shards, by their values for `batch` inputs of `size`.

    Raises UserError for a tensor that is no feature map [batch, channels, height, width] at one of STRIDES, and for two
    at the same.
    """
    found: dict[str, str] = {}
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 4 or len(array) != batch or array.dtype.kind != "f":
            kind = f"{array.dtype} {list(array.shape)}"
            raise UserError(f"--teacher_features: {name} is {kind}, not floats [batch, channels, height, width]")
        strides = {round(n / m) for n, m in zip(size, array.shape[2:], strict=True)}
        stride = strides.pop()
        if strides or stride not in STRIDES:
            grid = f"{array.shape[2]}x{array.shape[3]}"
            listing = ", ".join(map(str, STRIDES))
            raise UserError(
                f"--teacher_features: {name} has {grid} cells for {size[0]}x{size[1]} pixels, not a stride of {listing}"
            )
        key = f"{FEATURES}{stride}"
        if key in found:
            raise UserError(f"--teacher_features: {found[key]} and {name} are both at stride {stride}: leave out one")
        found[key] = name
    return list(found)


def pooled(x: Float[np.ndarray, "c h w"]) -> Float[np.ndarray, "h2 w2 c"]:
    """Means over the fewest square blocks of cells that leave at most MOST_CELLS a side; the last may be smaller."""
    x = np.asarray(x, np.float32).transpose(1, 2, 0)
    block = -(-max(x.shape[:2]) // MOST_CELLS)
    for axis in (0, 1):
        edges = np.arange(0, x.shape[axis], block)
        sizes = np.diff([*edges, x.shape[axis]]).astype(np.float32)
        x = np.add.reduceat(x, edges, axis) / sizes.reshape([-1 if i == axis else 1 for i in range(3)])
    return x
