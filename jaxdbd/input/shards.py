"""Shards of a built dataset: checked, told apart by their bytes, copied from an object store and put there.

array_record reads and writes local files only. A dataset in a store is whole when its `dataset_info.json` is there; so
that goes up last, and where a dataset is replaced it is the first to go.
"""

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath
from google.protobuf import json_format
from tensorflow_datasets.core import registered

from jaxdbd.errors import LFS_START, UserError, refuse_lfs_pointer
from jaxdbd.machine.files import os_errors_in_one_line
from jaxdbd.machine.paths import as_path, cache_folder, filesystem, is_remote, mirror, store_errors_in_one_line
from jaxdbd.machine.transfer import (
    RECORD,
    at_once,
    copy_objects,
    is_copy,
    list_objects,
    record,
    sole_user,
    upload,
    with_progress,
)

LAST = "dataset_info.json"
# Choice of ours: of a shard of over 4 MB as much is read, in blocks all over it. Another photograph moves what follows.
BLOCK, BLOCKS = 2**16, 64


@dataclasses.dataclass(frozen=True)
class Records(Sequence[dict]):
    """What TFDS reads of a split. Raises UserError for a record whose bytes are not those that were written."""

    source: Any

    @property
    def dataset_info(self) -> Any:
        """TFDS's notes on the whole dataset."""
        return self.source.dataset_info

    @property
    def split(self) -> Any:
        """The split that they are of, or the part of one."""
        return self.source.split

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[dict]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.source[index]
        except RuntimeError as error:  # of a checksum; it names no file
            for split in self.dataset_info.splits.values():
                for path in split.filepaths:
                    check_shard(path)
            raise error


def check_shard(path: str | os.PathLike, records: int | None = None, whole: bool = True) -> None:
    """Raises UserError for a shard that is missing, cut short, has not so many `records`, or was changed since.

    Without `whole` only its ends are looked at.
    """
    again = how_to_get_back(Path(path))
    if not os.path.exists(path):
        raise UserError(f"{path}: this shard is missing: {again}")
    with open(path, "rb") as file:
        refuse_lfs_pointer(path, file.read(len(LFS_START)))
    # The reader would take one that was cut short for an empty one.
    shard = ArrayRecordReader(os.fspath(path))
    if not shard.ok() or records not in (None, shard.num_records()):
        raise UserError(f"{path}: this shard is damaged: {again}")
    for i in range(shard.num_records() if whole else 0):
        try:
            shard.read([i])
        except RuntimeError as error:
            reason = str(error).partition(" (")[0]
            raise UserError(f"{path}: record {i} of this shard is damaged ({reason}): {again}") from None
    shard.close()


def how_to_get_back(path: Path) -> str:
    """What to do about a damaged shard: it is a copy of one in a store, or must be built again."""
    if (path.parents[1] / RECORD).exists():
        return "delete it, and the next start copies it from the store again"
    return "build the dataset again with --overwrite"


def open_builder(
    opened: Callable[[], tfds.core.DatasetBuilder], what: str, folder: os.PathLike
) -> tfds.core.DatasetBuilder:
    """A dataset, in or below `folder`, whose files are all there.

    Raises UserError, which begins with `what` or names a file, where they are damaged.
    """
    try:
        builder = opened()
    except registered.DatasetNotFoundError:
        raise
    except (json_format.Error, ValueError, KeyError, TypeError, OSError) as error:  # of empty and of cut files
        for path in Path(folder).rglob("*.json"):
            refuse_lfs_pointer(path, path.read_bytes())
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{what}: what it says of itself cannot be read ({reason}): build the dataset again with --overwrite"
        ) from error
    for split in builder.info.splits.values():
        for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
            check_shard(path, length, whole=False)
    return builder


def open_folder(folder: os.PathLike) -> tfds.core.DatasetBuilder:
    """`open_builder` of the dataset that lies in a local folder."""
    return open_builder(lambda: tfds.builder_from_directory(folder), str(folder), folder)


def shards_digest(records: Any) -> str:
    """SHA-256 in hex of all shards of the dataset that records of `open_split` are of, and of their names and sizes."""
    digest = hashlib.sha256()
    for _, split in sorted(records.dataset_info.splits.items()):
        for path in split.filepaths:
            size = os.path.getsize(path)
            digest.update(f"{path.name} {size}\n".encode())
            with open(path, "rb") as file:
                for start in block_starts(size):
                    file.seek(start)
                    digest.update(file.read(BLOCK))
    return digest.hexdigest()


def block_starts(size: int) -> list[int]:
    """Where the blocks begin that are read of so many bytes: all of them, or BLOCKS from the first to the last."""
    if size <= BLOCK * BLOCKS:
        return list(range(0, size, BLOCK))
    return np.linspace(0, size - BLOCK, BLOCKS).astype(int).tolist()


# --- Stores ---


def local_data_dir(dataset: str, data_dir: str | os.PathLike, cache_dir: str = "") -> Path:
    """The local folder to read a dataset of `data_dir` from: that itself, or the cache that it is copied to now.

    A copy is made once; a later start only asks the store whether it is still the same. Processes that share the cache
    wait for each other.

    Args:
      dataset: such as 'dbd/cuhk'; all versions of it that are whole are copied.
      data_dir: where it was built; local or in a store.
      cache_dir: the cache; empty for jaxdbd's in the user's cache folder.

    Raises:
      UserError: where the store refuses or holds no such dataset, or the local disk does not take it.
    """
    data_dir = as_path(data_dir)
    if not is_remote(data_dir):
        return Path(data_dir)
    local = mirror(cache_folder(cache_dir), "data", data_dir)
    name = dataset.partition(":")[0]
    objects = list_objects(data_dir / name)
    whole = {os.path.dirname(n) for n in objects if os.path.basename(n) == LAST}
    wanted = {n: found for n, found in objects.items() if os.path.dirname(n) in whole}
    if wanted:
        failed = "the cache cannot be written (config.cache_dir takes another folder)"
        with os_errors_in_one_line(local, failed), sole_user(local / name):
            copy_objects(data_dir / name, wanted, local / name)
    else:
        shutil.rmtree(local / name, ignore_errors=True)  # what was there once is there no more
    return local


def put_dataset(local: Path, remote: epath.Path) -> None:
    """Puts a built dataset into a store, the metadata last. What a killed one has put already is not sent again.

    Raises:
      UserError: where a shard is missing, or the store refuses or has got something else than was sent.
    """
    open_folder(local)
    files = {path.name: path for path in local.iterdir() if path.is_file() and not path.name.startswith(".")}
    there = list_objects(remote)
    for name in [LAST, *sorted(there.keys() - files.keys())]:
        if name in there:
            with store_errors_in_one_line(remote / name):
                filesystem(remote).rm_file(str(remote / name))
    sizes = {n: p.stat().st_size for n, p in files.items() if n != LAST}
    new = {n for n in sizes if not (n in there and there[n].checksum and is_copy(files[n], remote, there[n]))}
    sent = at_once(lambda name: upload(files[name], remote / name), sorted(new))
    with_progress(f"putting {remote}", {n: sizes[n] for n in new}, sent)
    arrived = list_objects(remote)
    for name in sizes:
        if name not in arrived or not is_copy(files[name], remote, arrived[name]):
            raise UserError(f"{remote / name}: the store has not got what was sent: run the same command again")
    upload(files[LAST], remote / LAST)
    record(local.parent, {f"{local.name}/{name}": found for name, found in list_objects(remote).items()})
