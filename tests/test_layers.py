"""Every fast form against the plain one: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdbd import layers


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(jnp.abs(b).max()))


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 10), (9, 7)])
def test_depthwise_forms_agree_in_value_and_gradient(k, stride, size):
    x, kernel = random(2, *size, 6), random(k, k, 1, 6, seed=1)
    expected = layers.grouped_depthwise(x, kernel, stride)
    close(layers.shifted_depthwise(x, kernel, stride), expected)
    close(layers.depthwise_conv(x, kernel, stride), expected)
    dy = random(*expected.shape, seed=2)
    for ours, plain in zip(
        layers.shifted_depthwise_gradient(x, kernel, dy, stride),
        layers.grouped_depthwise_gradient(x, kernel, dy, stride),
        strict=True,
    ):
        close(ours, plain)


def test_depthwise_gradient_reaches_both_arguments_through_jit():
    x, kernel = random(1, 6, 6, 4), random(3, 3, 1, 4, seed=1)

    def loss(f):
        return jax.jit(jax.grad(lambda x, k: (f(x, k) ** 2).sum(), argnums=(0, 1)))(x, kernel)

    for ours, plain in zip(
        loss(layers.depthwise_conv), loss(lambda x, k: layers.grouped_depthwise(x, k, 1)), strict=True
    ):
        close(ours, plain)


def test_depthwise_is_lowered_per_platform():
    def lowered(platform):
        f = jax.jit(layers.depthwise_conv)
        return f.trace(random(1, 8, 8, 4), random(3, 3, 1, 4)).lower(lowering_platforms=(platform,)).as_text()

    assert "stablehlo.convolution" not in lowered("cpu")
    assert "feature_group_count = 4" in lowered("cuda")
    assert "feature_group_count = 4" in lowered("tpu")


def test_upsample_conv_is_nearest_upsampling_then_convolution():
    x, kernel = random(2, 5, 6, 4), random(3, 3, 4, 7, seed=1)

    def plain(x, kernel):
        return layers.conv(x.repeat(2, axis=1).repeat(2, axis=2), kernel, padding="SAME")

    expected, backward = jax.vjp(plain, x, kernel)
    ours, ours_backward = jax.vjp(layers.upsample_conv, x, kernel)
    close(ours, expected)
    dy = random(*expected.shape, seed=2)
    for a, b in zip(ours_backward(dy), backward(dy), strict=True):
        close(a, b)


@pytest.mark.parametrize(("k", "size"), [(3, (12, 9)), (5, (7, 16)), (7, (10, 10)), (7, (30, 5)), (7, (1, 1))])
def test_dilated_conv_loses_nothing_by_leaving_out_taps_in_the_padding(k, size):
    x, kernel = random(2, *size, 3), random(k, k, 3, 4, seed=1)
    reach = k // 2 * k
    expected = layers.conv(x, kernel, padding=((reach, reach), (reach, reach)), dilation=k)
    close(layers.dilated_conv(x, kernel, k), expected)


def test_max_pool_takes_the_largest_of_four():
    x = random(2, 8, 6, 5)
    np.testing.assert_array_equal(layers.max_pool_2x2(x), x.reshape(2, 4, 2, 3, 2, 5).max(axis=(2, 4)))


def test_same_padding_puts_the_odd_pixel_behind():
    # TensorFlow's rule, by hand: size 8, k 3, stride 2 -> 4 outputs need 9 pixels, one more than there are.
    assert layers.same_padding(8, 3, 2) == (0, 1)
    assert layers.same_padding(9, 3, 2) == (1, 1)
    assert layers.same_padding(8, 5, 2) == (1, 2)
    assert layers.same_padding(8, 5, 1) == (2, 2)
