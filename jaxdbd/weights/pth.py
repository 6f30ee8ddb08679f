"""Reads PyTorch's `.pth` files without PyTorch, and without running anything that is in them.

It reads both formats: the zip archive (since 1.6), and the older stream of pickles that ends in the raw storages. In
both, a pickle holds the structure, and a pickle is a program. Here it may use only the names that a state dict of
tensors needs. Each of them stands for a harmless function of this file; any other name is an error.
"""

import io
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxdbd.errors import UserError
from jaxdbd.machine.files import os_errors_in_one_line, shown

# What zipfile raises for a damaged archive; RuntimeError for one that is encrypted or packed in an unknown way.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, MemoryError)
MOST_INFLATED = 20  # times its size; PyTorch does not compress at all
MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older format
PROTOCOL = 1001  # its second
# What frameworks that wrap a network for training put before every name.
WRAPPERS = ("module.", "model.", "net.", "network.")
CONTAINERS = ("state_dict", "model_state_dict", "model", "net")  # where checkpoints keep the state dict

STORAGE_DTYPES = {
    "HalfStorage": np.float16,
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "ShortStorage": np.int16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "BoolStorage": np.bool_,
}


def read_pth(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict of a `.pth` file: tensor name to array, as `state_dict` finds it.

    Arrays whose tensors share a storage share memory; they may be read-only. Raises UserError for a file that is
    missing, empty, truncated, not PyTorch's, or that asks for anything but tensors.
    """
    path = Path(path)
    if not os.path.lexists(path) or os.path.isdir(path):
        raise UserError(f"{shown(path)}: no such file")
    with os_errors_in_one_line(path, "cannot be read"), path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if not start:
            raise UserError(f"{path}: the file is empty")
        if start == b"PK\x03\x04":
            return state_dict(_read_zip(path, file), path)
        if start[0] == 0x80:  # the opcode that opens a pickle
            return state_dict(_read_stream(path, file), path)
    raise UserError(f"{path}: not a PyTorch file (it is neither a zip archive nor a pickle)")


def read_numpy_pickle(path: str | Path) -> Any:
    """A pickle of nested dicts and lists of NumPy arrays, read with the same restrictions as `read_pth`."""
    with os_errors_in_one_line(Path(path), "cannot be read"), Path(path).open("rb") as file:
        return _finish(_unpickle(path, file), lambda _tensor: None)


def state_dict(tree: Any, path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Looks for the arrays by name in `tree`, inside `{'state_dict': ...}` and the like, and takes WRAPPERS off."""
    for _ in range(4):
        if not isinstance(tree, dict):
            break
        arrays = {
            name.replace("_orig_mod.", "").removeprefix("module."): array  # torch.compile, DataParallel
            for name, array in tree.items()
            if isinstance(name, str) and isinstance(array, np.ndarray)
        }
        while prefix := next((p for p in WRAPPERS if arrays and all(name.startswith(p) for name in arrays)), None):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
        if arrays:
            return arrays
        tree = next((tree[k] for k in CONTAINERS if isinstance(tree.get(k), dict)), None)
    raise UserError(f"{path}: no state dict in it (a dict of tensors, maybe under one of {', '.join(CONTAINERS)})")


# --- The two formats ---


def _read_zip(path: Path, file: io.BufferedIOBase) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if sum(info.file_size for info in members.values()) > MOST_INFLATED * path.stat().st_size + 2**20:
                raise _damaged(path, "it would unpack to far more than it is")
            top = next((n.removesuffix("data.pkl") for n in members if n.split("/")[-1] == "data.pkl"), None)
            if top is None:
                raise UserError(f"{path}: a zip archive, but not a PyTorch checkpoint (no data.pkl in it)")
            order = archive.read(top + "byteorder") if top + "byteorder" in members else b"little"
            if order.strip() not in (b"little", b"big"):
                raise _damaged(path, f"byte order {order[:20]!a}")
            tree = _unpickle(path, io.BytesIO(archive.read(top + "data.pkl")))
            storages: dict[str, np.ndarray] = {}

            def load(storage: _Storage) -> np.ndarray:
                if storage.key not in storages:
                    info = members.get(f"{top}data/{storage.key}")
                    if info is None or info.file_size != storage.numel * storage.itemsize:
                        raise _damaged(path, f"storage {storage.key} is missing or cut short")
                    storages[storage.key] = _as_array(archive.read(info), storage.dtype, order.strip() == b"big")
                return storages[storage.key]

            return _finish(tree, lambda tensor: _view(path, tensor, load))
    except DAMAGED as error:
        raise _damaged(path, str(error)) from error


def _read_stream(path: Path, file: io.BufferedIOBase) -> Any:
    if _unpickle(path, file) != MAGIC:
        raise UserError(f"{path}: a pickle, but not a PyTorch checkpoint (no magic number)")
    if (protocol := _unpickle(path, file)) != PROTOCOL:
        raise UserError(f"{path}: PyTorch's older format in an unknown version ({ascii(protocol)[:20]})")
    machine = _unpickle(path, file)
    # PyTorch writes this format little-endian on every machine, so a file marked otherwise cannot be trusted.
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UserError(f"{path}: not marked little-endian: save it again with a newer PyTorch")
    wanted: dict[str, _Storage] = {}
    tree = _unpickle(path, file, wanted)
    keys = _unpickle(path, file)
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
        raise _damaged(path, "no list of storages")

    size = path.stat().st_size
    storages: dict[str, np.ndarray] = {}
    for key in keys:
        if key not in wanted:
            raise _damaged(path, f"storage {ascii(key)[:40]} belongs to no tensor")
        count = int.from_bytes(file.read(8), "little")
        nbytes = count * wanted[key].itemsize
        if count != wanted[key].numel or nbytes > size - file.tell():
            raise _damaged(path, f"storage {ascii(key)[:40]} is cut short")
        storages[key] = _as_array(file.read(nbytes), wanted[key].dtype, False)
    if missing := set(wanted) - set(storages):
        raise _damaged(path, f"{len(missing)} storages are missing")
    return _finish(tree, lambda tensor: _view(path, tensor, lambda storage: storages[storage.key]))


def _damaged(path: str | os.PathLike, what: str) -> UserError:
    return UserError(f"{shown(path)}: damaged or truncated ({' '.join(what.split())[:100]})")


# --- Tensors: what the pickle leaves, and the arrays they become ---


class _Storage(NamedTuple):
    key: str
    dtype: str  # a key of STORAGE_DTYPES
    numel: int

    @property
    def itemsize(self) -> int:
        return np.dtype(STORAGE_DTYPES[self.dtype]).itemsize


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _finish(tree: Any, make: Callable[[_Tensor], Any], depth: int = 0) -> Any:
    """Copies the dicts of `tree` with `make(tensor)` in place of each tensor, and NumPy arrays made real."""
    if isinstance(tree, _Tensor):
        return make(tree)
    if isinstance(tree, _NumpyArray):
        return tree.array
    # A state dict lies no deeper, and a dict that holds itself has no end.
    if isinstance(tree, dict) and depth < 3:
        return {k: _finish(v, make, depth + 1) for k, v in tree.items()}
    return tree


def _as_array(raw: bytes, dtype: str, big_endian: bool) -> np.ndarray:
    target = np.dtype(STORAGE_DTYPES[dtype])
    words = np.frombuffer(raw, f"{'>' if big_endian else '<'}u{target.itemsize}")
    if target == np.bool_:
        return words != 0
    return words.astype(f"=u{target.itemsize}", copy=False).view(target)


def _view(path: Path, tensor: _Tensor, load: Callable[[_Storage], np.ndarray]) -> np.ndarray:
    storage, offset, size, stride = tensor
    data = load(storage)
    # Nothing but the file vouches for these numbers: the last element must lie inside the storage.
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= data.size:
        raise _damaged(path, f"a tensor of shape {size} reaches beyond its storage")
    try:
        if 0 in size:
            return np.empty(size, data.dtype)
        steps = tuple(step * data.itemsize for step in stride)
        return np.ndarray(size, data.dtype, data, offset * data.itemsize, steps)
    except ValueError as error:  # more axes or elements than NumPy has
        raise _damaged(path, str(error)) from error


def _counts(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(v) is int and 0 <= v < 2**48 for v in values):
        raise pickle.UnpicklingError("sizes and strides must be counts")
    return values


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_flags: Any) -> _Tensor:
    if not isinstance(storage, _Storage) or len(_counts(size)) != len(_counts(stride)):
        raise pickle.UnpicklingError("not a tensor")
    return _Tensor(storage, _counts((offset,))[0], size, stride)


