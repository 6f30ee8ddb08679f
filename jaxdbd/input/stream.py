"""Which photograph row n of a run shows: a pure function of (seed, n), without a state that could be lost.

So a run may stop after any row and go on with another batch size, on other devices, or in other processes: every row
is seen once, in the same order.
"""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

FINEST = 1000  # shares of a mixture are taken as fractions whose denominators are at most this


class Stream(NamedTuple):
    """The order of all rows of a run over the photographs of several parts, numbered through from part to part."""

    counts: tuple[int, ...]  # photographs of each part
    pattern: Int32[np.ndarray, " period"]  # the part that a row takes its photograph from, over and over
    rank: Int32[np.ndarray, " period"]  # how many rows of the same part precede it in the pattern
    seed: int


def make_stream(counts: Sequence[int], shares: Sequence[float] | None, seed: int) -> Stream:
    """The stream over parts of so many photographs.

    Args:
      counts: photographs of each part.
      shares: of each part among the rows, in any unit. They are kept exactly: after n rows each part has had its share
        of them, give or take one row. None: all photographs are one pool.
      seed: another seed gives another order.
    """
    if shares is None:
        counts, shares = [sum(counts)], [1.0]
    pattern = share_pattern(shares)
    rank = np.zeros_like(pattern)
    for part in range(len(counts)):
        rank[pattern == part] = np.arange((pattern == part).sum())
    return Stream(tuple(counts), pattern, rank, seed)


def share_pattern(shares: Sequence[float]) -> Int32[np.ndarray, " period"]:
    """The shortest sequence of parts that holds the shares exactly, each part spread as evenly as it can be."""
    fractions = [Fraction(share).limit_denominator(FINEST) for share in shares]
    fractions = [fraction / sum(fractions) for fraction in fractions]
    period = math.lcm(*(fraction.denominator for fraction in fractions))
    pattern, taken = np.empty(period, np.int32), [0] * len(fractions)
    for i in range(period):
        # The part that is farthest behind what it should have had by now.
        part = max(range(len(fractions)), key=lambda p: fractions[p] * (i + 1) - taken[p])
        pattern[i] = part
        taken[part] += 1
    return pattern


def photographs_of(stream: Stream, rows: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
    """The number of the photograph that each row shows.

    Every part is gone through in another random order each time, all of its photographs before any comes again.
    """
    cycle, place = np.divmod(rows, len(stream.pattern))
    parts = stream.pattern[place]
    found = np.empty(len(rows), np.int32)
    first = 0
    for part, count in enumerate(stream.counts):
        mine = parts == part
        # How many rows of this part come before each of these.
        before = cycle[mine] * int((stream.pattern == part).sum()) + stream.rank[place[mine]]
        passes, places = np.divmod(before, count)
        found[mine] = [first + order(stream.seed, part, int(p), count)[i] for p, i in zip(passes, places, strict=True)]
        first += count
    return found


@functools.lru_cache(maxsize=16)
def order(seed: int, part: int, number: int, count: int) -> Int64[np.ndarray, " count"]:
    """The order in which a part's photographs are taken in its pass of this number."""
    return np.random.default_rng((seed, part, number)).permutation(count)
