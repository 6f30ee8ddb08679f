"""Depth measures against values worked out by hand."""

import numpy as np
import pytest

from jaxdbd.scoring.depth import depth_scores, fitted_to, mean_scores


def test_by_hand():
    # x = 0 1 2 3 against y = .2 .4 .4 1: slope .24, offset .14; fitted .14 .38 .62 .86.
    x, y = np.array([[0.0, 1.0], [2.0, 3.0]], np.float32), np.array([[0.2, 0.4], [0.4, 1.0]], np.float32)
    scores = depth_scores(x, y)
    assert scores["pearson"] == pytest.approx(0.24 * np.sqrt(1.25) / np.sqrt(0.09), abs=1e-6)
    # Ranks 1 2 3 4 against 1 2.5 2.5 4.
    assert scores["spearman"] == pytest.approx(4.5 / np.sqrt(5 * 4.5), abs=1e-6)
    assert scores["abs_rel"] == pytest.approx((0.06 / 0.2 + 0.02 / 0.4 + 0.22 / 0.4 + 0.14 / 1.0) / 4, abs=1e-6)
    assert scores["spread"] == pytest.approx(np.sqrt(1.25) / 0.3, abs=1e-5)
    np.testing.assert_allclose(fitted_to(x, y), [[0.14, 0.38], [0.62, 0.86]], atol=1e-6)


def test_scale_and_shift_are_free_and_holes_left_out():
    y = np.random.default_rng(0).random((12, 20)).astype(np.float32)
    holed = y.copy()
    holed[:4] = np.nan
    wrong = (3 * y - 1).astype(np.float32)
    wrong[:4] = 99
    scores = depth_scores(wrong, holed)
    assert scores["pearson"] == pytest.approx(1, abs=1e-5)
    assert scores["spearman"] == pytest.approx(1, abs=1e-5)
    assert scores["abs_rel"] == pytest.approx(0, abs=1e-4)
    assert scores["spread"] == pytest.approx(3, rel=1e-3)


def test_a_flat_depth_tells_nothing_and_sizes_may_differ():
    y = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(64, 0)
    flat = depth_scores(np.full((64, 64), 0.5, np.float32), y)
    assert (flat["pearson"], flat["spearman"], flat["spread"]) == (0, 0, 0)
    assert depth_scores(y, y[::4, ::4])["pearson"] > 0.999
    assert mean_scores([]) == {}
    assert mean_scores([flat, flat])["pearson"] == 0
