"""Files: written whole or not at all, errors of the operating system in one line, lists of names, and stems."""

import contextlib
import errno
import os
import re
import secrets
import tempfile
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from jaxdbd.errors import UserError, refuse_lfs_pointer
from jaxdbd.machine.paths import as_path, filesystem, is_remote, store_errors_in_one_line
from jaxdbd.machine.transfer import download, upload_tree

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, and run it again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "change who may read or write it"),
    errno.EROFS: "choose another folder",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.EISDIR: "a folder is there; give a file",
    errno.ENOTDIR: "a file is there; give a folder",
    errno.ELOOP: "its links lead to each other; replace them",
}


def os_error(error: OSError, path: str | os.PathLike | None = None, what: str = "failed") -> UserError:
    """An error of the operating system as a UserError: the path, `what` failed, the system's reason, a remedy.

    Without `path` it names the one that the error itself holds; an error in the middle of writing holds none.
    """
    path = error.filename if path is None else path
    where = f"{shown(path)}: " if isinstance(path, str | bytes | os.PathLike) else ""
    reason = error.strerror or shown(str(error)) or type(error).__name__
    if error.errno == errno.ENOENT and path is not None and where and os.path.islink(path):
        reason = f"a link to {shown(os.readlink(path))}, which is not there"
    remedy = REMEDIES.get(error.errno or 0)
    return UserError(f"{where}{what}: {reason}" + (f" ({remedy})" if remedy else ""))


@contextlib.contextmanager
def os_errors_in_one_line(path: str | os.PathLike, what: str = "cannot be written") -> Iterator[None]:
    """Within, an OSError becomes a UserError that names `path`, says `what` failed, and why."""
    try:
        yield
    except OSError as error:
        raise os_error(error, path, what) from error


def refusal(error: BaseException) -> str | None:
    """The one line for an error that the user can mend, and None for one of ours.

    Those are a UserError, what the operating system refused, and what a library says of that in its own words.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return str(os_error(error))
    chain = [error]
    while before := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(before)
    for each in chain:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            if os.strerror(number) in str(each):
                paths = re.findall(r"/[^\s\"';:,]+", str(each))
                return str(os_error(OSError(number, os.strerror(number)), paths[-1] if paths else None))
    return None


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or the one it was raised from, says that nothing more can be written."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error is not None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def shown(name: str | bytes | os.PathLike) -> str:
    """A name as one line that any terminal prints: bytes that are not UTF-8, and control characters, as `\\xe9`."""
    text = os.fsdecode(name)
    return "".join(c if c.isprintable() else ascii(c)[1:-1].replace("\\udc", "\\x") for c in text)


def shown_apart(one: str | os.PathLike, other: str | os.PathLike) -> tuple[str, str]:
    """Two different names; where they look the same, with the characters in which they differ written out."""
    names = shown(one), shown(other)
    if unicodedata.normalize("NFC", names[0]) == unicodedata.normalize("NFC", names[1]):
        return ascii(names[0])[1:-1], ascii(names[1])[1:-1]
    return names


def is_utf8(name: str | os.PathLike) -> bool:
    """Whether a file's name is text: on disk it may be any bytes."""
    return not any("\udc80" <= c <= "\udcff" for c in os.fspath(name))


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a local path to write to; it takes the place of `path` at the end, and is gone after an error.

    Makes the folder. A link stays, and what it leads to is replaced; into a pipe or device all is written at the end.
    Raises UserError where the operating system, or the store that `path` lies in, refuses.
    """
    path = as_path(path)
    if is_remote(path) or is_stream(path):
        with os_errors_in_one_line(path), tempfile.TemporaryDirectory() as folder:
            unfinished = Path(folder) / path.name
            yield unfinished
            content = unfinished.read_bytes()
            write_whole(path, content) if is_remote(path) else Path(path).write_bytes(content)
        return
    path = Path(path)
    with os_errors_in_one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        place = Path(os.path.realpath(path)) if path.is_symlink() else path
        unfinished = place.with_name(f".{secrets.token_hex(8)}.tmp")  # short: the name itself may be as long as can be
        try:
            yield unfinished
            os.replace(unfinished, place)
        finally:
            unfinished.unlink(missing_ok=True)


def is_stream(path: str | os.PathLike) -> bool:
    """Whether a pipe or a device is there, such as /dev/stdout, which a file must not take the place of."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def write_whole(path: str | os.PathLike, content: bytes | memoryview | str) -> None:
    """Writes all of a file or nothing; text as UTF-8. Makes the folder. Raises UserError where that fails."""
    path = as_path(path)
    if isinstance(content, str):
        # A file's name that is not UTF-8 goes into a table as the bytes that it has on disk.
        content = content.encode("utf-8", "surrogateescape")
    if is_remote(path):
        with store_errors_in_one_line(path):
            filesystem(path).pipe_file(str(path), bytes(content))  # nobody sees an object before all of it is there
        return
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content)


def check_no_folder(*paths: os.PathLike | None) -> None:
    """Raises UserError where a folder lies in the place of a file that is to be written in the end."""
    for path in paths:
        if path is not None and os.path.isdir(path):
            raise os_error(IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)), path, "cannot be written")


