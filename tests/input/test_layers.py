"""What is laid over a view: skies, other photographs, sharp or blurred, and blur of its own."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_canvas import drawn

from jaxdbd.input import layers
from jaxdbd.input.views import View

SIZE = 96
RNG = np.random.default_rng(0)
pasted, veiled, refocused = jax.jit(layers.paste), jax.jit(layers.veil), jax.jit(layers.refocus)


def view(image, mask=255.0, valid=255.0, **maps) -> View:
    """A view of an image [s, s, 3] or of one color, of masks [s, s] or of one value, and of maps."""
    planes = jnp.moveaxis(jnp.broadcast_to(jnp.asarray(image, jnp.float32), (SIZE, SIZE, 3)), -1, 0)
    mask, valid = (jnp.broadcast_to(jnp.asarray(plane, jnp.float32), (SIZE, SIZE)) for plane in (mask, valid))
    return View(planes, mask, valid, maps)


def square(value) -> jnp.ndarray:
    return jnp.full((1, SIZE, SIZE), value, jnp.float32)


def left_half() -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[:, : SIZE // 2] = 255
    return mask


def test_pasting_lays_one_photographs_focus_over_another():
    below_mask, above_mask = np.zeros((2, SIZE, SIZE), np.float32)
    below_mask[:24] = 255
    above_mask[48:, :48] = 255  # the lower left quarter
    valid = np.full((SIZE, SIZE), 255, np.float32)
    valid[:, 90:] = 0
    below = view((100, 100, 100), below_mask, valid, depth=square(0.9), blur=square(0.05))
    above = view((200, 0, 0), above_mask, depth=square(0.2), blur=square(0.01))
    got = pasted(below, above)
    inside, beside = (slice(50, SIZE), slice(0, 46)), (slice(0, SIZE), slice(50, SIZE))
    np.testing.assert_array_equal(got.image[0][inside], 200)
    np.testing.assert_array_equal(got.image[1][inside], 0)
    np.testing.assert_array_equal(got.image[0][beside], 100)
    np.testing.assert_array_equal(got.mask, np.maximum(below_mask, above_mask))
    np.testing.assert_array_equal(got.valid, valid)
    for name, under, over in (("depth", 0.9, 0.2), ("blur", 0.05, 0.01)):
        np.testing.assert_allclose(got.maps[name][0][inside], over, atol=1e-6)
        np.testing.assert_allclose(got.maps[name][0][beside], under, atol=1e-6)
    # What does not count above limits the rest.
    np.testing.assert_array_equal(pasted(above, below).valid, valid)


def test_pasting_is_as_by_opencv():
    below, above = drawn(SIZE, SIZE, 1), drawn(SIZE, SIZE, 2)
    mask = (drawn(SIZE, SIZE, 3)[..., 0] > 110).astype(np.float32) * 255
    cover = cv2.GaussianBlur(mask / 255, (0, 0), SIZE / 512)
    expected = cv2.blendLinear(below, above, 1 - cover, cover)
    got = pasted(view(below), view(above, mask)).image
    np.testing.assert_allclose(np.moveaxis(got, 0, -1), expected, atol=1)


def test_a_veil_is_out_of_focus_and_leaves_the_rest():
    features = jnp.zeros((2, 12, 12))
    below = view((100, 100, 100), depth=square(0), blur=square(0.02), features_8=features)
    above = view((255, 255, 255), left_half(), depth=square(1), blur=square(0.03), features_8=features)
    got = veiled(below, above, jnp.float32(6))
    # By symmetry half of the light at the border is white, in linear light; six pixels to either side there is none.
    for column, share, focus, counts in ((40, 1, 0, True), (47, 0.5, None, False), (56, 0, 255, True)):
        light = (np.asarray(got.image)[:, 48, column : column + 2] / 255).mean() ** 2.2
        np.testing.assert_allclose(light, share + (1 - share) * (100 / 255) ** 2.2, atol=0.02)
        np.testing.assert_allclose(got.maps["depth"][0, 48, column : column + 2].mean(), share, atol=0.02)
        assert (got.valid[:, column] == 255 * counts).all()
        assert focus is None or (got.mask[:, column] == focus).all()
    blur = np.asarray(got.maps["blur"][0, 48])
    np.testing.assert_allclose(blur[:40], np.hypot(0.03, 12 / SIZE), rtol=1e-5)
    assert np.isnan(blur[47:49]).all()
    np.testing.assert_allclose(blur[56:], 0.02, rtol=1e-5)
    unknown = np.isnan(got.maps["features_8"][0, 6])
    assert unknown[:6].all()
    assert not unknown[8:].any()
    # What was blurred stays so, and counts.
    assert (veiled(below._replace(mask=jnp.zeros_like(below.mask)), above, jnp.float32(6)).valid == 255).all()


def test_refocusing_blurs_a_region_and_only_there_empties_the_mask():
    image = RNG.integers(0, 256, (SIZE, SIZE, 3))
    region = jnp.asarray(cv2.GaussianBlur(left_half() / 255, (0, 0), 1))
    features = jnp.zeros((2, 12, 12))
    before = view(image, valid=0.0, depth=square(0.4), blur=square(0.03), features_8=features)
    got = refocused(before, region, jnp.float32(1.92))
    kept, emptied = np.asarray(got.mask == 255), np.asarray(got.mask == 0)
    assert min(kept.mean(), emptied.mean()) > 0.4
    np.testing.assert_array_equal(got.image[:, kept], before.image[:, kept])
    # Noise that was blurred over four pixels has lost most of its contrast.
    assert got.image[:, emptied].std() < 0.5 * image.std()
    np.testing.assert_array_equal(got.valid[:, :40], 255)
    np.testing.assert_array_equal(got.valid[:, 56:], 0)
    np.testing.assert_allclose(got.maps["depth"], before.maps["depth"], rtol=1e-6)
    np.testing.assert_allclose(got.maps["blur"][0, :, :40], 0.05, rtol=1e-5)  # and a disc of 0.04 of the side
    np.testing.assert_allclose(got.maps["blur"][0, :, 56:], 0.03, rtol=1e-5)
    assert np.isnan(got.maps["features_8"][:, :, :6]).all()
    assert not np.isnan(got.maps["features_8"][:, :, 7:]).any()


def test_blurred_as_a_whole_nothing_is_in_focus_and_everything_counts():
    before = view(drawn(SIZE, SIZE), valid=left_half(), features_8=jnp.zeros((2, 12, 12)))
    got = jax.jit(layers.blur)(before, jnp.array(True), jnp.array([0.5, 0.5]), jnp.zeros((4, 4)))
    assert not got.mask.any()
    assert (got.valid == 255).all()
    assert np.isnan(got.maps["features_8"]).all()
    assert np.abs(np.diff(got.image)).mean() < 0.7 * np.abs(np.diff(before.image)).mean()


@pytest.mark.parametrize("size", [64, 256])
def test_random_regions_cover_between_a_fifth_and_four_fifths(size):
    draws = RNG.random((40, 4, 4), np.float32), np.linspace(0, 1, 40, dtype=np.float32)
    regions = jax.jit(jax.vmap(partial(layers.random_region, size=size)))(*draws)
    np.testing.assert_allclose(regions.min(axis=(1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(regions.max(axis=(1, 2)), 1, atol=1e-6)
    np.testing.assert_allclose(regions.mean(axis=(1, 2)), np.linspace(0.8, 0.2, 40), atol=0.05)
    assert np.asarray((regions > 0.01) & (regions < 0.99)).mean() < 0.25  # soft only at its edge


def test_a_sky_lies_above_what_is_in_focus():
    before = view(RNG.integers(0, 256, (SIZE, SIZE, 3)), depth=square(1))
    draws = RNG.random((40, 8), np.float32), RNG.random((40, 18), np.float32), RNG.random((40, 4, 6), np.float32)
    got = jax.jit(jax.vmap(partial(layers.add_sky, before)))(*draws)
    depth, image = np.asarray(got.maps["depth"][:, 0]), np.asarray(got.image)
    np.testing.assert_array_equal(got.mask, 255)
    assert np.diff(depth, axis=1).min() >= 0  # far in the sky, near below it, in every column
    ground, sky = depth == 1, depth == 0
    assert 0.2 < sky.mean() < 0.6
    np.testing.assert_array_equal(
        np.moveaxis(image, 1, -1)[ground],
        np.broadcast_to(np.moveaxis(before.image, 0, -1), (40, SIZE, SIZE, 3))[ground],
    )
    plain = sky[:, :, 1:] & sky[:, :, :-1]
    assert np.abs(np.diff(image))[np.broadcast_to(plain[:, None], (40, 3, SIZE, SIZE - 1))].mean() < 3
    # Skylines of hills bend, those of roofs jump.
    jumps = np.abs(np.diff(sky.sum(axis=1))).max(axis=1)
    hilly = draws[1][:, 0] < 0.5
    assert jumps[hilly].mean() < jumps[~hilly].mean()


def test_radii_are_evenly_spread_by_ratios():
    radii = layers.random_radius(jnp.array([0.0, 0.5, 1.0]), (0.01, 0.04))
    np.testing.assert_allclose(radii, [0.01, 0.02, 0.04], rtol=1e-5)
