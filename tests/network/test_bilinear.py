"""The rules that follow from a convolution being bilinear, and the choice of a form by platform."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny  # noqa: F401, which adds its encoder
from drawn_network import drawn

from jaxdbd import DepthDistilledDBD
from jaxdbd.network import convolutions, plain, winograd
from jaxdbd.network.bilinear import bilinear, bilinear_p


def pointwise_conv(x, kernel):
    return bilinear(convolutions.POINTWISE, x, kernel)


# Each layer with its plain form, small, and so that a CPU takes its own form.
LAYERS = {
    "pointwise": (pointwise_conv, jnp.dot, (2, 3, 4, 5), (5, 6)),
    "3x3": (convolutions.conv_3x3, plain.same_conv, (2, 4, 6, 3), (3, 3, 3, 5)),
    "upsample": (convolutions.upsample_conv, plain.upsampled_conv, (2, 3, 4, 3), (3, 3, 3, 5)),
    "dilated": (
        partial(convolutions.dilated_conv, dilation=5),
        partial(plain.padded_dilated_conv, dilation=5),
        (1, 5, 6, 256),
        (3, 3, 256, 2),
    ),
    "depthwise": (
        partial(convolutions.depthwise_conv, stride=2),
        partial(plain.grouped_depthwise, stride=2),
        (2, 5, 6, 4),
        (3, 3, 1, 4),
    ),
    "grouped": (
        partial(convolutions.grouped_conv_3x3, groups=2),
        partial(plain.padded_grouped_conv, groups=2),
        (2, 5, 6, 4),
        (3, 3, 2, 4),
    ),
}
TABLE = ("POINTWISE", "CONV_3X3", "UPSAMPLE", "DILATED", "DEPTHWISE", "GROUPED")


@pytest.fixture(params=LAYERS)
def layer(request, monkeypatch):
    for threshold in ("WIDE", "GRADIENT_WIDE", "ENOUGH"):
        monkeypatch.setattr(winograd, threshold, 0)
    return LAYERS[request.param]


@pytest.fixture
def without_cpu_forms(monkeypatch):
    """A function that takes the CPU's forms out of the table."""

    def take_out():
        for name in TABLE:
            monkeypatch.setattr(convolutions, name, getattr(convolutions, name)._replace(cpu=None))

    return take_out


def random(*shape, seed):
    return jax.device_put(np.random.default_rng(seed).standard_normal(shape, np.float32))


def derivatives(function, x, kernel, dx, dkernel):
    """All that is asked of a function of (x, kernel) beyond its values and gradients."""

    def loss(x, kernel):
        return jnp.sin(function(x, kernel)).sum()

    gradient = jax.grad(loss, argnums=(0, 1))
    kernels = jnp.stack([kernel, dkernel, kernel - dkernel], axis=1)
    over_kernels, over_maps = jax.vmap(function, (None, 1)), jax.vmap(function, (0, None))
    return {
        "jvp": jax.jvp(function, (x, kernel), (dx, dkernel)),
        "linearize": jax.linearize(function, x, kernel)[1](dx, dkernel),
        "hessian-vector product": jax.jvp(gradient, (x, kernel), (dx, dkernel)),
        "gradient of a gradient": jax.grad(lambda *xs: jnp.sin(gradient(*xs)[0]).sum(), argnums=(0, 1))(x, kernel),
        "vmap over kernels": over_kernels(x, kernels),
        "vmap over both": jax.vmap(over_kernels, (0, None))(jnp.stack([x, dx]), kernels),
        "gradients over kernels": jax.vmap(gradient, (None, 1))(x, kernels),
        "gradient of a vmap over kernels": jax.grad(lambda k: jnp.sin(over_kernels(x, k)).sum())(kernels),
        "gradient of a vmap over maps": jax.grad(lambda k: jnp.sin(over_maps(jnp.stack([x, dx]), k)).sum())(kernel),
    }


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_every_derivative_is_that_of_the_plain_form(layer):
    function, meant, x, kernel = layer
    operands = [random(*shape, seed=i) for i, shape in enumerate((x, kernel, x, kernel))]
    ours, theirs = (jax.jit(partial(derivatives, f))(*operands) for f in (function, meant))
    jax.tree.map(close, ours, theirs)


def lowered_for(platforms, function, *shapes):
    """The text of a program for each platform, traced once."""
    traced = jax.jit(function).trace(*shapes)
    return {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in platforms}


def test_a_program_for_an_accelerator_holds_nothing_of_the_cpus_forms(layer, without_cpu_forms):
    function, _, x, kernel = layer
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x, kernel, x, kernel)]

    def programs():
        return lowered_for(("cpu", "cuda", "tpu"), lambda *operands: derivatives(function, *operands), *shapes)

    with_forms = programs()
    without_cpu_forms()
    without = programs()
    assert {platform: without[platform] == text for platform, text in with_forms.items()} == {
        "cpu": False,
        "cuda": True,
        "tpu": True,
    }


def test_outside_of_jit_each_form_is_compiled_once():
    x, kernel = random(1, 6, 6, 4, seed=0), random(3, 3, 1, 4, seed=1)
    count: Any = getattr(bilinear_p.impl, "_cache_size")  # noqa: B009, a method that JAX's types hide
    convolutions.depthwise_conv(x, kernel)
    compiled = count()
    convolutions.depthwise_conv(x + 1, kernel, 1)
    assert count() == compiled
    convolutions.depthwise_conv(x, kernel, 2)
    assert count() == compiled + 1


def test_a_printed_program_names_the_layer():
    printed = str(jax.make_jaxpr(convolutions.conv_3x3)(jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 2, 2))))
    assert "forms=conv_3x3" in printed
    assert "function" not in printed


# --- The network ---


def loss_of(model, images):
    """The mean square of all that the network says, by its parameters, with batch statistics."""

    def loss(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        out, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return sum(jnp.square(leaf).mean() for leaf in jax.tree.leaves(out))

    return loss


@pytest.mark.slow
def test_derivatives_of_the_network_agree_with_each_other_and_lower_for_every_platform():
    model = DepthDistilledDBD("tiny", full_resolution=False, depth_head=False)  # whose layers are those of focus
    variables = drawn(model)
    params = variables["params"]
    loss = jax.jit(partial(loss_of(model, random(2, 32, 32, 3, seed=0)), batch_stats=variables["batch_stats"]))
    rng = np.random.default_rng(1)
    u, v = (jax.tree.map(lambda p: rng.standard_normal(p.shape, np.float32), params) for _ in range(2))

    def dot(a, b):
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), a, b)))

    @jax.jit
    def pairs(params, u, v):
        gradient = jax.grad(loss)
        value, slope = jax.jvp(loss, (params,), (u,))
        linear_value, linear = jax.linearize(loss, params)
        by_u, by_v = (jax.jvp(gradient, (params,), (w,))[1] for w in (u, v))
        half_and_whole = jax.vmap(loss)(jax.tree.map(lambda p: jnp.stack([0.5 * p, p]), params))
        return {
            "jvp, and the gradient along a direction": (slope, dot(gradient(params), u)),
            "linearize": (linear(u), slope),
            "value of linearize": (linear_value, value),
            "the Hessian is symmetric": (dot(u, by_v), dot(v, by_u)),
            "vmap over parameters": (half_and_whole[1], value),
        }

    for name, (ours, theirs) in pairs(params, u, v).items():
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, err_msg=name)
    for text in lowered_for(("cuda", "tpu"), pairs, params, u, v).values():
        assert "stablehlo.convolution" in text
