"""What the network's answers are made into."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdbd.inference import BLOCK, SquareMaps, at_size, one_ahead, stretched


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


def test_a_photograph_twice_as_large_is_blurred_by_twice_as_many_pixels():
    share = np.full((32, 32), 0.01, np.float32)
    maps = SquareMaps(share, None, share)
    # A square of a photograph of 100 x 400 pixels has sides of 200 pixels in the mean that keeps areas.
    for size, pixels in (((100, 100), 1.0), ((200, 200), 2.0), ((100, 400), 2.0), ((800, 200), 4.0)):
        prediction = at_size(maps, size)
        assert prediction.blur.dtype == np.float32
        assert prediction.blur.shape == size
        np.testing.assert_allclose(prediction.blur, pixels, rtol=1e-5)
    focus, depth = prediction  # as of a network without blur
    assert focus.shape == size
    assert depth is None
    assert at_size(SquareMaps(share, share, None), size).blur is None


def test_one_is_dispatched_before_the_last_is_handed_out():
    dispatched = []

    def dispatch(item):
        dispatched.append(item)
        return 10 * item

    seen = [(item, result, list(dispatched)) for item, result in one_ahead(dispatch, range(3))]
    assert seen == [(0, 0, [0, 1]), (1, 10, [0, 1, 2]), (2, 20, [0, 1, 2])]
    assert list(one_ahead(dispatch, [])) == []
