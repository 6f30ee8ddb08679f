"""`map` over all cores of this machine; Beam does the same over many machines."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

from tqdm import tqdm

# Choice of ours: starting the processes takes about as long as doing this many photographs in this one.
WORTHWHILE = 64


def parallel_map(function: Callable, items: list, title: str) -> Iterator:
    """`map` on a process per core, in order, with a bounded number of results waiting and a progress bar."""
    with tqdm(total=len(items), desc=title, unit=" images", mininterval=0.5) as bar:
        for result in map(function, items) if len(items) < WORTHWHILE else _results(function, items):
            yield result
            bar.update()


def _results(function: Callable, items: list) -> Iterator:
    workers = os.cpu_count() or 1
    # Spawned, since forking a process in which TFDS and ONNX Runtime run threads can hang.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 8 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
