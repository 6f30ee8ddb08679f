"""Files: written whole or not at all, errors of the operating system in one line, lists of names, and stems."""

import contextlib
import os
import tempfile
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from jaxdbd.errors import UserError
from jaxdbd.paths import as_path, filesystem, is_remote, store_errors_in_one_line
from jaxdbd.transfer import download, upload_tree


@contextlib.contextmanager
def os_errors_in_one_line(path: str | os.PathLike, what: str = "cannot be written") -> Iterator[None]:
    """Within, an OSError becomes a UserError that names `path`, says `what` failed, and why."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {what}: {error.strerror or error}") from error


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a local path to write to; it takes the place of `path` at the end, and is gone after an error.

    Makes the folder. Raises UserError where the operating system, or the store that `path` lies in, refuses.
    """
    path = as_path(path)
    if is_remote(path):
        with os_errors_in_one_line(path), tempfile.TemporaryDirectory() as folder:
            unfinished = Path(folder) / path.name
            yield unfinished
            write_whole(path, unfinished.read_bytes())
        return
    path = Path(path)
    with os_errors_in_one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            yield unfinished
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike, content: bytes | memoryview | str) -> None:
    """Writes all of a file or nothing; text as UTF-8. Makes the folder. Raises UserError where that fails."""
    path = as_path(path)
    content = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        with store_errors_in_one_line(path):
            filesystem(path).pipe_file(str(path), bytes(content))  # nobody sees an object before all of it is there
        return
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content)


def make_folder(folder: str | os.PathLike) -> None:
    """Makes a folder and those above it; a store has none to make. Raises UserError where that fails."""
    folder = as_path(folder)
    if is_remote(folder):
        return
    with os_errors_in_one_line(Path(folder), "cannot be made a folder"):
        Path(folder).mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def local_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a local path to read: `path` itself, or for as long as this lasts a copy of what lies in a store."""
    path = as_path(path)
    if not is_remote(path):
        yield Path(path)
        return
    with os_errors_in_one_line(path, "cannot be copied here"), tempfile.TemporaryDirectory() as folder:
        download(path, Path(folder) / path.name)
        yield Path(folder) / path.name


@contextlib.contextmanager
def output_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a local folder to write to: `path` itself, or one whose files are put into the store at the end."""
    path = as_path(path)
    if not is_remote(path):
        make_folder(path)
        yield Path(path)
        return
    check_writable(path)
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        upload_tree(Path(folder), path)


def check_writable(folder: str | os.PathLike) -> None:
    """Writes to a folder of a store, and deletes it again. Raises UserError where the store does not let us."""
    probe = as_path(folder) / f".writable.{uuid.uuid4().hex}"  # other hosts probe too
    write_whole(probe, "")
    with store_errors_in_one_line(folder):
        filesystem(probe).rm_file(str(probe))


def is_file(path: str | os.PathLike) -> bool:
    """Whether there is such a file. Unlike `exists` of a store's path, does not take a refusal for a no."""
    path = as_path(path)
    if not is_remote(path):
        return path.is_file()
    with store_errors_in_one_line(path):
        try:
            return filesystem(path).info(str(path))["type"] == "file"
        except FileNotFoundError:
            return False


def read_text(path: str | os.PathLike) -> str:
    """A text file, UTF-8. Raises UserError where it cannot be read."""
    path = as_path(path)
    if is_remote(path):
        with store_errors_in_one_line(path):
            return filesystem(path).cat_file(str(path)).decode()
    with os_errors_in_one_line(Path(path), "cannot be read"):
        return Path(path).read_text(encoding="utf-8")


def stem_key(name: str, suffixes: Collection[str]) -> str:
    """What two files of one photograph share: the name without folder and suffix, letter case aside.

    Only one of `suffixes` (in lower case, with the dot) counts as a suffix: `IMG_2024.01.01` is a stem.
    """
    path = Path(name)
    return (path.stem if path.suffix.lower() in suffixes else path.name).casefold()


def files_by_stem(
    folder: Path, suffixes: Collection[str], skip: str | None = None
) -> tuple[dict[str, Path], list[tuple[Path, Path]]]:
    """The files of a folder with one of `suffixes`, by `stem_key`, and the pairs of files that share one.

    Of such a pair the first is in the dict. Hidden files are left out, and those that fit the pattern `skip`.
    """
    found: dict[str, Path] = {}
    twice = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or (skip and path.match(skip)):
            continue
        other = found.setdefault(stem_key(path.name, suffixes), path)
        if other != path:
            twice.append((other, path))
    return found, twice


def read_names(path: Path, suffixes: Collection[str]) -> dict[str, str]:
    """A text file with one name a line, with or without suffix: `stem_key` to the name as it is written.

    Raises UserError for a list that cannot be read, or is empty.
    """
    if not path.is_file():
        raise UserError(f"no list of names {path}: give a text file with one photograph's name a line")
    with os_errors_in_one_line(path, "this list of names cannot be read"):
        lines = [line.strip() for line in path.read_text().splitlines()]
    names = {stem_key(line, suffixes): line for line in lines if line}
    if not names:
        raise UserError(f"{path}: this list of names is empty; give one photograph's name a line")
    return names
