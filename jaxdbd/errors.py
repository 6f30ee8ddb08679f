"""Mistakes that the user can mend: the one exception for them, and two checks that every part of the package makes."""

import os
from typing import Any

LFS_START = b"version https://git-lfs.github.com/spec/"


class UserError(Exception):
    """A mistake in what the user gave: a path, a file, a field. The message is one line: what, where, what to do.

    Entry points print it as `error: <message>` and exit with status 1; anything else is a fault of ours and shows
    its traceback.
    """


def is_within(value: Any, interval: str) -> bool:
    """Whether a value is a number of an interval such as "[0, 1)", which has 0 in it, and not 1. NaN is in none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval.startswith("[") else value > low
    return above and (value <= high if interval.endswith("]") else value < high)


def check_within(name: str, value: Any, interval: str) -> None:
    """Raises UserError that begins with `name` where a number, or one of several, is not in an interval."""
    numbers = value if isinstance(value, tuple | list) else (value,)
    for number in numbers:
        if not is_within(number, interval):
            whole = f"{value}: " if len(numbers) > 1 else ""
            raise UserError(f"{name}: {whole}{number!r} is not in {interval}")


def refuse_lfs_pointer(path: str | os.PathLike, content: bytes) -> None:
    """Raises UserError where `content`, a file's bytes or the first of them, is a pointer of Git LFS.

    A pointer lies in the place of the file where a repository was cloned without its large files.
    """
    if content.startswith(LFS_START):
        raise UserError(f"{os.fspath(path)}: a pointer of Git LFS in place of the file: fetch that with `git lfs pull`")
