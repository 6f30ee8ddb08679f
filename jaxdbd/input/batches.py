"""Rows of a run to batches on the devices: photographs from where they lie, augmented where the network runs."""

import contextlib
import itertools
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, Int32

from jaxdbd import sharding
from jaxdbd.input.augment import Augmentation, augment
from jaxdbd.input.placement import Placed
from jaxdbd.input.stream import Stream, photographs_of
from jaxdbd.input.views import Canvas
from jaxdbd.machine.parallel import ahead

AHEAD = 2  # batches that are gathered before they are needed
Numbers = Int32[np.ndarray, " n"]  # of photographs
Batch = dict[str, Array]


class Window(NamedTuple):
    """The rows that the devices of this process augment for one batch, equally many on each device.

    Row n and row n xor 1 are laid over each other, so each device has whole pairs: a row or two more than its share
    where that begins or ends within a pair.
    """

    rows: Int[np.ndarray, " n"]  # numbers of rows of the run, device by device
    offsets: Int32[np.ndarray, " devices"]  # where each device's share begins among its rows


def window(first: int, share: int, devices: range) -> Window:
    """The window of these `devices`, each with a `share` of rows, for a batch that begins with the row `first`.

    Its size depends on whether `share` and `first` are odd and on nothing else, so it stays the same through a run.
    """
    starts = first + share * np.arange(devices.start, devices.stop)
    width = share + (1 if share % 2 else 2 * (first % 2))
    rows = (starts - starts % 2)[:, None] + np.arange(width)
    return Window(rows.ravel(), (starts % 2).astype(np.int32))


class Gatherer(NamedTuple):
    """What the host does for batch k: a function that other processes can be given."""

    stream: Stream
    gather: Callable[[Numbers], Canvas] | None  # photographs by their numbers; None where they lie on the devices
    devices: range
    share: int
    first: int
    size: int  # of a batch, over all devices of all processes

    def __call__(self, k: int) -> tuple[Window, Numbers, Canvas | None]:
        """The window of batch k, the numbers of its photographs, and those themselves."""
        seen = window(self.first + k * self.size, self.share, self.devices)
        numbers = photographs_of(self.stream, seen.rows)
        return seen, numbers, self.gather(numbers) if self.gather else None


def gathered(gatherer: Gatherer, workers: int) -> Generator[tuple[Window, Numbers, Canvas | None], None, None]:
    """What `gatherer` gives for batch 0, 1, 2, ...: by so many processes, or by a thread where there are none."""
    if gatherer.gather is None:
        yield from map(gatherer, itertools.count())
    elif workers:
        flags.FLAGS.mark_as_parsed()  # Grain wants to read them
        steps = grain.MapDataset.range(2**62).map(gatherer).to_iter_dataset(grain.ReadOptions(1, 1))
        yield from steps.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=1))
    else:
        with ThreadPoolExecutor(1) as pool:
            for _, future in ahead(pool, gatherer, itertools.count(), AHEAD):
                yield future.result()


def augmenter(
    size: int, augmentation: Augmentation, seed: int, share: int, mesh: Mesh, on_devices: bool
) -> Callable[..., Batch]:
    """The compiled function that makes a batch: each device augments the rows of its own window.

    Args:
      size: side of the square images.
      augmentation: what may happen to a photograph.
      seed: of all that happens.
      share: rows of each device in a batch.
      mesh: the devices.
      on_devices: whether the photographs are all of them, a copy on every device, or those of the window.

    Returns:
      A function of (photographs, numbers of the window's rows, numbers of their photographs, offsets).
    """
    # On a CPU a row pays only for what happens to it; an accelerator is faster with all rows at once.
    in_turn = mesh.devices.flat[0].platform == "cpu"

    def of_one_device(photographs, rows, numbers, offset):
        mine = jax.tree.map(lambda x: x[numbers], photographs) if on_devices else photographs
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(rows)
        made = augment(mine, keys, size, augmentation, in_turn)
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, offset[0], share), made)

    spread = PartitionSpec("data")
    specs = (PartitionSpec() if on_devices else spread, spread, spread, spread)
    return jax.jit(jax.shard_map(of_one_device, mesh=mesh, in_specs=specs, out_specs=spread, check_vma=False))


def batches(
    placed: Placed,
    stream: Stream,
    *,
    first: int,
    size: int,
    augmentation: Augmentation,
    batch_size: int,
    mesh: Mesh,
    workers: int,
) -> Generator[tuple[Batch, Numbers], None, None]:
    """Endless batches from the row `first` of a run on, each row once.

    Args:
      placed: the photographs.
      stream: the order of the rows.
      first: number of the first row.
      size: side of the square images.
      augmentation: what may happen to a photograph.
      batch_size: over all devices, a multiple of them.
      mesh: the devices.
      workers: processes that decode photographs, where that is still to be done.

    Yields:
      (batch, numbers): the batch as `augment` gives it, spread over the devices; the numbers of the photographs in
        this process's share of it.
    """
    share, devices = batch_size // mesh.size, sharding.local_devices(mesh)
    make = augmenter(size, augmentation, stream.seed, share, mesh, placed.on_devices)
    resident = None
    if placed.on_devices:
        everything = placed.gather(np.arange(sum(stream.counts), dtype=np.int32))
        resident = jax.tree.map(partial(sharding.whole_to_devices, mesh=mesh), everything)
    gather = None if placed.on_devices else placed.gather
    gatherer = Gatherer(stream, gather, devices, share, first, batch_size)
    put = partial(jax.make_array_from_process_local_data, sharding.batch_sharding(mesh))
    with contextlib.closing(gathered(gatherer, workers if placed.decodes else 0)) as ready:
        for seen, numbers, canvases in ready:
            photographs = resident if canvases is None else jax.tree.map(put, canvases)
            batch = make(photographs, put(seen.rows.astype(np.uint32)), put(numbers), put(seen.offsets))
            begins = first + share * devices.start
            yield batch, numbers[(begins <= seen.rows) & (seen.rows < begins + share * len(devices))]
            first += batch_size