def _rebuild_parameter(tensor: Any, *_flags: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise pickle.UnpicklingError("not a parameter")
    return tensor


# --- NumPy's pickles, rebuilt here so that NumPy's own setters never see a hostile state ---


class _NumpyType:
    def __init__(self, code: Any, *_flags: Any):
        self.dtype = np.dtype(code) if isinstance(code, str) and len(code) < 8 else np.dtype(object)
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError("not a numeric dtype")

    def __setstate__(self, state: Any):
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")


class _NumpyArray:
    def __init__(self, *_placeholder: Any):
        self.array = None

    def __setstate__(self, state: Any):
        _, shape, kind, fortran, raw = state
        self.array = np.frombuffer(_bytes(raw), kind.dtype).reshape(_counts(shape), order="F" if fortran else "C")


def _numpy_scalar(kind: _NumpyType, raw: Any) -> int | float | bool:
    return np.frombuffer(_bytes(raw), kind.dtype)[0].item()


def _bytes(raw: Any) -> bytes:
    return raw.encode("latin1") if isinstance(raw, str) else bytes(memoryview(raw))


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # how protocol 2 spells bytes
        raise pickle.UnpicklingError("bytes that are not latin1")
    return text.encode("latin1")


# --- The unpickler ---


class _Dict(dict):
    def __setstate__(self, state: Any):
        """Passes over what an OrderedDict carries besides its items (a state dict's `_metadata`)."""


class _Admitted:
    """What a global of the pickle becomes: it can be called, and neither built upon nor altered."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable):
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any):
        raise pickle.UnpicklingError("a global is not to be altered")


def _refuse_call(*_args: Any) -> Any:
    raise pickle.UnpicklingError("a storage type is not to be called")


_ADMITTED = {
    "collections.OrderedDict": _Admitted(_Dict),
    "torch._utils._rebuild_tensor": _Admitted(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _Admitted(_rebuild_tensor),
    "torch._utils._rebuild_parameter": _Admitted(_rebuild_parameter),
    "_codecs.encode": _Admitted(_encode),
    "numpy.dtype": _Admitted(_NumpyType),
    "numpy.ndarray": _Admitted(_refuse_call),  # only ever an argument of _reconstruct
}
for _home in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ADMITTED[f"{_home}.scalar"] = _Admitted(_numpy_scalar)
    _ADMITTED[f"{_home}._reconstruct"] = _Admitted(_NumpyArray)


# The unpickler in Python, not the one in C, which fills memory up to whatever number a damaged memo key holds.
class _Unpickler(pickle._Unpickler):
    dispatch = {k: v for k, v in pickle._Unpickler.dispatch.items() if k != pickle.BYTEARRAY8[0]}  # noqa: RUF012

    def __init__(self, path: str | Path, file: io.BufferedIOBase, storages: dict[str, _Storage]):
        # latin1 maps every byte to one character: what Python 2 wrote stays readable.
        super().__init__(file, encoding="latin1")
        self.path = path
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in _ADMITTED:
            return _ADMITTED[f"{module}.{name}"]
        if module in ("torch", "torch.cuda") and name in STORAGE_DTYPES:
            return name
        asked = ascii(f"{module}.{name}"[:80]).strip("'")
        raise UserError(
            f"{shown(self.path)}: refused: it asks for {asked}, which no state dict of tensors needs. If you trust it, "
            f"save its tensors alone, in PyTorch: {_remedy(module)}"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and pid[1] in STORAGE_DTYPES):
            raise pickle.UnpicklingError("not a storage")
        if not isinstance(pid[2], str) or any(pid[5:]):  # views of storages: not written since 2017
            raise pickle.UnpicklingError("not a plain storage")
        storage = _Storage(pid[2], pid[1], *_counts((pid[4],)))
        if self.storages.setdefault(pid[2], storage) != storage:
            raise pickle.UnpicklingError("one storage with two types")
        return storage


def _remedy(module: str) -> str:
    """How to get at the tensors of a file that holds more: a dict where a training saved it, else a whole network."""
    if "lightning" in module or module.startswith(("argparse", "omegaconf", "pathlib", "_io", "mmengine")):
        return "torch.save(torch.load(FILE, weights_only=False)['state_dict'], OUT)"
    return "torch.save(model.state_dict(), OUT), where model = torch.load(FILE, weights_only=False)"


def _unpickle(path: str | Path, file: io.BufferedIOBase, storages: dict[str, _Storage] | None = None) -> Any:
    """One pickle from `file`; fills `storages` with those it mentions, by key."""
    try:
        return _Unpickler(path, file, {} if storages is None else storages).load()
    except UserError:
        raise
    except Exception as error:  # bytes that are no pickle can trip the machine in any way
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
