"""Rematerialization: less is kept for the gradient, which stays what it is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from drawn_network import drawn

from jaxdbd import weights
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.training.loop import make_model
from jaxdbd.training.losses import joint_loss
from jaxdbd.training.step import batch_loss


def make_loss(model: DepthDistilledDBD, remat: str):
    """(params, batch_stats, batch) -> loss and the rest, as the step takes it."""
    joint = partial(joint_loss, focus_loss="bce", depth_loss="l1", side_weights=(1.0,) * 5)
    return partial(batch_loss, model=model, loss=joint, gamma=0.1, remat=remat)


def random_batch(n: int, size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8),
        "mask": rng.integers(0, 2, (n, size, size, 1), dtype=np.uint8) * np.uint8(255),
        "depth": rng.random((n, size, size, 1)).astype(np.float16),
    }


@pytest.mark.parametrize("encoder", [pytest.param("vgg16", marks=pytest.mark.slow), "lite0"])
def test_what_is_kept_for_the_gradient(encoder):
    model = DepthDistilledDBD(encoder=encoder, full_resolution=encoder != "lite0")
    variables, batch = weights.shapes(model), jax.eval_shape(lambda: jax.tree.map(jnp.asarray, random_batch(2, 64)))

    def kept(remat):
        loss = make_loss(model, remat)
        # What a gradient keeps are the leaves of the function that computes it; all but what it is given anyway.
        residuals = jax.eval_shape(
            lambda v, b: jax.vjp(lambda p: loss(p, v["batch_stats"], b), v["params"], has_aux=True)[1], variables, batch
        )
        given = {leaf.shape for leaf in jax.tree.leaves(variables)}
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals) if leaf.shape not in given)

    assert 0 < kept("blocks") < 0.15 * kept("none")


@pytest.mark.slow
def test_the_gradient_stays_what_it_is():
    model = make_model(tiny.get_config())
    variables, batch = drawn(model), jax.tree.map(jnp.asarray, random_batch(2, 64))
    gradients = [
        jax.jit(jax.grad(make_loss(model, remat), has_aux=True))(variables["params"], variables["batch_stats"], batch)
        for remat in ("none", "blocks")
    ]
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients[0][0]))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5 * largest), *gradients)
