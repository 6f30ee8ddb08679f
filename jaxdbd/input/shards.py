"""Datasets in object stores: put there with the metadata last, and copied to a local cache before they are read.

array_record reads and writes local files only. A dataset in a store is whole when its `dataset_info.json` is there; so
that goes up last, and where a dataset is replaced it is the first to go.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import tensorflow_datasets as tfds
from etils import epath
from google.protobuf import json_format
from tensorflow_datasets.core import registered

from jaxdbd.errors import UserError, refuse_lfs_pointer
from jaxdbd.input.checked import check_shard
from jaxdbd.machine.files import os_errors_in_one_line
from jaxdbd.machine.paths import as_path, cache_folder, filesystem, is_remote, mirror, store_errors_in_one_line
from jaxdbd.machine.transfer import (
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


def put_dataset(local: Path, remote: epath.Path) -> None:
    """Puts a built dataset into a store, the metadata last. What a killed one has put already is not sent again.

    Raises:
      UserError: where a shard is missing, or the store refuses or has got something else than was sent.
    """
    open_builder(lambda: tfds.builder_from_directory(local), str(local), local)
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
