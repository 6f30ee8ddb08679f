"""Work on all cores of this machine, with bounded memory: few results waiting, large pictures in turn and in strips."""

import contextlib
import multiprocessing
import os
import resource
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
from tqdm import tqdm

# Choice of ours: starting the processes takes about as long as doing this many photographs in this one.
WORTHWHILE = 64
STRIP = 2**22  # pixels
LARGE = 12_000_000  # pixels, choice of ours: a few larger photographs at once would fill the memory

_turn = threading.RLock()  # in the processes of a pool, one that they share


def strips_of(array: np.ndarray) -> Iterator[slice]:
    """The rows of an image in strips of about STRIP pixels, for steps that would otherwise copy all of a large one."""
    rows = max(1, STRIP // array.shape[1])
    for top in range(0, len(array), rows):
        yield slice(top, min(top + rows, len(array)))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_resident() -> int:
    """The most bytes of this process that have been in memory at once."""
    with contextlib.suppress(OSError):
        # getrusage starts from the peak of the program that started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def worker_pool() -> ProcessPoolExecutor:
    """A process per core. Spawned, since threads of JAX, TFDS and ONNX Runtime do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(cores(), mp_context=context, initializer=_share, initargs=(context.RLock(),))


def _share(turn) -> None:
    global _turn
    _turn = turn


@contextlib.contextmanager
def in_turn(pixels: int) -> Iterator[None]:
    """Within, no other thread of this process, nor another process of its pool, is at work on a large picture."""
    with _turn if pixels > LARGE else contextlib.nullcontext():
        yield


def ahead(
    pool: Executor,
    function: Callable,
    items: Iterable,
    count: int,
    weight: Callable[[Any], int] = lambda item: 0,
    most: int = 0,
) -> Iterator[tuple[Any, Future]]:
    """Each item with the future of function(item), in order. At most `count` of them are at work or done ahead.

    No further item is taken while those ahead have a total `weight` of more than `most`.
    """
    items, submitted, held, ended = iter(items), deque(), 0, False
    while True:
        while not ended and len(submitted) < count and held <= most:
            try:
                item = next(items)
            except StopIteration:
                ended = True
                break
            submitted.append((item, pool.submit(function, item)))
            held += weight(item)
        if not submitted:
            return
        item, future = submitted.popleft()
        yield item, future
        held -= weight(item)


def parallel_map(function: Callable, items: Iterable, title: str, total: int | None = None) -> Iterator:
    """`map` on a process per core, in order, with a progress bar; in this process where there are few items.

    `items` are taken one by one as there is work to give out. Give their number, `total`, where `len` does not know it.
    """
    if total is None:
        total = len(cast(Sized, items))
    few = total < WORTHWHILE
    with tqdm(total=total, desc=title, unit=" images", mininterval=0.5, disable=few) as bar:
        for result in map(function, items) if few else _on_workers(function, items):
            yield result
            bar.update()


def _on_workers(function: Callable, items: Iterable) -> Iterator:
    with worker_pool() as pool:
        for _, future in ahead(pool, function, items, 8 * cores()):
            yield future.result()
