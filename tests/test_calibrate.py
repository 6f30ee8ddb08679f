"""How `tools.calibrate` averages weights, and the shift and slope of the focus map that it chooses."""

import numpy as np
import pytest
import tiny  # noqa: F401, which adds its encoder
from drawn_network import drawn

from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.scoring.metrics import count_levels
from tools.calibrate import CLOSE, SHIFTS, SLOPES, averaged, best_pair, mean_error, moved, with_blur_heads


def test_weights_count_by_their_shares():
    first, second = ({"params": {"kernel": np.full((2, 3), v, np.float32)}} for v in (1.0, 5.0))
    np.testing.assert_allclose(averaged([first, second], [1, 3])["params"]["kernel"], 4.0)
    np.testing.assert_allclose(averaged([first, second], [2, 2])["params"]["kernel"], 3.0)


def test_weights_without_a_blur_head_get_that_of_the_others():
    model = DepthDistilledDBD("tiny", full_resolution=False, srfb="none")
    old, new = ((m, drawn(m)) for m in (model, model.clone(blur_head=True)))
    (first, mixed), (second, _) = with_blur_heads([old, new])
    assert first == second == new[0]
    for tree, channels, source in ((mixed, slice(2), old), (mixed, slice(2, 3), new)):
        wanted = source[1]["params"]["side3"]["kernel"][..., channels]
        np.testing.assert_array_equal(tree["params"]["side3"]["kernel"][..., channels], wanted)
    np.testing.assert_array_equal(mixed["params"]["fuse_blur"]["kernel"], new[1]["params"]["fuse_blur"]["kernel"])
    assert with_blur_heads([old]) == [old]


def test_shift_and_slope_move_the_logit_and_are_undone_by_their_opposites():
    p = np.array([0.01, 0.3, 0.5, 0.9])
    np.testing.assert_allclose(moved(p, 1.0, 2.5), 1 / (1 + np.exp(-2.5 * (np.log(p / (1 - p)) + 1))))
    np.testing.assert_allclose(moved(moved(p, 1.0, 2.0), -2.0, 0.5), p)
    assert moved(np.array([0.5]), np.log(3), 1.0) == pytest.approx(0.75)


def test_the_error_of_a_pair_is_that_of_the_moved_map():
    rng = np.random.default_rng(0)
    focus, mask = rng.integers(0, 256, (2, 20, 30), np.uint8), rng.random((2, 20, 30)) < 0.3
    levels = [count_levels(f, m) for f, m in zip(focus, mask, strict=True)]
    wanted = np.abs(moved(focus.ravel() / 255, 1.5, 2.0) - mask.ravel()).mean()
    assert mean_error(levels, 1.5, 2.0) == pytest.approx(wanted)


def test_a_map_that_is_too_low_is_raised_and_one_that_is_unsure_made_steeper():
    mask = np.random.default_rng(1).random((40, 40)) < 0.5
    levels = [count_levels(np.rint(255 * np.where(mask, sharp, blurred)).astype(np.uint8), mask) for sharp, blurred in (
        (0.4, 0.02), (0.45, 0.05))]  # fmt: skip
    shift, slope = best_pair([levels], SHIFTS, SLOPES)
    assert shift > 0
    assert slope > 1
    errors = {s: min(mean_error(levels, shift, s) for shift in SHIFTS) for s in SLOPES}
    assert slope == min(s for s in SLOPES if errors[s] <= min(errors.values()) + CLOSE)


def test_a_map_that_is_wrong_as_often_as_right_is_left_as_steep_as_it_is():
    levels = [np.zeros((2, 256), int)]
    levels[0][:, 100] = levels[0][:, 155] = 50
    assert best_pair([levels], [0.0], SLOPES) == (0.0, 1.0)
