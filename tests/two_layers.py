"""The least that a training can train, for tests of what goes on around its steps: it compiles in a second or two."""

import jax
import ml_collections
from flax import linen as nn

from jaxdbd.network.model import DepthDistilledDBD, Output


class TwoLayers(DepthDistilledDBD):
    """It has an encoder, side outputs and running statistics that stay, and its images do not see each other."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Output:
        x = nn.relu(nn.Conv(8, (3, 3), name="encoder")(images))
        maps = nn.Conv(2, (3, 3), name="heads")(nn.BatchNorm(use_running_average=True)(x))
        sides = [nn.avg_pool(maps, (s, s), (s, s)) for s in (32, 16, 8, 4, 2)]
        focus, depth = (tuple(side[..., i : i + 1] for side in (maps, *sides)) for i in range(2))
        return Output(focus[0], depth[0], focus[1:], depth[1:])


def two_layers(config: ml_collections.ConfigDict) -> TwoLayers:
    """In place of `jaxdbd.training.loop.make_model`."""
    return TwoLayers(encoder="tiny", size=config.size)
