"""A network with drawn weights, for tests of what is done with its answers."""

import jax
import numpy as np

from jaxdbd import weights
from jaxdbd.network.model import DepthDistilledDBD


def drawn(model: DepthDistilledDBD) -> dict:
    """Variables drawn with numpy, so that nothing is compiled; the outputs are neither flat nor saturated."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1, leaf.shape).astype(np.float32)
        if path[-2].key.startswith("fuse_"):  # the side outputs vary by a twentieth
            mean, spread = (0.5, 0) if path[-1].key == "bias" else (0, 2)
        else:
            mean, spread = 0, np.sqrt(1 / np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.05
        return rng.normal(mean, spread, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, weights.shapes(model))