def make_folder(folder: str | os.PathLike) -> None:
    """Makes a folder and those above it; a store has none to make. Raises UserError where that fails."""
    if not is_remote(folder := as_path(folder)):
        with os_errors_in_one_line(folder, "cannot be made a folder"):
            Path(folder).mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def local_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a local path to read: `path` itself, or a temporary copy of what lies in a store."""
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
    probe = as_path(folder) / f".writable.{secrets.token_hex(16)}"  # other hosts probe too
    write_whole(probe, "")
    with store_errors_in_one_line(folder):
        filesystem(probe).rm_file(str(probe))


def is_file(path: str | os.PathLike) -> bool:
    """Whether there is such a file. Where a store refuses it raises, and does not say no as `exists` does."""
    path = as_path(path)
    if not is_remote(path):
        return os.path.isfile(path)
    with store_errors_in_one_line(path):
        try:
            return filesystem(path).info(str(path))["type"] == "file"
        except FileNotFoundError:
            return False


def read_bytes(path: Path, what: str = "cannot be read") -> bytes:
    """All of a local file. Raises UserError, which says `what` failed, and for a pointer of Git LFS."""
    with os_errors_in_one_line(path, what):
        content = path.read_bytes()
    refuse_lfs_pointer(path, content)
    return content


def read_text(path: str | os.PathLike) -> str:
    """A text file, UTF-8 with or without a byte order mark. Raises UserError where it cannot be read."""
    path = as_path(path)
    if is_remote(path):
        with store_errors_in_one_line(path):
            content = filesystem(path).cat_file(str(path))
        refuse_lfs_pointer(path, content)
    else:
        content = read_bytes(Path(path))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown(path)}: not a text in UTF-8 (byte {error.start} is 0x{content[error.start]:02x})"
        ) from None


def stem_key(name: str, suffixes: Collection[str]) -> str:
    """What two files of one photograph share: the name without folder and suffix, letter case aside.

    Only one of `suffixes` (in lower case, with the dot) counts as a suffix: `IMG_2024.01.01` is a stem. An accented
    letter is the same whether its name has it as one character (NFC) or as two (NFD).
    """
    path = Path(name)
    return name_key(path.stem if path.suffix.lower() in suffixes else path.name)


def name_key(name: str) -> str:
    """A name in the one form in which names are compared: letter case and Unicode's ways of writing it aside."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def is_photograph_in_folder(path: Path, suffixes: Collection[str]) -> bool:
    """Whether a folder's entry is to be read: by suffix, not hidden, and a file or a link that leads nowhere."""
    if path.suffix.lower() not in suffixes or path.name.startswith("."):
        return False
    return os.path.isfile(path) or not os.path.exists(path)  # whoever reads the latter will say what is wrong


def files_by_stem(
    folder: Path, suffixes: Collection[str], skip: str | None = None
) -> tuple[dict[str, Path], list[tuple[Path, Path]]]:
    """The files of a folder with one of `suffixes`, by `stem_key`, and the pairs of files that share one.

    Of such a pair the first is in the dict. Hidden files are left out, and those that fit the pattern `skip`. A link
    that leads nowhere is among them. Raises UserError for a folder that cannot be read.
    """
    found: dict[str, Path] = {}
    twice = []
    with os_errors_in_one_line(folder, "this folder cannot be read"):
        entries = sorted(folder.iterdir())
    for path in entries:
        if not is_photograph_in_folder(path, suffixes) or (skip and path.match(skip)):
            continue
        if (other := found.setdefault(stem_key(path.name, suffixes), path)) != path:
            twice.append((other, path))
    return found, twice


def read_names(path: Path, suffixes: Collection[str]) -> dict[str, str]:
    """A text file with one name a line, with or without suffix: `stem_key` to the name as it is written.

    UTF-8 or UTF-16, with or without a byte order mark. Folders before a name do not count, with slashes or backslashes.
    Raises UserError for a list that cannot be read, is in another encoding, or is empty.
    """
    if not os.path.lexists(path):
        raise UserError(f"no list of names {shown(path)}: give a text file with one photograph's name a line")
    content = read_bytes(path, "this list of names cannot be read")
    lines = [line.strip() for line in _decoded(path, content).splitlines()]
    names = {stem_key(line.replace("\\", "/"), suffixes): line for line in lines if line}
    if not names:
        raise UserError(f"{shown(path)}: this list of names is empty; give one photograph's name a line")
    return names


def _decoded(path: Path, content: bytes) -> str:
    encoding = "utf-8-sig"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in content:  # no name holds one: UTF-16 without its mark, of names that are mostly ASCII
        encoding = "utf-16-le" if content[1::2].count(0) >= content[::2].count(0) else "utf-16-be"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line, byte = content[: error.start].count(b"\n") + 1, content[error.start]
        raise UserError(
            f"{shown(path)}: line {line} of this list of names is neither UTF-8 nor UTF-16 (byte 0x{byte:02x}): "
            "save it as UTF-8"
        ) from None
