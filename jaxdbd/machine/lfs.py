"""Pointers of Git LFS: what lies in a file's place where a repository was cloned without its large files."""

import os

from jaxdbd.errors import UserError

START = b"version https://git-lfs.github.com/spec/"


def refuse_lfs_pointer(path: str | os.PathLike, content: bytes) -> None:
    """Raises UserError where a file is a pointer, by the bytes that it holds, or those it begins with."""
    if content.startswith(START):
        raise UserError(f"{os.fspath(path)}: a pointer of Git LFS in place of the file: fetch that with `git lfs pull`")
