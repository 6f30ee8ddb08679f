"""The network: shapes, sizes, invariants, switches. commands/test_convert.py has the authors' numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny  # noqa: F401, which adds its encoder

from jaxdbd import DepthDistilledDBD, normalize, weights
from jaxdbd.network.blocks import SRFB
from jaxdbd.network.encoders import ENCODERS, ConvNorm


def small(**fields):
    return DepthDistilledDBD("tiny", full_resolution=False, **fields)


def normal(*shape) -> jax.Array:
    return jax.device_put(np.random.default_rng(1).standard_normal(shape, np.float32))


@pytest.fixture(scope="module")
def images():
    return normal(2, 64, 96, 3)


def random_variables(model, x):
    """Variables drawn without compiling init; with statistics of their own, so that BatchNorm does something."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            values = rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        elif name in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(0, 0.1, leaf.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(
        draw, jax.eval_shape(partial(model.init, train=False), jax.random.key(0), x)
    )


def fresh_statistics(variables):
    """BatchNorm's statistics as they begin: mean 0, variance 1."""
    return {
        layer: {name: np.full_like(leaf, name == "var") for name, leaf in leaves.items()}
        for layer, leaves in variables["batch_stats"].items()
    }


def apply(block, variables, x):
    return jax.jit(partial(block.apply, train=False))(variables, x)


@pytest.fixture(scope="module")
def variables(images):
    return random_variables(small(), images)


@pytest.fixture(scope="module")
def forward():
    return jax.jit(small().apply)


@pytest.mark.parametrize(
    ("encoder", "count"),
    # paper.md's figures for the networks of the paper; [calc] there.
    [("vgg16", 19_436_634), ("vgg19", 24_746_330), ("resnext101", 84_468_186)],
)
def test_parameter_counts_of_the_paper(encoder, count):
    shapes = jax.eval_shape(DepthDistilledDBD(encoder).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


@pytest.mark.parametrize(("stride", "barriers"), [(1, 0), (2, 1)])
def test_a_barrier_keeps_slices_out_of_products(images, stride, barriers):
    """Without it compiling ResNeXt101 for CUDA ended the process in jax 0.10.2: `python -m tools.for_cuda` shows it."""
    layer = jax.jit(lambda x: ConvNorm(4, 1, stride).init_with_output(jax.random.key(0), x, False)[0])
    text = layer.trace(images).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.optimization_barrier") == barriers


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("full_resolution", [True, False])
def test_outputs_have_the_sizes_that_the_docstring_says(encoder, full_resolution):
    if encoder.startswith("lite") and full_resolution:
        pytest.skip("a lite encoder's decoder ends at half resolution")
    model = DepthDistilledDBD(encoder, full_resolution=full_resolution)
    x = jnp.zeros((2, 64, 96, 3))
    out = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x)[0])
    assert out.focus.shape == out.depth.shape == (2, 64, 96, 1)
    strides = (16, 8, 4, 2, 1) if full_resolution else (32, 16, 8, 4, 2)
    assert [s.shape for s in out.side_focus] == [(2, 64 // s, 96 // s, 1) for s in strides]
    assert [s.shape for s in out.side_depth] == [(2, 64 // s, 96 // s, 1) for s in strides]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_taps_have_the_stated_strides_and_channels(encoder):
    spec = ENCODERS[encoder]
    module = spec.module(dtype=jnp.float32)
    taps = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), jnp.zeros((1, 64, 128, 3)), False)[0])
    strides = [2, 4, 8, 16, 32]
    assert [t.shape for t in taps] == [(1, 64 // s, 128 // s, c) for s, c in zip(strides, spec.channels, strict=True)]


@pytest.mark.slow
def test_a_row_does_not_see_the_other_rows(forward, variables, images):
    together = forward(variables, images)
    apart = forward(variables, images[:1])
    np.testing.assert_allclose(together.focus[:1], apart.focus, atol=1e-5)
    swapped = forward(variables, images[::-1])
    np.testing.assert_allclose(swapped.depth[::-1], together.depth, atol=1e-5)


@pytest.fixture(scope="module")
def vgg():
    """A narrow VGG network, an input, and its outputs."""
    model = DepthDistilledDBD("vgg16", widths=(16,) * 5, full_resolution=False)
    x = normal(1, 32, 64, 3)
    variables = random_variables(model, x)
    forward = jax.jit(model.apply)
    return model, variables, x, forward, forward(variables, x)


def test_a_mirrored_kernel_sees_a_mirrored_image_alike(vgg):
    # A network with all kernels mirrored left to right commutes with mirroring. VGG, since 'SAME' padding at stride 2
    # (EfficientNet) is one-sided.
    _, variables, x, forward, out = vgg
    mirrored = jax.tree.map(lambda p: p[:, ::-1] if p.ndim == 4 else p, variables)
    scale = float(jnp.abs(out.focus).max())
    assert scale > 0.1
    np.testing.assert_allclose(forward(mirrored, x[:, :, ::-1]).focus[:, :, ::-1], out.focus, atol=1e-4 * scale)


@pytest.mark.slow
def test_bfloat16_agrees_with_float32(vgg):
    model, variables, x, _, out = vgg
    half = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, x)
    assert half.focus.dtype == jnp.float32
    np.testing.assert_allclose(jax.nn.sigmoid(half.focus), jax.nn.sigmoid(out.focus), atol=2e-2)


def test_parameters_and_statistics_are_float32_under_bfloat16(images):
    model = small(dtype=jnp.bfloat16)
    _, state = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), images, train=True, mutable=["params", "batch_stats"])
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_switches_remove_what_they_name(images):
    def names(**fields):
        shapes = jax.eval_shape(small(**fields).init, jax.random.key(0), images)["params"]
        return {
            jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree_util.tree_leaves_with_path(shapes)
        }

    everything = names()
    assert not any("sab" in n for n in names(sab=False))
    assert not any("srfb" in n for n in names(srfb="none"))
    assert any("plain" in n for n in names(srfb="none"))
    assert not any("squeeze" in n or "excite" in n for n in names(srfb_select=False))
    assert not any("depth" in n and "depthwise" not in n for n in names(depth_head=False))
    assert names(srfb="parallel") == everything
    out = jax.eval_shape(lambda: small(depth_head=False).init_with_output(jax.random.key(0), images)[0])
    assert out.depth is None
    assert out.side_depth == ()
    assert out.blur is None
    assert out.side_blur == ()


