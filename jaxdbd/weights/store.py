"""One `.safetensors` file holds a network: its arrays, and what is needed to rebuild it."""

import dataclasses
import functools
import json
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdbd.errors import UserError
from jaxdbd.machine.files import is_file, os_error, shown, write_whole
from jaxdbd.machine.paths import as_path, is_remote
from jaxdbd.network.encoders import ENCODERS
from jaxdbd.network.model import MULTIPLE, SRFB_KINDS, DepthDistilledDBD
from jaxdbd.weights.tensors import check_numbers, open_safetensors, read_tensors

Variables = dict[str, Any]  # {"params": ..., "batch_stats": ...}, nested dicts of float32 arrays

DTYPES = ("float32", "bfloat16", "float16", "float64")
MOST_WIDE = 8192  # channels of a level, and pixels of the square; a damaged file may say anything
BUNDLED = Path(__file__).parent / "bundled"
IMAGE = jax.ShapeDtypeStruct((1, MULTIPLE, MULTIPLE, 3), jnp.float32)  # that the network is initialized with


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a weights file says of itself."""

    config: dict[str, Any]  # the fields of DepthDistilledDBD
    dataset: str  # what it was trained on
    license: str  # what its weights may be used for
    threshold: float  # on the focus probability, for a binary mask


def save(
    path: str | os.PathLike,
    model: DepthDistilledDBD,
    variables: Variables,
    *,
    dataset: str,
    license: str,
    threshold: float = 0.5,
    dtype: Any = np.float32,
) -> None:
    """Writes `variables` and what `load` needs to rebuild `model` to one `.safetensors` file, all of it or nothing.

    Arrays are stored as `dtype`: float32 returns bit for bit, float16 halves the file. The same arguments give the same
    bytes. Raises UserError for NaN or infinity, also where a value is beyond `dtype`.
    """
    with np.errstate(over="ignore"):
        arrays = {
            name: np.ascontiguousarray(jax.device_get(leaf)).astype(dtype)
            for name, leaf in sorted(flatten_dict(variables, sep="/").items())
        }
    check_numbers(arrays, path)
    notes = {"config": json.dumps(_config(model)), "dataset": dataset, "license": license, "threshold": str(threshold)}
    # Not `save_file`, whose files nobody but their owner may read.
    write_whole(path, _with_notes_in_order(safetensors.numpy.save(arrays, notes)))


def _with_notes_in_order(content: bytes) -> bytes:
    """A safetensors file with sorted metadata: the library, which sorts the arrays, leaves their order to chance."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # as the library aligns the arrays
    return len(text).to_bytes(8, "little") + text + content[start:]


def load(name_or_path: str | os.PathLike) -> tuple[DepthDistilledDBD, Variables]:
    """The network and its float32 variables, from a bundled name, a `.safetensors` file or a training run's folder.

    Raises UserError for an unknown name, or a file that `save` did not write.
    """
    path = find(name_or_path)
    model = _model(path, read_metadata(path).config)
    arrays = read_tensors(path)
    check_numbers(arrays, path)
    # Converted by NumPy and moved as they are: JAX would compile a conversion, or a copy, for every shape.
    arrays = {name: jax.device_put(array.astype(np.float32)) for name, array in arrays.items()}
    if path.parent == BUNDLED:  # a test checks that these fit; checking takes longer than all the rest
        return model, unflatten_dict(arrays, sep="/")
    expected: dict[str, Any] = flatten_dict(shapes(model), sep="/")
    differing = sorted(
        name
        for name in expected.keys() | arrays.keys()
        if name not in arrays or name not in expected or arrays[name].shape != expected[name].shape
    )
    if differing:
        first = shown(differing[0])[:100]
        raise UserError(f"{shown(path)}: {len(differing)} arrays do not fit the network it names, {first} the first")
    return model, unflatten_dict(arrays, sep="/")


