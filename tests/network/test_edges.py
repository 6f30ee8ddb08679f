"""The filter that makes maps crisp, against a plain one written out, and what it must leave alone."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdbd.network.edges import EPSILON, crisp, guided, solved, window_means

RNG = np.random.default_rng(0)


def plain_guided(values, image, radius):
    """The same filter as He, Sun and Tang write it, a linear system at a time, at half the size."""
    h, w = values.shape
    half = [x.reshape(h // 2, 2, w // 2, 2, -1).mean(axis=(1, 3)) for x in (values, image)]
    target, guide = half[0][..., 0], half[1]
    rows, columns = window_means(h // 2, radius / 2), window_means(w // 2, radius / 2)
    linear = np.zeros((h // 2, w // 2, 4))
    for i in range(h // 2):
        for j in range(w // 2):
            weight = np.outer(rows[i], columns[j])[..., None]
            mean, mean_target = (guide * weight).sum((0, 1)), (target * weight[..., 0]).sum()
            centered = (guide - mean).reshape(-1, 3)
            spread = (centered * weight.reshape(-1, 1)).T @ centered + EPSILON * np.eye(3)
            joint = (centered * weight.reshape(-1, 1)).T @ (target - mean_target).ravel()
            slope = np.linalg.solve(spread, joint)
            linear[i, j] = [*slope, mean_target - slope @ mean]
    mean = np.einsum("ij,jwc,vw->ivc", rows, linear, columns)
    large = np.asarray(jax.image.resize(jnp.asarray(mean), (h, w, 4), "bilinear"))
    return (large[..., :3] * image).sum(-1) + large[..., 3]


def test_it_is_the_filter_of_the_paper():
    values, image = RNG.normal(size=(24, 32)), RNG.random((24, 32, 3))
    found = guided(jnp.float32(values)[None], jnp.float32(image)[None], 5.0)[0]
    np.testing.assert_allclose(found, plain_guided(values, image, 5.0), atol=2e-4)


def test_a_soft_edge_moves_to_that_of_the_photograph():
    image = np.full((64, 64, 3), 0.2, np.float32)
    image[:, 30:] = [0.7, 0.5, 0.3]
    soft = np.tile(np.linspace(-4, 4, 64, dtype=np.float32), (64, 1))  # 0 between the columns 31 and 32
    found = np.asarray(guided(jnp.asarray(soft)[None], jnp.asarray(image)[None], 8.0))[0]
    jump = np.diff(found[32])
    assert jump.argmax() in (29, 30)
    assert jump.max() > 5 * np.diff(soft[32]).max()


def test_nothing_to_follow_is_a_mean_and_the_slope_is_a_factor():
    flat, values = jnp.full((1, 16, 16, 3), 0.5), jnp.full((1, 16, 16), 1.5)
    np.testing.assert_allclose(crisp(values, flat, radius=0.1, slope=2.0), 3.0, rtol=1e-5)
    logits = jnp.float32(RNG.normal(size=(1, 16, 16)))
    np.testing.assert_array_equal(crisp(logits, flat, radius=0.0, slope=1.0), logits)


def test_turning_and_batches_change_nothing():
    values, images = jnp.float32(RNG.normal(size=(2, 16, 24))), jnp.float32(RNG.random((2, 16, 24, 3)))
    both = guided(values, images, 3.0)
    np.testing.assert_allclose(both[1:], guided(values[1:], images[1:], 3.0), atol=1e-5)
    np.testing.assert_allclose(
        both[:, ::-1, ::-1], guided(values[:, ::-1, ::-1], images[:, ::-1, ::-1], 3.0), atol=1e-4
    )


def test_windows_by_hand():
    # Radius 1.25: the value itself, one to each side, and a quarter of the next.
    np.testing.assert_allclose(window_means(5, 1.25)[2], np.array([0.25, 1, 1, 1, 0.25]) / 3.5, rtol=1e-6)
    np.testing.assert_allclose(window_means(5, 1.0)[0], np.array([1, 1, 0, 0, 0]) / 2, rtol=1e-6)


def test_three_equations():
    root = RNG.normal(size=(7, 3, 3))
    matrix, x = root @ root.swapaxes(1, 2) + np.eye(3), RNG.normal(size=(7, 3))
    variance = np.stack([matrix[:, i, i] for i in range(3)], -1)
    covariance = np.stack([matrix[:, 0, 1], matrix[:, 1, 2], matrix[:, 2, 0]], -1)
    found = solved(*(jnp.float32(v) for v in (variance, covariance, np.einsum("nij,nj->ni", matrix, x))))
    np.testing.assert_allclose(found, x, atol=1e-4)
