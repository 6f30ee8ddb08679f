"""What the network's answers are made into."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdbd.inference import BLOCK, one_ahead, stretched


def test_depth_is_stretched_between_its_block_means():
    depth = np.zeros((2, 2 * BLOCK, 2 * BLOCK), np.float32)
    depth[0, :BLOCK, :BLOCK] = 3.0  # block means 3, 0, 0, -1 become 1, 1/4, 1/4, 0
    depth[0, BLOCK:, BLOCK:] = -1.0
    depth[0, 0, 0] = 1e3  # one pixel moves its block's mean, and is cut off
    depth[0, 0, 1] = 3.0 - (1e3 - 3.0)
    depth[1] = 7.0
    out = np.asarray(stretched(jnp.asarray(depth)))
    assert out[0, 5, 5] == pytest.approx(1)
    assert out[0, 5, -5] == out[0, -5, 5] == pytest.approx(0.25)
    assert out[0, -5, -5] == pytest.approx(0)
    assert (out[0, 0, 0], out[0, 0, 1]) == (1, 0)
    assert (out[1] == 0).all()  # a constant map tells nothing


def test_scale_and_shift_of_the_depth_do_not_matter():
    depth = jnp.asarray(np.random.default_rng(0).normal(size=(3, 64, 96)), jnp.float32)
    np.testing.assert_allclose(stretched(5 * depth - 2), stretched(depth), atol=1e-5)


def test_one_is_dispatched_before_the_last_is_handed_out():
    dispatched = []

    def dispatch(item):
        dispatched.append(item)
        return 10 * item

    seen = [(item, result, list(dispatched)) for item, result in one_ahead(dispatch, range(3))]
    assert seen == [(0, 0, [0, 1]), (1, 10, [0, 1, 2]), (2, 20, [0, 1, 2])]
    assert list(one_ahead(dispatch, [])) == []