def read_metadata(name_or_path: str | os.PathLike) -> Metadata:
    """What the weights file says of itself, without reading the arrays. Raises UserError as `load` does."""
    path = find(name_or_path)
    with open_safetensors(path) as file:
        notes = file.metadata() or {}
    if "config" not in notes:
        raise UserError(f"{shown(path)}: no network's config in it; `jaxdbd convert` turns foreign weights into ours")
    try:
        config, threshold = json.loads(notes["config"]), float(notes["threshold"])
        dataset, license = notes["dataset"], notes["license"]
    except (KeyError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(config, dict) or not 0 <= threshold <= 1:
        raise _damaged(path, "no config, or no threshold")
    return Metadata(config=config, dataset=dataset, license=license, threshold=threshold)


def _damaged(path: os.PathLike, reason: str) -> UserError:
    reason = shown(" ".join(reason.split()))[:200]
    return UserError(f"{shown(path)}: its description of the network is damaged ({reason}): take another copy")


def bundled() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


def find(name_or_path: str | os.PathLike) -> Path | epath.Path:
    """The file behind a bundled name, a file or a training run's folder; of the second type where it is in a store."""
    if str(name_or_path) in bundled():
        return BUNDLED / f"{name_or_path}.safetensors"
    path = as_path(name_or_path)
    path = path if is_remote(path) else Path(path)
    if is_file(path / "weights.safetensors"):
        return path / "weights.safetensors"
    if is_file(path):
        if path.suffix.lower() != ".safetensors":
            raise UserError(f"{shown(path)}: not a .safetensors file; `jaxdbd convert` makes one from PyTorch's files")
        return path
    if not is_remote(path):
        try:
            os.stat(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise os_error(error, path, "cannot be read") from error
    names = ", ".join(bundled()) or "none"
    raise UserError(
        f"no weights at {shown(name_or_path)}: give a .safetensors file, a training folder, or a bundled name ({names})"
    )


def shapes(model: DepthDistilledDBD) -> Variables:
    """The model's variables as shapes and dtypes, with nothing computed. Flax takes a second or two for it."""
    return _initializer(cast(Hashable, model)).eval_shape(jax.random.key(0), IMAGE)


def random_variables(model: DepthDistilledDBD, seed: int) -> Variables:
    """Variables as each layer initializes them, the same on every platform.

    They are computed on the host and compiled without optimization: a program of hundreds of small random arrays that
    runs once would take longer to compile than a training step.
    """
    with jax.default_device(_host()):
        return _initializer(cast(Hashable, model))(jax.random.key(seed), jnp.zeros(IMAGE.shape, IMAGE.dtype))


def _host() -> Any:
    """The CPU as a device of JAX; None where JAX_PLATFORMS leaves it out, which means the default."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


@functools.lru_cache(maxsize=8)
def _initializer(model: Hashable) -> Any:  # hashable as Flax makes its modules, which their type does not say
    """`model.init`, jitted: what it is traced to for the shapes is what is compiled for the values."""
    return jax.jit(cast(DepthDistilledDBD, model).init, compiler_options={"xla_backend_optimization_level": 0})


def _config(model: DepthDistilledDBD) -> dict[str, Any]:
    fields = {f.name for f in dataclasses.fields(model)} - {"parent", "name"}
    return {name: getattr(model, name) for name in sorted(fields)} | {"dtype": jnp.dtype(model.dtype).name}


def _model(path: os.PathLike, config: dict[str, Any]) -> DepthDistilledDBD:
    fields = {f.name for f in dataclasses.fields(DepthDistilledDBD)}
    if unknown := sorted(config.keys() - fields):
        listing = shown(", ".join(unknown))[:200]
        raise UserError(f"{shown(path)}: this version does not know the network's {listing}: update jaxdbd")
    if config.get("encoder") not in [*ENCODERS]:
        encoder = ascii(config.get("encoder"))[:80]
        raise UserError(f"{shown(path)}: this version does not know the encoder {encoder}: update jaxdbd")
    kinds = dict.fromkeys(("full_resolution", "depth_head", "blur_head", "srfb_select", "sab"), bool)
    kinds |= {"size": int, "dtype": str, "edge_radius": float, "edge_slope": float}
    for name, kind in kinds.items():
        if name in config and type(config[name]) is not kind:
            raise _damaged(path, f"{name} is {config[name]!r}")
    widths, dtype, srfb = config.get("widths"), config.get("dtype", "float32"), config.get("srfb", SRFB_KINDS[0])
    if widths is not None and not (
        isinstance(widths, list) and len(widths) == 5 and all(type(w) is int and 0 < w <= MOST_WIDE for w in widths)
    ):
        raise _damaged(path, f"widths are {widths!r}")
    if dtype not in DTYPES or srfb not in SRFB_KINDS:
        raise _damaged(path, f"dtype is {dtype!r}, srfb {srfb!r}")
    model = DepthDistilledDBD(**config | {"widths": widths and tuple(widths), "dtype": jnp.dtype(dtype).type})
    if not 0 < model.size <= MOST_WIDE or model.size % MULTIPLE:
        raise _damaged(path, f"size is {model.size}")
    if not (0 <= model.edge_radius < 0.5 and 0 < model.edge_slope < 1000):
        raise _damaged(path, f"edge_radius is {model.edge_radius}, edge_slope {model.edge_slope}")
    return model
