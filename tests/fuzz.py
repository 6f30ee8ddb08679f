"""Damaged files through everything that reads files: only results and UserErrors may come out, in bounded time.

    PYTHONPATH=. python tests/fuzz.py [--count=2000] [--seed=0]

Whole files of every kind are damaged at random, `count` pictures and `count` weights files, and read by the public
functions in a process of its own. Prints how many were read and how many refused, the longest time and the most memory.
Anything else is shown with its number, from which `damaged` makes the same bytes again, and the status is 1.
"""

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import samples

from jaxdbd.errors import UserError
from jaxdbd.machine.parallel import most_resident

SECONDS, BYTES = 60, 2 << 30  # for one file, and for the process that reads
EDGES = (0x00, 0x01, 0x7F, 0x80, 0xFF)
HEADER = 256  # bytes, in which half of the damage falls: most of what decides lies there


class Outcome(NamedTuple):
    """What came of one damaged file."""

    number: int
    name: str  # of the whole file
    result: str  # read, refused, or what went wrong
    seconds: float
    peak: int  # bytes, of the process so far


def damaged(files: dict[str, bytes], number: int, seed: int = 0) -> tuple[str, bytes]:
    """The name of a whole file and its content with up to eight faults: the same number gives the same bytes."""
    rng = np.random.default_rng((seed, number))
    name = sorted(files)[number % len(files)]
    content = bytearray(files[name])
    for _ in range(int(rng.choice([1, 1, 2, 4, 8]))):
        if not content:
            break
        end = min(HEADER, len(content)) if rng.random() < 0.5 else len(content)
        at, length = int(rng.integers(end)), int(rng.choice([1, 2, 4, 16]))
        kind = rng.integers(6)
        if kind == 0:
            content[at] = int(rng.integers(256))
        elif kind == 1:
            content[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:  # numbers at the ends of their ranges
            content[at : at + length] = bytes([int(rng.choice(EDGES))]) * min(length, len(content) - at)
        elif kind == 3:
            del content[at : at + length]
        elif kind == 4:
            content[at:at] = content[at : at + 16 * length]
        elif rng.random() < 0.3:
            del content[at:]
    return name, bytes(content)


def read_picture(path: Path) -> None:
    """Reads a file as photograph, mask, map and record of a dataset; each may refuse it."""
    from data.sources import load_photograph
    from jaxdbd.photographs.masks import read_map, read_mask
    from jaxdbd.photographs.photos import read_photograph

    _each(path, read_photograph, load_photograph, read_mask, read_map)


def read_weights(path: Path) -> None:
    """Reads a file as tensors, as notes and as a network; each may refuse it."""
    from jaxdbd import weights

    _each(path, weights.read_tensors, weights.read_metadata, weights.load)


def _each(path: Path, *readers) -> None:
    """Raises the first UserError, after all readers had their turn."""
    errors = []
    for read in readers:
        try:
            read(path)
        except UserError as error:
            errors.append(error)
            if "\n" in str(error):
                raise RuntimeError(f"an error of several lines: {error!r}") from error
    if len(errors) == len(readers):
        raise errors[0]


KINDS = {"pictures": (samples.pictures, read_picture), "weights": (samples.weights_files, read_weights)}


def child(kind: str, numbers: Sequence[int], seed: int, send: Connection) -> None:
    """Reads one damaged file after another and sends an `Outcome` of each."""
    make, read = KINDS[kind]
    files = make()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():  # what is imported and traced once does not count
            whole = Path(folder) / name
            whole.write_bytes(content)
            with contextlib.suppress(UserError):
                read(whole)
        send.send(None)
        for number in numbers:
            name, content = damaged(files, number, seed)
            path = Path(folder) / f"damaged{Path(name).suffix}"
            path.write_bytes(content)
            began = time.monotonic()
            try:
                read(path)
                result = "read"
            except UserError:
                result = "refused"
            except BaseException as error:
                result = f"{type(error).__name__}: {error}"
            send.send(Outcome(number, name, result, time.monotonic() - began, most_resident()))


def run(kind: str, count: int, seed: int = 0) -> list[Outcome]:
    """The outcomes of `count` damaged files; a process that crashes or hangs is an outcome, and another goes on."""
    context, outcomes = multiprocessing.get_context("spawn"), []
    while len(outcomes) < count:
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(kind, range(len(outcomes), count), seed, send))
        process.start()
        send.close()
        try:
            receive.recv()
            while len(outcomes) < count:
                if not receive.poll(SECONDS):
                    raise TimeoutError
                outcomes.append(receive.recv())
        except (EOFError, TimeoutError) as error:
            process.kill()
            process.join()
            what = f"over {SECONDS} s" if isinstance(error, TimeoutError) else f"crashed ({process.exitcode})"
            name, _ = damaged(KINDS[kind][0](), len(outcomes), seed)
            outcomes.append(Outcome(len(outcomes), name, what, SECONDS, 0))
        process.join()
    return outcomes


def faults(outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each outcome that is neither read nor refused, or took too much memory."""
    odd = [o for o in outcomes if o.result not in ("read", "refused") or o.peak > BYTES]
    return [f"number {o.number}, {o.name}: {o.result}, {o.seconds:.1f} s, {o.peak / 1e9:.2f} GB" for o in odd]


def main() -> int:
    """Damages and reads; returns 1 where anything but results and refusals came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="pictures, and as many weights files (2000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other damage (0)")
    args = parser.parse_args()
    failed = []
    for kind in KINDS:
        outcomes = run(kind, args.count, args.seed)
        for suffix, group in sorted(Counter(Path(o.name).suffix for o in outcomes).items()):
            results = Counter(o.result for o in outcomes if o.name.endswith(suffix))
            print(f"{kind} {suffix}: {group} damaged, {results['read']} read, {results['refused']} refused")
        slowest, most = max(o.seconds for o in outcomes), max(o.peak for o in outcomes)
        print(f"{kind}: longest {slowest:.2f} s, at most {most / 1e9:.2f} GB", flush=True)
        failed += [f"{kind}, {line}" for line in faults(outcomes)]
    print("\n".join(failed) or "nothing but results and refusals")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
