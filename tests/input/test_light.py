"""Blur in linear light and soft edges, against OpenCV."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_canvas import drawn

from jaxdbd.input.layers import WIDEST, _transform_side, defocus, developed, disc_blur, linear, soften

SIZE = 96
blurred, out_of_focus, softened = jax.jit(disc_blur), jax.jit(defocus), jax.jit(soften, static_argnums=1)


def disc(radius):
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    values = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return values / values.sum()


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.3, WIDEST * SIZE])
def test_a_disc_blurs_as_a_filter_with_mirrored_borders(radius):
    planes = np.random.default_rng(0).random((4, SIZE, SIZE), np.float32)
    for got, plane in zip(blurred(planes, jnp.float32(radius)), planes, strict=True):
        expected = cv2.filter2D(plane, -1, disc(radius), borderType=cv2.BORDER_REFLECT)
        np.testing.assert_allclose(got, expected, atol=2e-6)


def test_defocus_is_within_two_gray_levels_of_a_filter_in_linear_light():
    image = drawn(SIZE, SIZE)
    light = cv2.filter2D((image.astype(np.float32) / 255) ** 2.2, -1, disc(3.1), borderType=cv2.BORDER_REFLECT)
    expected = 255 * np.clip(light, 0, 1) ** (1 / 2.2)
    got = out_of_focus(jnp.moveaxis(jnp.asarray(image, jnp.float32), -1, 0), jnp.float32(3.1))
    np.testing.assert_allclose(np.moveaxis(got, 0, -1), expected, atol=1)
    np.testing.assert_array_equal(out_of_focus(jnp.full((3, SIZE, SIZE), 77.0), jnp.float32(3.0)), 77)


def test_a_point_becomes_its_disc():
    point = jnp.zeros((3, SIZE, SIZE)).at[:, 48, 48].set(255.0)
    row = np.flatnonzero(out_of_focus(point, jnp.float32(3.0))[0, 48])
    assert (row[0], row[-1]) == (45, 51)


def test_every_gray_level_comes_back_from_linear_light():
    levels = jnp.broadcast_to(jnp.arange(256.0)[None, None], (3, 256, 256))
    np.testing.assert_array_equal(jax.jit(lambda x: developed(linear(x)))(levels), levels)
    np.testing.assert_allclose(linear(levels)[0, 0], (np.arange(256) / 255) ** 2.2, rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_soft_edges_are_gaussian(sigma):
    plane = np.random.default_rng(0).random((SIZE, SIZE)).astype(np.float32)
    np.testing.assert_allclose(softened(plane, sigma), cv2.GaussianBlur(plane, (0, 0), sigma), atol=1e-5)


def test_transforms_have_fast_sides():
    assert [_transform_side(side, reach) for side, reach in ((256, 11), (320, 14), (64, 4))] == [288, 360, 72]
