"""Blur measures against values worked out by hand."""

import numpy as np
import pytest

from jaxdbd.inference import SquareMaps
from jaxdbd.scoring.blur import NARROWEST, WIDEST, Sample, blur_scores, sample


def sample_of(true, predicted, agreement=1.0) -> Sample:
    return Sample(np.float32([true, predicted]), agreement)


def test_by_hand():
    # Ranks of the predictions 1 3 2 4; off by factors of 2, 1.4, 1 and 1.6.
    parts = [sample_of([0.01, 0.02], [0.005, 0.028], 0.5), sample_of([0.025, 0.05], [0.025, 0.08], 0.9)]
    scores = blur_scores(parts)
    assert scores["spearman"] == pytest.approx(0.8)
    assert scores["log2_error"] == pytest.approx((np.log2(1.4) + np.log2(1.6)) / 2, abs=1e-6)
    assert scores["within_factor"] == pytest.approx(0.5)
    assert scores["agreement"] == pytest.approx(0.7)
    assert blur_scores([]) == {}
    # Where no diameter is known, there is only what the two maps say of each other.
    assert blur_scores([sample_of([], [], 0.25)]) == {"agreement": 0.25}
    # No blur where there is some is far off, and no infinity.
    assert 5 < blur_scores([sample_of([0.01], [0.0])])["log2_error"] < 20


def test_shares_of_the_square_become_shares_of_the_longer_side():
    # A photograph of 100 x 400 pixels has the area of a square of 200: 0.04 of that are 8 pixels, 0.02 of 400.
    maps = SquareMaps(np.ones((64, 64), np.float32), None, np.full((64, 64), 0.04, np.float32))
    reference = np.full((40, 160, 1)[:2], 0.02, np.float16)
    reference[:10] = np.nan
    reference[10:20] = NARROWEST / 2
    reference[20:30] = WIDEST * 2
    found = sample(maps, (100, 400), reference)
    assert found.pairs.shape == (2, 10 * 80)  # every second column of the only rows that count
    np.testing.assert_allclose(found.pairs, 0.02, rtol=1e-3)
    assert sample(maps, (100, 400), None).pairs.shape == (2, 0)
    assert sample(maps._replace(blur=None), (100, 400), reference) is None


def test_focus_and_blur_agree_where_both_say_sharp_or_both_blurred():
    # In focus on the left three quarters, without blur in the upper half: the same of 3/8 and of 1/8.
    focus, blur = np.zeros((8, 8), np.float32), np.full((8, 8), 0.01, np.float32)
    focus[:, :6], blur[:4] = 1, 0.001
    assert sample(SquareMaps(focus, None, blur), (8, 8), None).agreement == 0.5
