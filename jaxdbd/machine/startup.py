"""What a command settles before it starts: where memory comes from, and where compiled programs are kept."""

import contextlib
import ctypes
import importlib.util
import io
import logging
import os
import signal
import stat
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, cast

import jax

from jaxdbd.machine.files import refusal
from jaxdbd.machine.paths import home_cache

# Options of glibc's malloc, and our values: nothing that is freed goes back to the kernel, all comes from the heap, and
# there is one heap, as those of further threads are small.
MALLOC_OPTIONS = {"M_TRIM_THRESHOLD": (-1, -1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}


def keep_memory() -> None:
    """Lets this process keep memory that it has freed, where the C library can (glibc).

    XLA asks for its buffers anew in every call, and the kernel fills them with zeros page by page: on a CPU that is a
    third of a training step, and a sixth of VGG's forward pass (docs/performance.md). Call it before there are threads.
    Does nothing where programs are for an accelerator, or where GLIBC_TUNABLES already says something of malloc.
    """
    if not runs_on_cpu():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt and "glibc.malloc" not in os.environ.get("GLIBC_TUNABLES", ""):
        for option, value in MALLOC_OPTIONS.values():
            mallopt(option, value)


def runs_on_cpu() -> bool:
    """Whether JAX's programs will be for the CPU, as far as can be told without waking its devices.

    They are where JAX_PLATFORMS says so, or nothing that knows another kind of device is installed.
    """
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms.split(",")[0] == "cpu"
    return not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))


def keep_compiled_programs() -> None:
    """Lets JAX keep what it compiles in the user's cache folder, unless it was told of another (docs/performance.md).

    Does nothing where that folder cannot be written to, or there is none, as for users without a home.
    """
    # JAX makes the attributes of its config at run time, where no type checker sees them.
    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return
    cache = home_cache()
    if cache is None:  # another user could leave programs for us in a folder that all share
        return
    folder = cache / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))


def exit_status(command: Callable[[], int | None], debug: bool = False) -> int:
    """Runs a command: what the user can mend is one line on stderr and status 1, Ctrl-C is 130. Errors of ours rise.

    With `debug` the line follows the traceback that it stands for. Whatever is printed meanwhile, the terminal can show
    it: file names may be any bytes.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # what stands in for a stream may not have it
            cast(io.TextIOWrapper, stream).reconfigure(errors="backslashreplace")
    threading.excepthook = _thread_error
    sys.unraisablehook = _callback_error
    logging.getLogger("asyncio").addFilter(_is_ours)
    warnings.filterwarnings("ignore", module="PIL")  # of odd metadata, in words that name no file
    try:
        return command() or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        line = refusal(error)
        if line is None:
            raise
        if debug:
            traceback.print_exc()
        print(f"error: {line}", file=sys.stderr)
        return 1


def _is_ours(record: logging.LogRecord) -> bool:
    """False for what the system refuses: Orbax writes many arrays at once, and would log each on a full disk."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or refusal(error) is None


def leave(status: int) -> NoReturn:
    """Ends this program; after an error at once.

    Libraries still hold what the disk did not take: at an orderly end they would try again, and print tracebacks.
    """
    if status == 1:
        end(status)
    sys.exit(status)


def end(status: int) -> NoReturn:
    """Ends this program at once, whatever other threads of it are at."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextlib.contextmanager
def handled(numbers: Iterable[int], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Within, `handler` hears of these signals; afterwards whoever heard of them before."""
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def is_heard(number: int) -> bool:
    """Whether a signal is not ignored, as a hang-up is under nohup."""
    return signal.getsignal(number) != signal.SIG_IGN


def leave_terminal() -> None:
    """Prints to nowhere from now on: after a hang-up the terminal takes nothing, and printing would fail."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # what stands in for a stream may have no number
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):  # a terminal that has gone says that it is none
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def _callback_error(unraisable: Any) -> None:
    """Errors of TensorStore's callbacks: of arrays that it still wrote when the first of them had failed."""
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)


def _thread_error(args: threading.ExceptHookArgs) -> None:
    """Prints one line for what the system refuses to a library's own thread, such as TensorBoard's."""
    line = refusal(args.exc_value) if args.exc_value else None
    if line is None:
        threading.__excepthook__(args)
    else:
        print(f"warning: {line}", file=sys.stderr)
