"""Files: written whole or not at all, errors of the operating system in one line, lists of names, and stems."""

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from jaxdbd.errors import UserError


@contextlib.contextmanager
def os_errors_in_one_line(path: Path, what: str = "cannot be written") -> Iterator[None]:
    """Within, an OSError becomes a UserError that names `path`, says `what` failed, and why."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {what}: {error.strerror or error}") from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to, beside `path`; it takes the place of `path` at the end, and is gone after an error.

    Makes the folder. Raises UserError where the operating system refuses.
    """
    with os_errors_in_one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            yield unfinished
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | memoryview | str) -> None:
    """Writes all of a file or nothing; text as UTF-8. Makes the folder. Raises UserError where that fails."""
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it. Raises UserError where that fails."""
    with os_errors_in_one_line(folder, "cannot be made a folder"):
        folder.mkdir(parents=True, exist_ok=True)


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
