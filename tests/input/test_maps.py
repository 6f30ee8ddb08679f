"""Maps that travel with a photograph: the same geometry, and what is laid over or blurred."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdbd.input import maps
from jaxdbd.input.views import crop, mirrored, tile

SIZE = jnp.array([60, 90])
RNG = np.random.default_rng(0)


@jax.jit
def seen(cells, box, mirror):
    spans = crop(box)
    spans = jax.tree.map(lambda a, b: jnp.where(mirror, a, b), mirrored(spans), spans)
    return maps.view(cells, spans, 32, SIZE)


def test_depth_is_resampled_to_the_pixels_and_features_to_their_grid():
    depth, features = RNG.random((20, 44, 1)), RNG.normal(size=(6, 8, 5))
    cells = {"depth": jnp.asarray(depth, jnp.float16), "features_8": jnp.asarray(features, jnp.float16)}
    box = (0.1, 0.2, 0.7, 0.9)
    for flip in (False, True):
        got = seen(cells, jnp.array(box), flip)
        for name, shape in (("depth", (32, 32)), ("features_8", (6, 8))):
            for plane, channel in zip(got[name], np.moveaxis(np.float32(cells[name]), -1, 0), strict=True):
                h, w = channel.shape
                pixels = box[0] * w, box[1] * h, box[2] * w, box[3] * h
                expected = np.asarray(Image.fromarray(channel).resize(shape[::-1], Image.Resampling.BILINEAR, pixels))
                np.testing.assert_allclose(plane, expected[:, ::-1] if flip else expected, atol=1e-5)


def test_what_lies_beside_an_unknown_cell_is_unknown_and_the_rest_is_not():
    depth = np.full((16, 16, 1), 0.25, np.float16)
    depth[:, 12:] = np.nan  # known up to three quarters
    features = np.full((4, 4, 2), -60000, np.float16)  # of the largest that float16 holds
    features[1, 2, 0] = np.nan  # in one of two channels
    got = seen({"depth": jnp.asarray(depth), "features_8": jnp.asarray(features)}, jnp.array([0.0, 0, 1, 1]), False)
    known = 2 * 12 - 1  # of 32 columns: half a cell before the border both are mixed
    np.testing.assert_allclose(got["depth"][0, :, :known], 0.25, atol=1e-6)
    assert np.isnan(got["depth"][0, :, known:]).all()
    unknown = np.zeros((4, 4), bool)
    unknown[1, 2] = True
    np.testing.assert_array_equal(np.isnan(got["features_8"]), np.broadcast_to(unknown, (2, 4, 4)))
    assert (np.asarray(got["features_8"])[:, ~unknown] == -60000).all()


@pytest.mark.parametrize(("box", "factor"), [((0, 0, 1, 1), 1.5**0.5), ((0.5, 0.25, 0.75, 0.5), 4 * 1.5**0.5)], ids=str)
def test_blur_is_a_share_of_what_is_shown(box, factor):
    # Of 90 x 60 pixels a disc of 9 is a tenth; the whole has a mean side of sqrt(90 * 60).
    got = seen({"blur": jnp.full((5, 7, 1), 0.1, jnp.float16)}, jnp.array(box, jnp.float32), False)
    np.testing.assert_allclose(got["blur"], 0.1 * factor, rtol=1e-3)


def test_in_a_pattern_depth_repeats_blur_shrinks_and_features_are_unknown():
    cells = {
        "depth": jnp.linspace(0, 1, 90, dtype=jnp.float16)[None, :, None],
        "blur": jnp.full((5, 7, 1), 0.1, jnp.float16),
        "features_8": jnp.zeros((4, 4, 2), jnp.float16),
    }
    whole = jnp.array([0.0, 0, 1, 1])
    # Every copy is 20 x 30 pixels of a pattern of 60, and two thirds of it are shown.
    window = crop(jnp.array([0.0, 0, 2 / 3, 2 / 3]))

    @jax.jit
    def pattern(cells):
        return maps.view(cells, tile(window, whole, SIZE, jnp.float32(1 / 3), 60, jnp.zeros(2)), 40, SIZE)

    got = pattern(cells)
    ramp = np.asarray(got["depth"])[0, 0]
    np.testing.assert_allclose(ramp[:30], (np.arange(30) + 0.5) / 30, atol=0.02)
    np.testing.assert_allclose(ramp[30:], ramp[29:19:-1], atol=1e-3)
    np.testing.assert_allclose(got["blur"], 0.1 * 90 / 3 / 40, rtol=1e-3)  # 9 pixels, then 3, of 40
    assert np.isnan(got["features_8"]).all()


def test_blurred_maps():
    known = {"depth": jnp.full((1, 4, 4), 0.7), "blur": jnp.full((1, 4, 4), 0.03), "features_2": jnp.ones((3, 2, 2))}
    got = jax.jit(maps.blurred)(known, jnp.float32(0.04))
    np.testing.assert_array_equal(got["depth"], known["depth"])
    np.testing.assert_allclose(got["blur"], 0.05, rtol=1e-6)
    assert np.isnan(got["features_2"]).all()


def test_what_is_laid_over_hides_what_is_below_and_the_unknown_stays_so():
    cover = jnp.zeros((8, 8)).at[:, 4:].set(1.0).at[:, 3].set(0.25)
    below = {"depth": jnp.full((1, 8, 8), 0.8), "blur": jnp.full((1, 8, 8), 0.1), "features_2": jnp.zeros((3, 4, 4))}
    above = {"depth": jnp.full((1, 8, 8), 0.4), "blur": jnp.full((1, 8, 8), 0.2), "features_2": jnp.ones((3, 4, 4))}
    below["depth"] = below["depth"].at[0, 0, 7].set(jnp.nan)  # hidden
    above["depth"] = above["depth"].at[0, 1, 0].set(jnp.nan)  # not laid
    above["depth"] = above["depth"].at[0, 2, 7].set(jnp.nan)  # hides
    got = jax.jit(maps.laid)(below, cover, above)
    expected = np.full((8, 8), 0.8)
    expected[:, 4:] = 0.4
    expected[:, 3] = 0.7
    expected[2, 7] = np.nan
    np.testing.assert_allclose(got["depth"][0], expected, rtol=1e-6)
    np.testing.assert_allclose(got["blur"][0], np.tile(np.float32([0.1] * 3 + [np.nan] + [0.2] * 4), (8, 1)))
    # An eighth of each cell of the second column is covered.
    np.testing.assert_array_equal(got["features_2"], np.tile(np.float32([0, np.nan, 1, 1]), (3, 4, 1)))


def test_a_sky_is_far_and_sharp_and_not_of_the_teacher():
    got = maps.sky({"depth": jnp.ones((1, 4, 4)), "blur": jnp.ones((1, 4, 4)), "features_4": jnp.ones((2, 2, 2))})
    assert not got["depth"].any()
    assert not got["blur"].any()
    assert np.isnan(got["features_4"]).all()
    with pytest.raises(KeyError, match="flow"):
        maps.kind("flow")
