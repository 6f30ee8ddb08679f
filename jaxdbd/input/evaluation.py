"""Batches of whole photographs, each once and in order: what evaluation sees."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from jaxdbd.input.geometry import to_square
from jaxdbd.input.records import Example, decode, image_size, reduced

# Pixels of the longer side, choices of ours: the network sees a tenth of the first, a panel a quarter of the second.
MOST_SEEN, MOST_SHOWN = 4096, 1024
BATCH_PIXELS = 100_000_000  # of the masks that wait for a batch to be evaluated, choice of ours


def evaluation_batches(
    records: Sequence[dict], *, size: int, batch_size: int
) -> Iterator[tuple[UInt8[np.ndarray, "b s s 3"], list[Example]]]:
    """Every photograph once, in order, squashed to size x size; the last batch is padded.

    Yields:
      (images, examples): a batch of `batch_size`, and the decoded examples of its real rows, the photograph reduced to
        what is shown of it. A batch of large photographs has fewer real rows.
    """
    squares, examples, pixels = [], [], 0
    for i in range(len(records)):
        record = records[i]
        example = decode(record, max(image_size(record)) // MOST_SEEN)
        squares.append(to_square(reduced(example, MOST_SEEN).image, size))
        pixels += example.mask.size
        examples.append(dataclasses.replace(example, image=reduced(example, MOST_SHOWN).image))
        del example
        if len(squares) == batch_size or pixels > BATCH_PIXELS:
            yield padded(squares, batch_size), examples
            squares, examples, pixels = [], [], 0
    if squares:
        yield padded(squares, batch_size), examples


def padded(squares: list[UInt8[np.ndarray, "s s 3"]], batch_size: int) -> UInt8[np.ndarray, "b s s 3"]:
    """A batch of `batch_size` whose missing rows repeat the last one."""
    return np.stack([*squares, *[squares[-1]] * (batch_size - len(squares))])
