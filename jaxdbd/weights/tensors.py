"""The arrays of a file by name: `.safetensors`, `.npz` or PyTorch's."""

import contextlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from jaxdbd.errors import UserError, refuse_lfs_pointer
from jaxdbd.machine.files import is_file, local_file, os_errors_in_one_line, shown
from jaxdbd.machine.paths import as_path, is_remote
from jaxdbd.weights.pth import DAMAGED, read_pth, state_dict


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays by name of a `.safetensors`, an `.npz` or a PyTorch file, whichever its bytes say it is.

    Raises UserError for a file that cannot be read or is none of them.
    """
    path = as_path(path)
    if is_remote(path) and not is_file(path):
        raise UserError(f"{shown(path)}: no such file")
    with local_file(path) as local:
        return _read(local, path)


def check_numbers(arrays: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Raises UserError that names the first array of the file `path` which is `not_real_numbers`."""
    faults = {name: fault for name, array in arrays.items() if (fault := not_real_numbers(array))}
    for name, fault in faults.items():
        first = f"{shown(name)[:80]} {fault}"
        raise UserError(
            f"{shown(path)}: {len(faults)} of its {len(arrays)} arrays cannot be used, {first}: take another copy, or "
            "weights from before the training diverged"
        )


def not_real_numbers(array: np.ndarray | jax.Array) -> str:
    """What is wrong with an array that is to be a network's: another type than real numbers, NaN, infinity; else ''."""
    # NumPy by itself does not know that bfloat16 is a number.
    if not (jnp.issubdtype(array.dtype, np.floating) or jnp.issubdtype(array.dtype, np.integer)):
        return f"is of type {array.dtype}"
    return "" if np.isfinite(array).all() else "holds NaN or infinity"


def _read(local: Path, path: os.PathLike) -> dict[str, np.ndarray]:
    """Reads `local`, the file that the user named `path`."""
    kind = _kind(local)
    if kind == ".safetensors":
        with _opened(local, path) as file:
            return state_dict({name: _tensor(path, file, name) for name in file.keys()}, path)  # noqa: SIM118
    if kind == ".npz":
        try:
            with np.load(local, allow_pickle=False) as file:
                arrays = dict(file)
        except (*DAMAGED, SyntaxError) as error:  # NumPy reads a header as Python
            raise UserError(f"{shown(path)}: not an .npz file of plain arrays ({_said(error)})") from error
        return state_dict(arrays, path)
    return read_pth(local)


@contextlib.contextmanager
def open_safetensors(path: str | os.PathLike) -> Iterator[Any]:
    """The open file, local or of a store. Raises UserError where it is no safetensors file."""
    path = as_path(path)
    with local_file(path) as local, _opened(local, path) as file:
        yield file


def _opened(local: Path, path: os.PathLike) -> Any:
    with (
        os_errors_in_one_line(path, "cannot be read"),
        local.open("rb") as file,
    ):  # safetensors calls what it may not open missing
        refuse_lfs_pointer(path, file.read(64))
    try:
        return safetensors.safe_open(local, framework="numpy")
    except (safetensors.SafetensorError, OSError, UnicodeError) as error:
        raise UserError(f"{shown(path)}: not a safetensors file ({_said(error)})") from error


def _kind(path: Path) -> str:
    """What the first bytes say, and where they say nothing, the suffix."""
    if not os.path.lexists(path) or os.path.isdir(path):
        raise UserError(f"{shown(path)}: no such file")
    with os_errors_in_one_line(path, "cannot be read"), path.open("rb") as file:
        start, size = file.read(64), os.fstat(file.fileno()).st_size
    refuse_lfs_pointer(path, start)
    if start[8:9] == b"{" and 0 < int.from_bytes(start[:8], "little") < size:
        return ".safetensors"
    if start.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                return ".npz" if all(name.endswith(".npy") for name in archive.namelist()) else ".pth"
        except DAMAGED:
            pass  # whoever reads it will say so
    return path.suffix.lower()


def _tensor(path: os.PathLike, file: Any, name: str) -> np.ndarray:
    try:
        return file.get_tensor(name)
    except (safetensors.SafetensorError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{shown(path)}: its {shown(name)[:80]} cannot be read ({_said(error)})") from error


def _said(error: BaseException) -> str:
    return shown(" ".join(str(error).split()))[:200] or type(error).__name__
