"""The blur head among a network's weights: read, begun anew, added to weights without one, and left out."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdbd.weights.store import Variables


def blur_head(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a network that its blur head has: how it is fused, and the last channel of every side output."""
    flat: dict[str, Any] = flatten_dict(variables, sep="/")
    sides = {name: leaf[..., -1:] for name, leaf in flat.items() if name.startswith("params/side")}
    return sides | {name: leaf for name, leaf in flat.items() if name.startswith("params/fuse_blur/")}


def fresh_blur_head(variables: Variables) -> dict[str, Any]:
    """The `blur_head` that a trained network without one starts with: it says 1 everywhere, 1.7 limits of sharpness.

    So the rest of the network is not disturbed at first; and above 0 the fused map has a gradient.
    """
    flat: dict[str, Any] = flatten_dict(variables, sep="/")
    levels = len(flat["params/fuse_focus/kernel"])
    head = {"params/fuse_blur/kernel": jnp.full((levels, 1), 1 / levels), "params/fuse_blur/bias": jnp.zeros(1)}
    for name in [name for name in flat if name.startswith("params/side")]:
        head[name] = jnp.full((*flat[name].shape[:-1], 1), 1.0 if name.endswith("/bias") else 0.0)
    return head


def add_blur_head(variables: Variables, head: dict[str, Any]) -> Variables:
    """`variables` of a network without a blur head, with the `blur_head` of another, which has the same decoder."""
    flat: dict[str, Any] = flatten_dict(variables, sep="/")
    added = {n: jnp.concatenate([flat[n], leaf], axis=-1) if n in flat else leaf for n, leaf in head.items()}
    return unflatten_dict(flat | added, sep="/")


def without_blur_head(variables: Variables) -> Variables:
    """`variables` of a network with a blur head, without it: its focus and depth stay what they are."""
    flat: dict[str, Any] = flatten_dict(variables, sep="/")
    kept = {n: leaf for n, leaf in flat.items() if not n.startswith("params/fuse_blur/")}
    return unflatten_dict({n: x[..., :-1] if n.startswith("params/side") else x for n, x in kept.items()}, sep="/")
