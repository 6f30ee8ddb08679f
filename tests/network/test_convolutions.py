"""Every fast form against the plain one: values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdbd.network import convolutions, grouped, plain, products, winograd
from jaxdbd.network.bilinear import Forms, bilinear


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


def computed_by(form, *settings):
    """The function of (x, kernel) that a form computes, with the form's gradients."""
    return partial(_apply, Forms("form", default=form), settings)


def _apply(forms, settings, x, kernel):
    return bilinear(forms, x, kernel, *settings)


@pytest.mark.parametrize("size", [(5, 6), (64, 65)])
def test_conv_3x3_has_the_gradients_of_a_convolution(size):
    agree([convolutions.conv_3x3], plain.same_conv, (2, *size, 3), (3, 3, 3, 4))


@pytest.mark.parametrize("size", [(6, 8), (2, 2), (64, 66)])
@pytest.mark.parametrize("wide", [0, 9])
def test_winograd_computes_the_convolution(size, wide, monkeypatch):
    monkeypatch.setattr(winograd, "ENOUGH", 0)
    monkeypatch.setattr(winograd, "GRADIENT_WIDE", 0)
    monkeypatch.setattr(winograd, "WIDE", wide)
    form = computed_by(winograd.CPU_3X3)
    agree([winograd.winograd_conv, form], plain.same_conv, (2, *size, 3), (3, 3, 3, 5))


def test_wide_3x3_convolutions_choose_a_form_per_platform():
    wide = convolutions.conv_3x3, (1, 20, 22, 128), (3, 3, 128, 128)
    assert "stablehlo.convolution" not in lowered(*wide, "cpu")
    assert lowered(*wide, "cuda").count("stablehlo.convolution") == 3
    narrow = convolutions.conv_3x3, (1, 20, 22, 64), (3, 3, 64, 64)
    assert lowered(*narrow, "cpu").count("stablehlo.convolution") == 2  # forward, and the gradient by the input
    assert "stablehlo.dot" not in lowered(*narrow, "cuda")
    for function, x, kernel in (wide, narrow):
        agree([function], plain.same_conv, x, kernel)


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 10), (9, 7)])
def test_depthwise_forms_agree(k, stride, size):
    forms = [computed_by(form, stride) for form in (grouped.SHIFTED_CPU, grouped.SHIFTED_CUDA)]
    layer = partial(convolutions.depthwise_conv, stride=stride)
    agree([layer, *forms], partial(plain.grouped_depthwise, stride=stride), (2, *size, 6), (k, k, 1, 6))


@pytest.mark.parametrize(("groups", "width", "stride"), [(4, 3, 1), (8, 4, 1), (2, 17, 1), (8, 4, 2), (4, 3, 2)])
@pytest.mark.parametrize("size", [(8, 10), (9, 7)])
def test_grouped_forms_agree(groups, width, stride, size):
    meant = partial(plain.padded_grouped_conv, groups=groups, stride=stride)
    shapes = (2, *size, groups * width), (3, 3, width, groups * width)
    forms = (convolutions.grouped_conv_3x3, grouped.split_grouped_conv)
    agree([partial(form, groups=groups, stride=stride) for form in forms], meant, *shapes)


def test_upsample_conv_is_nearest_upsampling_then_convolution():
    forms = [convolutions.upsample_conv, products.product_upsample_conv]
    agree(forms, plain.upsampled_conv, (2, 5, 6, 4), (3, 3, 4, 7))


@pytest.mark.parametrize(("k", "size"), [(3, (12, 9)), (5, (7, 16)), (7, (10, 10)), (7, (30, 5)), (7, (1, 1))])
def test_dilated_forms_lose_nothing_by_leaving_out_the_padding(k, size):
    def meant(x, kernel):
        return plain.conv(x, kernel, padding=((k // 2 * k,) * 2,) * 2, dilation=k)

    forms = (plain.padded_dilated_conv, products.unpadded_dilated_conv, convolutions.dilated_conv)
    forms = [computed_by(plain.PHASED_CUDA, k), *(partial(form, dilation=k) for form in forms)]
    agree(forms, meant, (2, *size, 3), (k, k, 3, 4))


def test_no_kernel_of_a_cuda_program_is_as_large_as_a_map():
    # The plain gradient by the kernel is a convolution with all of dy, whose result has pixels `dilation` apart.
    layer = partial(convolutions.dilated_conv, dilation=3), (1, 12, 12, 4), (3, 3, 4, 4)
    assert "stride = [3, 3]" in lowered(*layer, "tpu")
    assert "stride = [3, 3]" not in lowered(*layer, "cuda")


def test_wide_dilated_convolutions_choose_a_form_per_platform():
    assert products.share_within(20, 7, 7) == pytest.approx((6 + 13 + 20 + 13 + 6) / 100)
    wide = partial(convolutions.dilated_conv, dilation=7), (1, 10, 10, 256), (7, 7, 256, 2)
    assert "stablehlo.convolution" not in lowered(*wide, "cpu")
    assert "stablehlo.convolution" in lowered(*wide, "cuda")
    agree([wide[0]], partial(plain.padded_dilated_conv, dilation=7), *wide[1:])


@pytest.mark.parametrize(
    ("layer", "x", "kernel", "groups"),
    [
        (convolutions.depthwise_conv, (1, 8, 8, 4), (3, 3, 1, 4), 4),
        (convolutions.upsample_conv, (1, 8, 8, 4), (3, 3, 4, 4), 1),
        (partial(convolutions.grouped_conv_3x3, groups=2), (1, 8, 8, 4), (3, 3, 2, 4), 2),
    ],
)
def test_a_tpu_gets_one_plain_convolution_and_a_cpu_no_grouped_one(layer, x, kernel, groups):
    assert f"feature_group_count = {groups} " in lowered(layer, x, kernel, "tpu")
    with_cpu_form = lowered(layer, x, kernel, "cpu")
    for name in ("feature_group_count", "batch_group_count"):
        assert with_cpu_form.count(name) == with_cpu_form.count(f"{name} = 1 ")


def test_one_line_of_the_table_decides_what_cuda_gets(monkeypatch):
    depthwise = convolutions.depthwise_conv, (1, 8, 8, 4), (3, 3, 1, 4), "cuda"
    assert "stablehlo.convolution" not in lowered(*depthwise)
    monkeypatch.setattr(convolutions, "DEPTHWISE", convolutions.DEPTHWISE._replace(cuda=None))
    assert lowered(*depthwise).count("stablehlo.convolution") == 3


def test_max_pool_takes_the_largest_of_four():
    x = random(2, 8, 6, 5)
    np.testing.assert_array_equal(convolutions.max_pool_2x2(x), x.reshape(2, 4, 2, 3, 2, 5).max(axis=(2, 4)))


def test_same_padding_puts_the_odd_pixel_behind():
    # TensorFlow's rule, by hand: size 8, k 3, stride 2 -> 4 outputs need 9 pixels, one more than there are.
    assert grouped.same_padding(8, 3, 2) == (0, 1)
    assert grouped.same_padding(9, 3, 2) == (1, 1)
    assert grouped.same_padding(8, 5, 2) == (1, 2)
    assert grouped.same_padding(8, 5, 1) == (2, 2)
