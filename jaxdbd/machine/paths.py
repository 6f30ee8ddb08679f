"""The paths that users name: local ones and those of object stores in one type, and what a store says in one line.

`gs://bucket/name` is an object. A store has no folders: an object appears when all of it has arrived, and a folder is
what the names of objects begin with. Everything else in the package goes through this module and `files`, which writes,
so that nothing makes a local folder named `gs:`.
"""

import asyncio
import contextlib
import importlib.util
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec.config
from etils import epath

from jaxdbd.errors import UserError

# What epath reads through fsspec: the module under it, and what pip installs it with.
LIBRARIES = {"gs": ("gcsfs", "'jaxdbd[gcs]'"), "s3": ("s3fs", "s3fs"), "az": ("adlfs", "adlfs")}
# Two letters at least, as C:/ is a drive. One slash is what pathlib leaves of two.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")


def as_path(path: str | os.PathLike) -> epath.Path:
    """A path as a user named it, local or of an object store, in the one type that has both; `~` is the home folder.

    Raises UserError for a scheme that nothing here can read, one whose library is not installed, and no bucket.
    """
    text = os.fspath(path)
    found = _SCHEME.match(text)
    if not found:
        return epath.Path(_expanded(text))
    scheme, name = found[1], text[found.end() :]
    if scheme not in LIBRARIES or not text.startswith(f"{scheme}://"):
        known = ", ".join(f"{s}://BUCKET/NAME" for s in LIBRARIES)
        raise UserError(f"{text}: not a path that can be read here: give a local one, or {known}")
    module, package = LIBRARIES[scheme]
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{text}: {scheme}:// needs a package that is not installed: pip install {package}")
    if not name or text.startswith(f"{scheme}:///"):
        raise UserError(f"{text}: names no bucket: {scheme}://BUCKET/NAME")
    _settle(scheme, module)
    return epath.Path(text)


def _settle(scheme: str, module: str) -> None:
    """Sets up a store's library, for Orbax and epath too; it counts for what is opened afterwards."""
    logging.getLogger(module).setLevel(logging.CRITICAL)  # it shows a traceback of what we say in one line
    # Listings that a process keeps for ever would hide what other hosts write.
    fsspec.config.conf.setdefault("gcs" if scheme == "gs" else scheme, {})["use_listings_cache"] = False


def local_path(path: str | os.PathLike) -> Path:
    """A path that has to be local, as a user named it; `~` is the home folder.

    Raises UserError for one of a store, or of another scheme.
    """
    if _SCHEME.match(os.fspath(path)):
        raise UserError(f"{os.fspath(path)}: only a local path will do here: copy to or from the store yourself")
    return Path(_expanded(os.fspath(path)))


def _expanded(text: str) -> str:
    """A path with the home folder in place of `~` or `~NAME`, which no shell has done in `--flag=~/x`."""
    path = os.path.expanduser(text)
    if path == "~" or path.startswith("~/"):
        raise UserError(f"{text}: this user has no home folder: write the path out")
    return path


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path of `as_path` lies in an object store."""
    return "://" in os.fspath(path)


def cache_folder(chosen: str = "") -> Path:
    """The local folder for copies of what lies in stores: `chosen`, or `home_cache`, or one of this user in TMPDIR."""
    if chosen:
        return local_path(chosen)
    return home_cache() or Path(tempfile.gettempdir()) / f"jaxdbd-{os.getuid()}"


def home_cache() -> Path | None:
    """jaxdbd's folder in the user's cache folder; None for a user without a home, as containers run programs."""
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return None if folder.startswith("~") else Path(folder) / "jaxdbd"


def mirror(cache: Path, kind: str, remote: epath.Path) -> Path:
    """Where the cache keeps the copy of something in a store: gs://b/x of kind 'data' is <cache>/data/gs/b/x."""
    return cache.joinpath(kind, *os.fspath(remote).replace("://", "/", 1).split("/"))


def filesystem(path: epath.Path):
    """The fsspec file system of a path in a store."""
    return fsspec.filesystem(os.fspath(path).partition("://")[0])


@contextlib.contextmanager
def store_errors_in_one_line(path: str | os.PathLike) -> Iterator[None]:
    """Within, what a store or the way to it refuses becomes a UserError that names `path` and the reason.

    Errors of the local disk stay what they are.
    """
    try:
        yield
    except Exception as error:
        if not (isinstance(error, FileNotFoundError) and not error.errno) and not is_store_error(error):
            raise
        raise UserError(f"{os.fspath(path)}: {_reason(error)}") from error


def is_store_error(error: BaseException) -> bool:
    """Whether an error says that a store refuses or is out of reach; not that something is missing there or here."""
    if isinstance(error, OSError) and not {"ClientError", "ConnectionError"} & _kinds(error):
        return not error.errno and not isinstance(error, FileNotFoundError)
    # Of the libraries that are loaded; one that is not has raised nothing.
    names = {
        "aiohttp": "ClientError",
        "gcsfs.retry": "HttpError",
        "google.auth.exceptions": "GoogleAuthError",
        "botocore.exceptions": "BotoCoreError",
        "azure.core.exceptions": "AzureError",
    }
    loaded = [getattr(sys.modules[module], name) for module, name in names.items() if module in sys.modules]
    return isinstance(error, (OSError, asyncio.TimeoutError, *loaded))


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[-1] if lines else type(error).__name__
    code = getattr(error, "code", None)
    if str(code) in ("401", "403") or "Forbidden" in str(error) or "GoogleAuthError" in _kinds(error):
        return f"the store refuses it ({said}): see whether you are signed in and may read and write there"
    if isinstance(error, FileNotFoundError):
        return "the store has no such bucket, or nothing there"
    return f"the store cannot be reached, or does not answer as it should ({said}): try again later"


def _kinds(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
