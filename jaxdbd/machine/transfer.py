"""Copies between the local disk and an object store: in parallel, with sizes and checksums verified."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from etils import epath
from tqdm import tqdm

from jaxdbd.errors import UserError
from jaxdbd.machine.paths import filesystem, store_errors_in_one_line

AT_ONCE = 8  # choice of ours: one copy fills a tenth of a cloud machine's network link
CHUNK = 2**20
# What a local copy of a folder knows of its files: {name: [size, checksum in the store, modification time in ns]}.
RECORD = ".copied.json"


class Object(NamedTuple):
    """What a store says of an object."""

    size: int
    checksum: str  # CRC32C in base64 on gs://; elsewhere the store's ETag, which only tells that it has changed


def list_objects(folder: epath.Path) -> dict[str, Object]:
    """All objects below a folder of a store, by their name in it; none where there is no such folder.

    Raises UserError where the store refuses, or has no such bucket.
    """
    fs = filesystem(folder)
    with store_errors_in_one_line(folder):
        found = fs.find(str(folder), detail=True)
    above = PurePosixPath(str(folder).partition("://")[2])
    return {
        str(PurePosixPath(name).relative_to(above)): Object(
            int(info["size"]), str(info.get("crc32c") or info.get("ETag") or info.get("etag") or "")
        )
        for name, info in found.items()
    }


def crc32c(path: Path) -> str:
    """A file's CRC32C, as Google's store writes it: big-endian, in base64."""
    import google_crc32c  # comes with gcsfs

    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            checksum.update(chunk)
    return base64.b64encode(checksum.digest()).decode()


def is_copy(path: Path, remote: epath.Path, wanted: Object) -> bool:
    """Whether a local file has the size and, where the store gives one, the checksum of an object."""
    if not path.is_file() or path.stat().st_size != wanted.size:
        return False
    return not str(remote).startswith("gs://") or crc32c(path) == wanted.checksum


def download(remote: epath.Path, local: Path, wanted: Object | None = None) -> None:
    """Copies an object to a local file, all of it or nothing. Raises UserError where it is not what was `wanted`."""
    unfinished = local.with_name(f".{local.name}.{os.getpid()}.tmp")
    try:
        with store_errors_in_one_line(remote):
            local.parent.mkdir(parents=True, exist_ok=True)
            filesystem(remote).get_file(str(remote), str(unfinished))
        if wanted and not is_copy(unfinished, remote, wanted):
            raise UserError(f"{remote}: what arrived has another size or checksum than the store names: start again")
        os.replace(unfinished, local)
    finally:
        unfinished.unlink(missing_ok=True)


def upload(local: Path, remote: epath.Path) -> None:
    """Copies a local file to an object, which appears when all of it is there. Raises UserError where that fails."""
    with store_errors_in_one_line(remote):
        filesystem(remote).put_file(str(local), str(remote))


def upload_tree(local: Path, remote: epath.Path) -> None:
    """Copies all files below a folder, those directly in it last. Raises UserError where that fails."""
    files = [path for path in local.rglob("*") if path.is_file()]
    for directly in (False, True):
        chosen = [path for path in files if (path.parent == local) == directly]
        for _ in at_once(lambda path: upload(path, remote / path.relative_to(local).as_posix()), chosen):
            pass


def at_once(function: Callable, items: Iterable) -> Iterator:
    """The items, each when `function` of it has returned, several at a time; the first error ends it."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {pool.submit(function, item): item for item in items}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        finally:
            pool.shutdown(cancel_futures=True)


def with_progress(title: str, sizes: dict[str, int], done: Iterable[str]) -> None:
    """Takes the names of `done` one by one, and shows how many of their bytes are through."""
    with tqdm(total=sum(sizes.values()), desc=title, unit="B", unit_scale=True, mininterval=0.5) as bar:
        for name in done:
            bar.update(sizes[name])


def copy_objects(remote: epath.Path, objects: dict[str, Object], local: Path) -> None:
    """Makes `local` hold exactly these objects, each verified; those that are there already are left alone."""
    missing = sorted(name for name in objects if not is_known(local, name, objects[name], remote))
    sizes = {name: objects[name].size for name in missing}
    free = shutil.disk_usage(local).free
    if sum(sizes.values()) > free:
        need = f"{sum(sizes.values()) / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free"
        raise UserError(f"{local}: no room for a copy of {remote} ({need}): config.cache_dir takes another folder")
    if missing:
        fetched = at_once(lambda n: download(remote / n, local / n, objects[n]), missing)
        with_progress(f"copying {remote} to {local}", sizes, fetched)
    for path in local.rglob("*"):
        if path.is_file() and path.name not in (RECORD, ".lock") and str(path.relative_to(local)) not in objects:
            path.unlink()
    record(local, objects)


def record(local: Path, objects: dict[str, Object]) -> None:
    """Notes that the files of `local` are verified copies of these objects."""
    kept = {name: [*found, (local / name).stat().st_mtime_ns] for name, found in objects.items()}
    (local / RECORD).write_text(json.dumps(kept))


def is_known(local: Path, name: str, wanted: Object, remote: epath.Path) -> bool:
    """Whether a local file is a copy of an object: by the record while nobody has touched it, else by its bytes."""
    path = local / name
    if not path.is_file():
        return False
    try:
        known = json.loads((local / RECORD).read_text()).get(name)
    except (FileNotFoundError, json.JSONDecodeError):  # a copy that was killed
        known = None
    stat = path.stat()
    if known == [*wanted, stat.st_mtime_ns] and stat.st_size == wanted.size:
        return True
    return bool(wanted.checksum) and str(remote).startswith("gs://") and is_copy(path, remote, wanted)


@contextlib.contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Makes a folder, and holds it for this process; waits while another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it when the process dies
        yield
