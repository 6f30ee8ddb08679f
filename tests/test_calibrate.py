"""How `tools.calibrate` averages weights, and the shift of the focus map that it chooses."""

import numpy as np
import pytest

from jaxdbd.scoring.metrics import count_levels
from tools.calibrate import SHIFTS, averaged, mean_errors, shifted


def test_weights_count_by_their_shares():
    first, second = ({"params": {"kernel": np.full((2, 3), v, np.float32)}} for v in (1.0, 5.0))
    np.testing.assert_allclose(averaged([first, second], [1, 3])["params"]["kernel"], 4.0)
    np.testing.assert_allclose(averaged([first, second], [2, 2])["params"]["kernel"], 3.0)


def test_a_shift_moves_the_logit_and_is_undone_by_its_opposite():
    p = np.array([0.01, 0.3, 0.5, 0.9])
    np.testing.assert_allclose(shifted(p, 1.0), 1 / (1 + np.exp(-(np.log(p / (1 - p)) + 1))))
    np.testing.assert_allclose(shifted(shifted(p, 1.0), -1.0), p)
    assert shifted(np.array([0.5]), np.log(3)) == pytest.approx(0.75)


def test_the_error_of_a_shift_is_that_of_the_shifted_map():
    rng = np.random.default_rng(0)
    focus, mask = rng.integers(0, 256, (2, 20, 30), np.uint8), rng.random((2, 20, 30)) < 0.3
    levels = [count_levels(f, m) for f, m in zip(focus, mask, strict=True)]
    wanted = [np.abs(shifted(focus.ravel() / 255, s) - mask.ravel()).mean() for s in (0.0, 1.5)]
    np.testing.assert_allclose(mean_errors(levels, [0.0, 1.5]), wanted)


def test_a_map_that_is_too_low_is_raised():
    mask = np.random.default_rng(1).random((40, 40)) < 0.5
    low = np.where(mask, 0.4, 0.02)
    best = SHIFTS[int(mean_errors([count_levels(np.rint(low * 255).astype(np.uint8), mask)], SHIFTS).argmin())]
    assert best > 0
