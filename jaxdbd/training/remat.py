"""Rematerialization: a backward pass that computes again what it needs, where there is no memory to keep it."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

REMAT = ("none", "blocks")
BLOCK = "block"


def by_blocks(apply: Callable) -> Callable:
    """`apply`, a network as a function of arrays, that keeps for its gradient only what the network's blocks give.

    Blocks are the modules that the network or its encoder consist of: the levels of the decoder, the encoder's
    residuals, and of an encoder without such its taps.
    """

    def named(*arrays):
        with nn.intercept_methods(_name_block):
            return apply(*arrays)

    return jax.checkpoint(named, policy=jax.checkpoint_policies.save_only_these_names(BLOCK))


def _name_block(call: Callable, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext) -> Any:
    given, path = call(*args, **kwargs), context.module.path
    if context.method_name == "__call__" and len(path) <= (2 if path[:1] == ("encoder",) else 1):
        return jax.tree.map(lambda x: checkpoint_name(x, BLOCK), given)
    return given
