"""Where the photographs of a run lie: on all devices, in the host's memory, or nowhere, decoded as they are needed."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32

from jaxdbd.input.records import name_of
from jaxdbd.input.resident import Layout, cache_place, canvases, decode_canvas, layout_of, load, stacked
from jaxdbd.input.views import Canvas

# Shares of what there is, choices of ours: the rest is for the network, or for whatever else runs on the host.
DEVICE_SHARE, HOST_SHARE = 0.4, 0.5
PLACES = ("auto", "device", "host", "none")


class Placed(NamedTuple):
    """The photographs of a run, numbered through from part to part."""

    ids: Callable[[int], str]
    gather: Callable[[Int32[np.ndarray, " n"]], Canvas]  # those of these numbers
    on_devices: bool  # whether all of them should be put on the devices
    decodes: bool  # whether `gather` decodes them, which takes worker processes


class Decoded(NamedTuple):
    """`gather` for photographs that lie nowhere; processes can be given it."""

    parts: Sequence[Sequence[dict]]
    firsts: Sequence[int]  # the number of each part's first photograph, and of all
    side: int
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    def record(self, number: int) -> dict:
        """The record of a photograph."""
        part = int(np.searchsorted(self.firsts, number, side="right")) - 1
        return self.parts[part][int(number - self.firsts[part])]

    def __call__(self, numbers: Int32[np.ndarray, " n"]) -> Canvas:
        """Decodes the photographs of these numbers."""
        names = [name for name, _ in self.shapes]
        decoded = [decode_canvas(self.record(int(number)), self.side, names) for number in numbers]
        return stacked(decoded, Layout(len(numbers), self.side, self.side, True, self.shapes))


def place(parts: Sequence[Any], side: int, maps: Sequence[str], where: str) -> Placed:
    """Decodes the photographs of several parts, or sees to it that they are decoded when they are needed.

    Args:
      parts: records of `open_parts`.
      side: pixels of the longer side that are kept of each.
      maps: names of those to keep: depth, blur, features_8.
      where: one of `PLACES`; with auto the first of the others that they fit.
    """
    folders = [cache_place(records, side, maps) for records in parts]
    layouts = [layout_of(records, side, maps, folder) for records, folder in zip(parts, folders, strict=True)]
    where = fitting(sum(layout.bytes() for layout in layouts)) if where == "auto" else where
    if where == "none":
        shapes = {name: shape for layout in layouts for name, shape in layout.maps}
        firsts = [int(n) for n in np.cumsum([0, *map(len, parts)])]
        decoded = Decoded(parts, firsts, side, tuple(sorted(shapes.items())))
        return Placed(lambda number: name_of(decoded.record(int(number))), decoded, False, True)
    held = [
        load(records, layout, side, folder, f"decoding part {number} of {len(parts)}")
        for number, (records, layout, folder) in enumerate(zip(parts, layouts, folders, strict=True), start=1)
    ]
    ids = [name for part in held for name in part.ids]
    return Placed(ids.__getitem__, lambda numbers: canvases(held, numbers), where == "device", False)


def fitting(size: int) -> str:
    """Where so many bytes fit: "device", "host" or "none". A CPU's memory is the host's."""
    limits = [device.memory_stats() or {} for device in jax.local_devices()]
    if all(size <= DEVICE_SHARE * limit.get("bytes_limit", 0) for limit in limits):
        return "device"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return "host" if size <= HOST_SHARE * memory else "none"
