"""The arrays of a file by name: `.safetensors`, `.npz` or PyTorch's."""

import zipfile
from pathlib import Path

import numpy as np
import safetensors

from jaxdbd.errors import UserError
from jaxdbd.weights.pth import read_pth, state_dict


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays by name of a `.safetensors`, an `.npz` or a PyTorch file, whichever its suffix and bytes say it is."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        with open_safetensors(path) as file:
            return state_dict({name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                return state_dict(dict(file), path)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not an .npz file of plain arrays ({error})") from error
    return read_pth(path)


def open_safetensors(path: Path):
    """The open file. Raises UserError where it is no safetensors file."""
    try:
        return safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from error
