"""Feature distillation (D-DFFNet, ICME 2023): what the teacher's encoder holds, the network's encoder should hold too.

Each tap of the encoder for whose stride there are features of the teacher goes through an adapter, a 1x1 convolution
without bias, to the teacher's channels. D-DFFNet matches the taps at strides 4 to 32; here it is those whose stride the
data set has: equal strides see equal surroundings. The adapters are trained with the network, are part of the state and
of its checkpoints, and are left behind when its weights are written: the network runs without them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdbd.errors import UserError
from jaxdbd.input.records import FEATURES
from jaxdbd.network.encoders import ENCODERS, STRIDES
from jaxdbd.training.losses import PerImage, mean_over

ADAPTERS = "adapters"  # their place among the parameters
Params = dict[str, Any]
Shapes = Mapping[str, tuple[int, int, int]]  # height, width and channels of the teacher's feature maps, by their names


def tap_of(name: str) -> int:
    """Which of an encoder's taps has the stride of the feature maps `name`, from 0 on."""
    return STRIDES.index(int(name.removeprefix(FEATURES)))


def feature_shapes(parts: Sequence[Sequence[dict]]) -> Shapes:
    """The feature maps that records of the parts of a mixture hold; {} without any.

    Parts may lack them. Raises UserError where two have other ones.
    """
    found = [{n: a.shape for n, a in records[0].items() if n.startswith(FEATURES)} for records in parts]
    different = [each for each in found if each]
    if any(each != different[0] for each in different):
        raise UserError("the parts of config.dataset hold features of different teachers: build them with the same one")
    return different[0] if different else {}


def make_adapters(features: Shapes, encoder: str, seed: int) -> dict[str, Float[Array, "_ _"]]:
    """A kernel [channels of the tap, channels of the teacher] for each of the `features`, by their names."""
    if not features:
        return {}
    initial = jax.nn.initializers.glorot_normal()  # as in D-DFFNet
    channels = ENCODERS[encoder].channels
    keys = jax.random.split(jax.random.key(seed), len(features))
    return {
        name: initial(key, (channels[tap_of(name)], shape[-1]))
        for key, (name, shape) in zip(keys, features.items(), strict=True)
    }


def with_adapters(variables: Params, adapters: Params) -> Params:
    """A network's variables with the adapters among its parameters; the same ones where there are none."""
    return {**variables, "params": {**variables["params"], ADAPTERS: adapters}} if adapters else variables


def without_adapters(variables: Params) -> Params:
    """A network's variables alone."""
    return {**variables, "params": {k: v for k, v in variables["params"].items() if k != ADAPTERS}}


def feature_loss(
    taps: Sequence[Float[Array, "b _ _ _"]], adapters: Mapping[str, Float[Array, "_ _"]], batch: Mapping[str, Array]
) -> PerImage:
    """The `mismatch` of every tap with an adapter, summed.

    Args:
      taps: of the encoder, at strides 2 to 32.
      adapters: of `make_adapters`.
      batch: has the teacher's features under the adapters' names, NaN where they are not known.
    """
    terms = [mismatch(taps[tap_of(name)], kernel, batch[name]) for name, kernel in adapters.items()]
    return jnp.stack(terms).sum(axis=0)


def mismatch(tap: Float[Array, "b h w c"], kernel: Float[Array, "c k"], target: Float[Array, "b h2 w2 k"]) -> PerImage:
    """Squared distance between an adapted tap and a teacher's features, both of length 1, at the teacher's grid.

    Averaged over the known cells; 0 for an image without any.
    """
    known = jnp.isfinite(target).all(axis=-1, keepdims=True)
    target = jnp.where(known, target, 0).astype(jnp.float32)
    size = (*target.shape[:3], tap.shape[-1])
    ours = jnp.einsum("bhwc,ck->bhwk", jax.image.resize(tap.astype(jnp.float32), size, "bilinear"), kernel)
    distance = jnp.square(_unit(ours) - _unit(target)).sum(axis=-1, keepdims=True)
    return mean_over(distance, known.astype(jnp.float32))


def _unit(x: Float[Array, "b h w k"]) -> Float[Array, "b h w k"]:
    """Scaled to length 1 over the channels."""
    return x / jnp.sqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-6)  # 1e-6 as in D-DFFNet
