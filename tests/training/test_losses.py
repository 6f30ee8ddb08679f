"""Every loss against values worked out by hand, and the joint loss against its definition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdbd.network.model import SHARPNESS_LIMIT, Output, diameter, log_diameter
from jaxdbd.training import losses
from jaxdbd.training.losses import joint_loss, shrink_to

# Each as one program: their operations, compiled one by one for every shape, take longer.
TERMS = ("bce", "soft_iou", "dof_edge", "l1", "scale_shift_invariant", "midas", "l1_of_batch")
bce, soft_iou, dof_edge, l1, scale_shift_invariant, midas, l1_of_batch = (
    jax.jit(getattr(losses, name)) for name in TERMS
)


def maps(*rows) -> jnp.ndarray:
    """One map [1, h, w, 1]."""
    return jnp.asarray(rows, jnp.float32)[None, ..., None]


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def test_bce():
    # -(ln 0.75 + ln (1 - 0.2)) / 2
    value = bce(maps([logit(0.75), logit(0.2)]), maps([1.0, 0.0]))
    np.testing.assert_allclose(value, [(0.287682 + 0.223144) / 2], rtol=1e-5)
    # A soft target of 0.5 on a probability of 0.5: ln 2.
    np.testing.assert_allclose(bce(maps([0.0]), maps([0.5])), [0.693147], rtol=1e-5)
    # Far out, where exp would overflow: |logit|.
    np.testing.assert_allclose(bce(maps([1e4]), maps([0.0])), [1e4], rtol=1e-6)


def test_soft_iou():
    # p = .75 .5, y = 1 0: intersection .75, union .75 + .5 + 1 - .75 = 1.5; 1 - 1.75 / 2.5
    np.testing.assert_allclose(soft_iou(maps([logit(0.75), 0.0]), maps([1.0, 0.0])), [0.3], rtol=1e-5)
    # Nothing in focus and nothing predicted is right, thanks to the smoothing.
    np.testing.assert_allclose(soft_iou(maps([-50.0, -50.0]), maps([0.0, 0.0])), [0.0], atol=1e-6)


def test_dof_edge():
    # A step between columns 2 and 3 of a 4x4 map: the Laplacian of the label is -3 and +3 beside it, 0 elsewhere.
    label = maps(*[[0.0, 0.0, 1.0, 1.0]] * 4)
    # Probability 0.5 everywhere has no border: overlap 0, label edges 8; half of 1 - 1 / 9.
    np.testing.assert_allclose(dof_edge(jnp.zeros((1, 4, 4, 1)), label), [0.5 * (1 - 1 / 9)], rtol=1e-5)
    # The label itself: e = 9, e / (e + 1) = 0.9 on 8 pixels; half of 1 - (2 * 7.2 + 1) / (8 * 0.81 + 8 + 1).
    perfect = (label * 2 - 1) * 50
    np.testing.assert_allclose(dof_edge(perfect, label), [0.5 * (1 - 15.4 / 15.48)], rtol=1e-4)
    # A photograph wholly in focus has no border either, not even at its frame.
    np.testing.assert_allclose(dof_edge(jnp.full((1, 4, 4, 1), 50.0), jnp.ones((1, 4, 4, 1))), [0.0], atol=1e-6)


def test_l1_l2():
    a, b = maps([0.0, 1.0], [0.5, 0.25]), maps([0.5, 0.0], [0.5, 0.5])
    np.testing.assert_allclose(l1(a, b), [(0.5 + 1 + 0 + 0.25) / 4], rtol=1e-6)


def test_scale_shift_invariant():
    # Medians 2 and 1, mean absolute deviations 4/3 and 2: (-1.5, 0, 1.5) against (-0.5, 0, 2.5).
    a, b = maps([0.0, 2.0, 4.0]), maps([0.0, 1.0, 6.0])
    np.testing.assert_allclose(scale_shift_invariant(a, b), [(1.0 + 0 + 1.0) / 3], rtol=1e-5)
    rng = np.random.default_rng(0)
    depth = jnp.asarray(rng.random((2, 5, 7, 1)), jnp.float32)
    np.testing.assert_allclose(scale_shift_invariant(3 * depth - 2, depth), [0, 0], atol=1e-5)
    # A flat prediction must not divide by zero, backwards either.
    flat = jax.grad(lambda x: scale_shift_invariant(x, depth).sum())(jnp.ones((2, 5, 7, 1)))
    assert bool(jnp.isfinite(flat).all())


def test_losses_are_per_image():
    a, b = maps([0.0, 1.0]), maps([1.0, 1.0])
    for loss in (bce, soft_iou, dof_edge, l1, scale_shift_invariant):
        both = loss(jnp.concatenate([a, b]), jnp.concatenate([b, b]))
        np.testing.assert_allclose(both, [loss(a, b)[0], loss(b, b)[0]], rtol=1e-6)


def test_shrink_averages_blocks():
    target = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(shrink_to(target, (2, 2))[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])


def random_output(rng, b: int = 2) -> Output:
    def draw(side):
        return jnp.asarray(rng.normal(size=(b, side, side, 1)), jnp.float32)

    sides = (1, 2, 4, 8, 16)
    return Output(draw(32), draw(32), tuple(map(draw, sides)), tuple(map(draw, sides)))


@pytest.mark.slow
@pytest.mark.parametrize(("focus_loss", "terms"), [("bce", [bce]), ("bce+iou", [bce, soft_iou])])
@pytest.mark.parametrize(("depth_loss", "depth_term"), [("l1", l1), ("ssi", scale_shift_invariant)])
def test_joint_loss_is_the_weighted_sum(focus_loss, terms, depth_loss, depth_term):
    rng = np.random.default_rng(1)
    output, side_weights, gamma = random_output(rng), (0.0, 1.0, 2.0, 0.5, 1.0), 0.3
    mask = jnp.asarray(rng.integers(0, 2, (2, 32, 32, 1)), jnp.float32)
    depth = jnp.asarray(rng.random((2, 32, 32, 1)), jnp.float32)

    def expected(term, fused, sides, target):
        sides = [w * term(s, shrink_to(target, s.shape[1:3])) for s, w in zip(sides, side_weights, strict=True)]
        return float((term(fused, target) + sum(sides)).mean())

    focus = sum(expected(term, output.focus, output.side_focus, mask) for term in terms)
    near = expected(depth_term, output.depth, output.side_depth, depth)
    options = {"focus_loss": focus_loss, "depth_loss": depth_loss, "gamma": gamma, "side_weights": side_weights}
    total, logged = joint_loss(output, mask, depth, **options)
    np.testing.assert_allclose(total, focus + gamma * near, rtol=1e-5)
    assert set(logged) == {"loss", "depth", *(t.__name__ for t in terms)}
    np.testing.assert_allclose(logged["depth"], near, rtol=1e-5)
    # Without a teacher, or without a depth head, only the focus terms are left.
    without = joint_loss(output, mask, None, **options)[0]
    headless = joint_loss(output._replace(depth=None, side_depth=()), mask, depth, **options)[0]
    np.testing.assert_allclose([without, headless], focus, rtol=1e-5)


def test_a_fused_map_of_half_the_size_has_the_mean_of_the_mask_as_its_target():
    rng = np.random.default_rng(3)
    output = random_output(rng)
    mask = jnp.asarray(rng.integers(0, 2, (2, 64, 64, 1)), jnp.float32)
    options = {"focus_loss": "bce", "depth_loss": "l1", "gamma": 1.0, "side_weights": (0.0,) * 5}
    total, _ = joint_loss(output, mask, None, **options)
    np.testing.assert_allclose(total, bce(output.focus, shrink_to(mask, (32, 32))).mean(), rtol=1e-6)


def test_midas():
    # Five columns. The target centered on its median 2 and over its mean deviation 1.2: -1.667 -.833 0 .833 1.667.
    target = maps([0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(midas(2 * target + 1, target), [0.0], atol=1e-5)
    # One column off by 5: 0 1 7 3 4 with median 3 and mean deviation 2 becomes -1.5 -1 2 0 .5; less the target's, the
    # residuals are .167 -.167 2 -.833 -1.167. The largest fifth, 2, is left out of the first term.
    other = target.at[:, :, 2].add(5.0)
    first = (0.16667 + 0.16667 + 0.83333 + 1.16667) / 5
    # Neighbors in a row differ by .333 2.167 2.833 .333, in a column by 0. At half resolution one row is left: the end.
    gradient = (0.33333 + 2.16667 + 2.83333 + 0.33333) / 4
    np.testing.assert_allclose(midas(other, target), [first + 0.5 * gradient], rtol=1e-4)


@pytest.mark.parametrize("loss", [bce, soft_iou, dof_edge, l1, scale_shift_invariant, midas])
def test_what_is_not_known_changes_no_value_and_no_gradient(loss):
    rng = np.random.default_rng(3)
    x, y = (jnp.asarray(rng.random((2, 16, 16, 1)), jnp.float32) for _ in range(2))
    known = jnp.ones_like(x).at[:, :, 10:].set(0)
    # dof_edge looks one pixel beyond.
    other_x, other_y = x.at[:, :, 11:].add(7.0), y.at[:, :, 11:].set(0.0)
    np.testing.assert_allclose(loss(other_x, other_y, known), loss(x, y, known), rtol=1e-5)
    gradient = jax.grad(lambda x: loss(x, y, known).sum())(x)
    assert float(jnp.abs(gradient[:, :, 11:]).max()) == 0
    assert float(jnp.abs(gradient[:, :, :10]).max()) > 0
    # Nothing known at all: no loss, and no NaN.
    value, gradient = jax.value_and_grad(lambda x: loss(x, y, jnp.zeros_like(x)).sum())(x)
    assert bool(jnp.isfinite(value))
    assert float(jnp.abs(gradient).max()) == 0


@pytest.mark.slow
def test_holes_in_the_teachers_depth_and_dont_care_pixels_are_left_out():
    rng = np.random.default_rng(4)
    output = random_output(rng)
    mask = jnp.asarray(rng.integers(0, 2, (2, 32, 32, 1)), jnp.float32)
    depth = jnp.asarray(rng.random((2, 32, 32, 1)), jnp.float32)
    options = {"focus_loss": "bce+iou", "depth_loss": "midas", "gamma": 1.0, "side_weights": (0.0, 0.0, 0.0, 0.0, 1.0)}
    hole = (slice(None), slice(16), slice(16))
    valid = jnp.ones_like(mask).at[hole].set(0)

    def value(mask, depth):
        return joint_loss(output, mask, depth.at[hole].set(jnp.nan), valid, **options)[0]

    same = value(mask, depth)
    assert bool(jnp.isfinite(same))
    np.testing.assert_allclose(value(mask.at[hole].set(1), depth.at[hole].set(0)), same, rtol=1e-6)
    assert abs(float(joint_loss(output, mask, depth, **options)[0] - same)) > 1e-3


def test_blur_is_averaged_over_the_known_pixels_of_the_batch():
    # Differences 1 and 3 of two known pixels in the first image, 5 of one in the second: 9 / 3.
    log, target = maps([1.0, 2.0, 9.0]), maps([2.0, 5.0, 0.0])
    both = jnp.concatenate([log, log]), jnp.concatenate([target, maps([0.0, 7.0, 0.0])])
    known = jnp.concatenate([maps([1.0, 1.0, 0.0]), maps([0.0, 1.0, 0.0])])
    np.testing.assert_allclose(l1_of_batch(*both, known), [4 / 1.5, 5 / 1.5], rtol=1e-6)
    np.testing.assert_allclose(l1_of_batch(*both, known).mean(), 3, rtol=1e-6)
    assert not l1_of_batch(*both, jnp.zeros_like(known)).any()


def test_the_logarithm_of_a_diameter():
    shares = jnp.array([0.0, 1.0, 3.0, 15.0]) * SHARPNESS_LIMIT
    np.testing.assert_allclose(log_diameter(shares), np.log([1, 2, 4, 16]), rtol=1e-6)
    np.testing.assert_allclose(diameter(log_diameter(shares)), shares, rtol=1e-5)


BLUR = {"focus_loss": "bce", "depth_loss": "l1", "gamma": 0.0, "blur_weight": 0.5}


def blur_terms(fused, sides, share):
    """The loss of constant maps of blur beside focus logits of 0, and its terms."""
    zero = jnp.zeros((1, 32, 32, 1))
    side_focus = tuple(jnp.zeros((1, s, s, 1)) for s in (1, 2, 4, 8, 16))
    output = Output(
        zero, None, side_focus, (), zero + fused, tuple(s + x for s, x in zip(side_focus, sides, strict=True))
    )
    loss = partial(joint_loss, **BLUR, side_weights=(0.0, 1.0, 1.0, 2.0, 0.0))
    return jax.jit(loss)(output, zero, None, None, zero + share)


def test_blur_of_the_fused_and_the_side_outputs_by_hand():
    # Three limits of 1.28 pixels: the target is log 4 everywhere. Off by .5, and by .1, .2 and .3 with weights 1, 1, 2.
    target = np.log(4)
    sides = [0.0, target + 0.1, target - 0.2, target + 0.3, 9.0]
    total, terms = blur_terms(target - 0.5, sides, 3 * 1.28 / 32)
    np.testing.assert_allclose(terms["blur"], 0.5 + 0.1 + 0.2 + 0.6, rtol=1e-5)
    np.testing.assert_allclose(total, 0.5 * 1.4 + np.log(2) * 5, rtol=1e-5)


def test_unknown_blur_reaches_no_gradient():
    rng = np.random.default_rng(5)
    output = random_output(rng)
    output = output._replace(blur=output.focus, side_blur=output.side_focus)
    mask = jnp.zeros((2, 32, 32, 1))
    share = jnp.full_like(mask, 0.01).at[1].set(jnp.nan).at[0, :16].set(jnp.nan)
    options = BLUR | {"side_weights": (1.0,) * 5}

    def of(output, share):
        return joint_loss(output, mask, None, None, share, **options)[1]["blur"]

    with_gradient = jax.jit(jax.value_and_grad(of))
    value, gradient = with_gradient(output, share)
    assert bool(jnp.isfinite(value))
    for leaf in (gradient.blur, *gradient.side_blur):
        assert bool(jnp.isfinite(leaf).all())
        assert not leaf[1].any()
        assert leaf[0].any()
    assert not gradient.blur[0, :16].any()
    # Nothing known in the whole batch.
    value, gradient = with_gradient(output, jnp.full_like(share, jnp.nan))
    assert value == 0
    assert not gradient.blur.any()
