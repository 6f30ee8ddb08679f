"""Schedules and optimizers against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdbd import weights
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.training.optimizer import is_decayed, is_encoder, make_optimizer, make_schedule
from jaxdbd.training.vectors import PARAMETERS, make_layout, to_tree, to_vectors

PARAMS = {
    "encoder": {"conv": {"kernel": jnp.full((1, 1, 2, 2), 2.0), "bias": jnp.full(2, 2.0)}},
    "side1": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)},
}
LAYOUT = make_layout({"params": PARAMS})
VECTORS = to_vectors(LAYOUT, {"params": PARAMS})


def update(kind="sgd", gradient=1.0, calls=1, **changes):
    """The update of the last of `calls` equal gradients, at a learning rate of 0.1."""
    options = {"weight_decay": 0.0, "encoder_lr_factor": 1.0, "clip_norm": 0.0, "accumulate": 1} | changes
    tx = make_optimizer(kind, optax.constant_schedule(0.1), **options)
    state = tx.init(VECTORS)
    gradients = to_vectors(LAYOUT, {"params": jax.tree.map(lambda p: jnp.full_like(p, gradient), PARAMS)})
    for _ in range(calls):
        updates, state = tx.update(gradients, state, VECTORS)
    return to_tree(LAYOUT, updates)["params"]


def test_cosine_with_warmup():
    schedule = make_schedule("cosine", peak=2.0, steps=110, warmup_steps=10)
    at = [float(schedule(n)) for n in (0, 5, 10, 60, 110, 200)]
    np.testing.assert_allclose(at, [0, 1, 2, 1, 0, 0], atol=1e-6)
    # A quarter of the way down: (1 + cos(pi / 4)) / 2 of the peak.
    np.testing.assert_allclose(schedule(35), 1.7071068, rtol=1e-6)


def test_poly():
    schedule = make_schedule("poly", peak=1e-4, steps=100, warmup_steps=0)
    np.testing.assert_allclose([schedule(0), schedule(50), schedule(100)], [1e-4, 0.5**0.9 * 1e-4, 0], atol=1e-12)


def test_decay_leaves_biases_and_batch_norm_alone():
    layout = make_layout({"params": weights.shapes(DepthDistilledDBD(encoder="lite0"))["params"]})
    for name, place in layout.items():
        assert is_decayed({place.group: jnp.zeros(1)}) == {place.group: name.endswith("/kernel")}, name


def test_weight_decay():
    # Decoupled in adamw: -0.1 * (1 + 0.5 * 2) where it pulls; Adam's first step is the sign of the gradient.
    updates = update("adamw", weight_decay=0.5)
    np.testing.assert_allclose(updates["side1"]["kernel"], -0.2, rtol=1e-5)
    np.testing.assert_allclose(updates["side1"]["bias"], -0.1, rtol=1e-5)
    # Part of the gradient in adam, so it does not change the sign; and in sgd, where it is added.
    np.testing.assert_allclose(update("adam", weight_decay=0.5)["side1"]["kernel"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(update("sgd", weight_decay=0.5)["side1"]["kernel"], -0.2, rtol=1e-5)


def test_sgd_has_momentum():
    np.testing.assert_allclose(update("sgd", calls=3)["side1"]["bias"], -0.1 * (1 + 0.9 + 0.81), rtol=1e-6)


def test_encoder_learns_slower():
    assert is_encoder(VECTORS) == dict(zip(PARAMETERS, [True, True, False, False], strict=True))
    updates = update("adamw", encoder_lr_factor=0.1, weight_decay=0.5)
    np.testing.assert_allclose(updates["encoder"]["conv"]["kernel"], -0.02, rtol=1e-5)
    np.testing.assert_allclose(updates["encoder"]["conv"]["bias"], -0.01, rtol=1e-5)
    np.testing.assert_allclose(updates["side1"]["kernel"], -0.2, rtol=1e-5)


def test_clipping_is_by_the_global_norm():
    # Twelve ones have norm sqrt(12).
    np.testing.assert_allclose(update(clip_norm=0.5)["side1"]["bias"], -0.1 * 0.5 / 12**0.5, rtol=1e-5)
    np.testing.assert_allclose(update(clip_norm=5.0)["side1"]["bias"], -0.1, rtol=1e-6)


def test_accumulation_updates_on_the_last_call():
    assert not any(jnp.any(u) for u in jax.tree.leaves(update(accumulate=3, calls=2)))
    # The mean gradient, clipped once.
    np.testing.assert_allclose(update(accumulate=3, calls=3)["side1"]["bias"], -0.1, rtol=1e-6)


def test_state_has_one_structure_whatever_the_values():
    # So that a run can go on with another weight decay, clipping or encoder factor.
    plain = {"weight_decay": 0.0, "encoder_lr_factor": 1.0, "clip_norm": 0.0, "accumulate": 1}
    other = {"weight_decay": 0.1, "encoder_lr_factor": 0.1, "clip_norm": 1.0, "accumulate": 1}
    a, b = (make_optimizer("adamw", lambda _: 0.1, **o).init(VECTORS) for o in (plain, other))
    assert jax.tree.structure(a) == jax.tree.structure(b)
