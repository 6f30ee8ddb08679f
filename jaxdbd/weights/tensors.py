"""The arrays of a file by name: `.safetensors`, `.npz` or PyTorch's."""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from jaxdbd.errors import UserError
from jaxdbd.files import is_file, local_file
from jaxdbd.paths import as_path
from jaxdbd.weights.pth import read_pth, state_dict


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays by name of a `.safetensors`, an `.npz` or a PyTorch file, whichever its suffix and bytes say it is."""
    path = as_path(path)
    if not is_file(path):
        raise UserError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        with open_safetensors(path) as file:
            return state_dict({name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118
    with local_file(path) as file:
        return _read_others(file)


def _read_others(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                return state_dict(dict(file), path)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not an .npz file of plain arrays ({error})") from error
    return read_pth(path)


@contextlib.contextmanager
def open_safetensors(path: str | os.PathLike) -> Iterator[Any]:
    """The open file, local or of a store. Raises UserError where it is no safetensors file."""
    with local_file(path) as local:
        try:
            opened = safetensors.safe_open(local, framework="numpy")
        except safetensors.SafetensorError as error:
            raise UserError(f"{path}: not a safetensors file ({error})") from error
        with opened as file:
            yield file