def test_a_blur_head_changes_nothing_else(variables, images, forward):
    model = small(blur_head=True)
    whole = weights.add_blur_head(variables, weights.blur_head(random_variables(model, images)))
    out, without = jax.jit(model.apply)(whole, images), forward(variables, images)
    for name in ("focus", "depth", "side_focus", "side_depth"):
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), getattr(out, name), getattr(without, name))
    assert [s.shape for s in out.side_blur] == [s.shape for s in out.side_depth]
    enlarged = [jax.image.resize(s, out.focus.shape, "bilinear")[..., 0] for s in out.side_blur]
    fuse = whole["params"]["fuse_blur"]
    expected = np.tensordot(fuse["kernel"][:, 0], np.stack(enlarged), 1)[..., None] + fuse["bias"]
    assert expected.min() < 0 < expected.max()
    np.testing.assert_allclose(out.blur, np.maximum(expected, 0), atol=1e-4)


def test_srfb_attention_is_a_convex_mix_of_its_branches():
    x = jnp.abs(normal(1, 8, 8, 4))
    variables = random_variables(SRFB(), x)
    # With all branch kernels zero, branches 1 to 3 are relu(0) = 0, and equal scores weigh the input by a quarter.
    zero = jax.tree.map(np.zeros_like, variables["params"])
    fresh = {"batch_stats": fresh_statistics(variables)}
    np.testing.assert_allclose(apply(SRFB(), fresh | {"params": zero}, x), x / 4, rtol=1e-6)
    names = {k: v for k, v in zero.items() if not k.startswith(("squeeze", "excite"))}
    np.testing.assert_allclose(apply(SRFB(select=False), fresh | {"params": names}, x), x, rtol=1e-6)


def test_cascaded_and_parallel_srfb_differ_in_reach():
    x = jnp.zeros((1, 129, 129, 1)).at[0, 64, 64, 0].set(1.0)

    def reach(cascaded):
        block = SRFB(cascaded, select=False)
        variables = random_variables(block, x)
        params = {
            layer: {name: np.full_like(leaf, name != "bias") for name, leaf in leaves.items()}
            for layer, leaves in variables["params"].items()
        }
        out = apply(block, {"params": params, "batch_stats": fresh_statistics(variables)}, x)
        rows = np.flatnonzero(np.abs(np.asarray(out)).sum((0, 2, 3)))
        return rows[-1] - rows[0] + 1

    # Kernels of 3, 5, 7 at rates 3, 5, 7 span 7, 21 and 43 pixels: 43 in parallel [paper], 7 + 20 + 42 = 69 cascaded.
    assert reach(False) == 43
    assert reach(True) == 69


def test_normalize_is_the_encoders_own():
    image = jnp.full((1, 1, 1, 3), 255, jnp.uint8)
    np.testing.assert_allclose(normalize(image, "vgg16")[0, 0, 0], [2.24891, 2.42857, 2.64], rtol=1e-4)
    np.testing.assert_allclose(normalize(image, "lite0")[0, 0, 0], [1.0] * 3)


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiples of 32"):
        jax.eval_shape(small().init, jax.random.key(0), jnp.zeros((1, 64, 100, 3)))
    with pytest.raises(ValueError, match="srfb must be"):
        jax.eval_shape(small(srfb="serial").init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
