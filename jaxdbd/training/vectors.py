"""A network's arrays in five long vectors, by what an optimizer does to them, and back.

A network has some 500 arrays. An optimizer with clipping, decay and an average does two dozen operations to each:
that was half of the program, of the time to compile it, and of what a step launches on an accelerator. With vectors it
does them five times.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float32

# Lengths are multiples of this, so that 2, 4, ... 1024 devices, and 3, 5, 9 or 15 times as many, can share a vector.
VECTOR_MULTIPLE = 2**10 * 9 * 5

JOINED = 8  # arrays that are joined at a time, choice of ours

STATISTICS = "statistics"  # the group of BatchNorm's running means and variances
# The groups of parameters. `kernels` are what weight decay pulls on, of convolutions and dense layers; `offsets` are
# biases and BatchNorm's scales. Adapters of feature distillation go with the decoder: all but the encoder does.
PARAMETERS = ("encoder_kernels", "encoder_offsets", "decoder_kernels", "decoder_offsets")

Vectors = dict[str, Float32[Array, "_"]]  # by group


class Place(NamedTuple):
    """Where an array lies."""

    group: str
    start: int
    shape: tuple[int, ...]


Layout = dict[str, Place]  # by names such as params/encoder/stem/conv/kernel


def make_layout(shapes: Mapping[str, Any]) -> Layout:
    """Places for a network's variables, of which shapes are enough, in the order of their names.

    Raises ValueError for an array that is not float32: a vector has one type.
    """
    layout, ends = {}, {}
    for name, leaf in sorted(flatten_dict(shapes, sep="/").items()):
        if leaf.dtype != jnp.float32:
            raise ValueError(f"{name} is of type {leaf.dtype}, not float32")
        group = group_of(name, leaf.shape)
        layout[name] = Place(group, ends.get(group, 0), tuple(leaf.shape))
        ends[group] = ends.get(group, 0) + leaf.size
    return layout


def group_of(name: str, shape: tuple[int, ...]) -> str:
    """The group that an array belongs to, by its name and shape."""
    if not name.startswith("params/"):
        return STATISTICS
    part = "encoder" if name.startswith("params/encoder/") else "decoder"
    return f"{part}_{'kernels' if len(shape) > 1 else 'offsets'}"


def to_vectors(layout: Layout, tree: Mapping[str, Any]) -> Vectors:
    """The arrays of a tree, by group in the layout's order, then zeros up to a multiple of `VECTOR_MULTIPLE`.

    `tree` has all arrays of a group or none: {"params": gradients} becomes the four groups of `PARAMETERS`.
    """
    parts: dict[str, list] = {}
    flat: dict[str, Any] = flatten_dict(tree, sep="/")
    for name, place in layout.items():
        if name in flat:
            parts.setdefault(place.group, []).append(flat[name].reshape(-1))
    return {group: _joined(arrays) for group, arrays in parts.items()}


def _joined(arrays: list) -> Float32[Array, "_"]:
    short = -sum(a.size for a in arrays) % VECTOR_MULTIPLE
    arrays = [*arrays, jnp.zeros(short, jnp.float32)]
    # At once, XLA would make one kernel of a GPU from what computes all of them: a minute of compiling for VGG16's
    # statistics alone.
    parts = [jnp.concatenate(arrays[i : i + JOINED]) for i in range(0, len(arrays), JOINED)]
    return jnp.concatenate(jax.lax.optimization_barrier(parts))


def to_tree(layout: Layout, vectors: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of the groups that `vectors` has; NumPy's where those are NumPy's."""
    arrays = {}
    for name, (group, start, shape) in layout.items():
        if group in vectors:
            arrays[name] = vectors[group][start : start + math.prod(shape)].reshape(shape)
    return unflatten_dict(arrays, sep="/")
