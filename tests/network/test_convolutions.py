"""Every fast form against the plain one: values and gradients."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdbd.network import convolutions
from jaxdbd.network.per_platform import per_platform
from jaxdbd.network.winograd import winograd_conv


def random(*shape, seed=0):
    return jax.device_put(np.random.default_rng(seed).standard_normal(shape, np.float32))


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def agree(forms, plain, *shapes):
    """Values and both gradients of functions of (x, kernel) against those of the plain one, in one program."""
    x, kernel = random(*shapes[0]), random(*shapes[1], seed=1)
    dy = random(*jax.eval_shape(plain, x, kernel).shape, seed=2)

    @jax.jit
    def values_and_gradients(x, kernel, dy):
        pairs = [jax.vjp(function, x, kernel) for function in (plain, *forms)]
        return [(value, backward(dy)) for value, backward in pairs]

    wanted, *ours = values_and_gradients(x, kernel, dy)
    for each in ours:
        jax.tree.map(close, each, wanted)


def lowered(function, x, kernel, platform):
    """The program of a layer and of its gradients for a platform."""

    def loss(x, kernel):
        return (function(x, kernel) ** 2).sum()

    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(random(*x), random(*kernel))
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_pointwise_conv_is_a_dense_layer_with_its_gradients():
    x = random(2, 5, 6, 3)
    dense, ours = nn.Dense(4), convolutions.PointwiseConv(4)
    variables = jax.jit(dense.init)(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(ours.init)(jax.random.key(0), x), variables)

    def value_and_gradients(layer):
        sum_of_sines = jax.value_and_grad(lambda v, x: jnp.sin(layer.apply(v, x)).sum(), argnums=(0, 1))
        return jax.jit(sum_of_sines)(variables, x)

    jax.tree.map(close, value_and_gradients(ours), value_and_gradients(dense))


def with_gradient(function, gradient):
    """A function with a gradient of its own, of (x, kernel, dy)."""
    ours = jax.custom_vjp(function)
    ours.defvjp(lambda x, kernel: (function(x, kernel), (x, kernel)), lambda residuals, dy: gradient(*residuals, dy))
    return ours


@pytest.mark.parametrize("size", [(5, 6), (64, 65)])
def test_conv_3x3_has_the_gradients_of_a_convolution(size):
    by_products = with_gradient(convolutions.same_conv, convolutions.product_conv_gradient)
    agree([convolutions.conv_3x3, by_products], convolutions.same_conv, (2, *size, 3), (3, 3, 3, 4))


@pytest.mark.parametrize("size", [(6, 8), (2, 2), (64, 66)])
@pytest.mark.parametrize("wide", [0, 9])
def test_winograd_computes_the_convolution(size, wide, monkeypatch):
    monkeypatch.setattr(convolutions, "WIDE", wide)
    form = with_gradient(winograd_conv, convolutions.winograd_gradient)
    agree([winograd_conv, form], convolutions.same_conv, (2, *size, 3), (3, 3, 3, 5))


def test_wide_3x3_convolutions_choose_a_form_per_platform():
    wide = convolutions.conv_3x3, (1, 20, 22, 128), (3, 3, 128, 128)
    assert "stablehlo.convolution" not in lowered(*wide, "cpu")
    assert lowered(*wide, "cuda").count("stablehlo.convolution") == 3
    narrow = convolutions.conv_3x3, (1, 20, 22, 64), (3, 3, 64, 64)
    assert lowered(*narrow, "cpu").count("stablehlo.convolution") == 2  # forward, and the gradient by the input
    assert "stablehlo.dot" not in lowered(convolutions.conv_3x3, (1, 21, 22, 128), (3, 3, 128, 128), "cpu")
    for function, x, kernel in (wide, narrow):
        agree([function], convolutions.same_conv, x, kernel)


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 10), (9, 7)])
def test_depthwise_forms_agree(k, stride, size):
    plain, shapes = partial(convolutions.grouped_depthwise, stride=stride), ((2, *size, 6), (k, k, 1, 6))
    forms = (convolutions.depthwise_conv, convolutions.shifted_depthwise)
    agree([partial(form, stride=stride) for form in forms], plain, *shapes)


@pytest.mark.parametrize(("groups", "width", "stride"), [(4, 3, 1), (8, 4, 1), (2, 17, 1), (8, 4, 2), (4, 3, 2)])
@pytest.mark.parametrize("size", [(8, 10), (9, 7)])
def test_grouped_forms_agree(groups, width, stride, size):
    plain = partial(convolutions.padded_grouped_conv, groups=groups, stride=stride)
    shapes = (2, *size, groups * width), (3, 3, width, groups * width)
    forms = (convolutions.grouped_conv_3x3, convolutions.split_grouped_conv)
    agree([partial(form, groups=groups, stride=stride) for form in forms], plain, *shapes)


def test_upsample_conv_is_nearest_upsampling_then_convolution():
    forms = [convolutions.upsample_conv, convolutions.product_upsample_conv]
    agree(forms, convolutions.upsampled_conv, (2, 5, 6, 4), (3, 3, 4, 7))


@pytest.mark.parametrize(("k", "size"), [(3, (12, 9)), (5, (7, 16)), (7, (10, 10)), (7, (30, 5)), (7, (1, 1))])
def test_dilated_forms_lose_nothing_by_leaving_out_the_padding(k, size):
    def plain(x, kernel):
        return convolutions.conv(x, kernel, padding=((k // 2 * k,) * 2,) * 2, dilation=k)

    forms = (convolutions.padded_dilated_conv, convolutions.unpadded_dilated_conv, convolutions.dilated_conv)
    agree([partial(form, dilation=k) for form in forms], plain, (2, *size, 3), (k, k, 3, 4))


def test_wide_dilated_convolutions_choose_a_form_per_platform():
    assert convolutions.share_within(20, 7, 7) == pytest.approx((6 + 13 + 20 + 13 + 6) / 100)
    wide = partial(convolutions.dilated_conv, dilation=7), (1, 10, 10, 256), (7, 7, 256, 2)
    assert "stablehlo.convolution" not in lowered(*wide, "cpu")
    assert "stablehlo.convolution" in lowered(*wide, "cuda")
    plain = partial(convolutions.padded_dilated_conv, dilation=7)
    agree([partial(convolutions.dilated_conv, dilation=7)], plain, *wide[1:])


def test_outside_of_jit_each_form_is_compiled_once():
    x, kernel = random(1, 6, 6, 4), random(3, 3, 1, 4)
    count: Any = getattr(per_platform, "_cache_size")  # noqa: B009, a method that JAX's types hide
    convolutions.depthwise_conv(x, kernel)
    compiled = count()
    convolutions.depthwise_conv(x + 1, kernel, 1)
    assert count() == compiled
    convolutions.depthwise_conv(x, kernel, 2)
    assert count() == compiled + 1


@pytest.mark.parametrize(
    ("layer", "x", "kernel", "groups"),
    [
        (convolutions.depthwise_conv, (1, 8, 8, 4), (3, 3, 1, 4), 4),
        (convolutions.upsample_conv, (1, 8, 8, 4), (3, 3, 4, 4), 1),
        (partial(convolutions.grouped_conv_3x3, groups=2), (1, 8, 8, 4), (3, 3, 2, 4), 2),
    ],
)
def test_accelerators_get_one_plain_convolution(layer, x, kernel, groups):
    for platform in ("cuda", "tpu"):
        assert f"feature_group_count = {groups} " in lowered(layer, x, kernel, platform)
    with_cpu_form = jax.jit(layer).trace(random(*x), random(*kernel)).lower(lowering_platforms=("cpu",)).as_text()
    assert with_cpu_form.count("feature_group_count") == with_cpu_form.count("feature_group_count = 1 ")


def test_max_pool_takes_the_largest_of_four():
    x = random(2, 8, 6, 5)
    np.testing.assert_array_equal(convolutions.max_pool_2x2(x), x.reshape(2, 4, 2, 3, 2, 5).max(axis=(2, 4)))


def test_same_padding_puts_the_odd_pixel_behind():
    # TensorFlow's rule, by hand: size 8, k 3, stride 2 -> 4 outputs need 9 pixels, one more than there are.
    assert convolutions.same_padding(8, 3, 2) == (0, 1)
    assert convolutions.same_padding(9, 3, 2) == (1, 1)
    assert convolutions.same_padding(8, 5, 2) == (1, 2)
    assert convolutions.same_padding(8, 5, 1) == (2, 2)
