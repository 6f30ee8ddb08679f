"""What a contact sheet is sorted by: values worked out by hand, and what a photographer would say."""

import numpy as np
import pytest

from jaxdbd.photographs.culling import VERDICTS, sharpness, verdict

SIDE = 200


def with_box(top: float, bottom: float, left: float, right: float, inside: float = 1.0, outside: float = 0.0):
    """A map that is `inside` within a box, given in shares of the photograph."""
    focus = np.full((SIDE, SIDE), outside, np.float32)
    focus[round(top * SIDE) : round(bottom * SIDE), round(left * SIDE) : round(right * SIDE)] = inside
    return focus


MIDDLE = (0.25, 0.75, 0.25, 0.75)
FACE = (0.3, 0.4, 0.35, 0.45)  # a hundredth of the photograph
SPECK = (0.475, 0.525, 0.475, 0.525)  # a quarter of that
STRIP = (0.85, 1, 0, 1)  # along the lower border


@pytest.mark.parametrize(
    ("focus", "threshold", "score", "share", "centrality", "said"),
    [
        (with_box(*MIDDLE, inside=0), 0.5, 0, 0, 0, "nothing in focus"),
        (with_box(*MIDDLE, outside=1), 0.5, 1, 1, 1, "all in focus"),
        (with_box(*FACE), 0.5, 1, 0.01, 1, "subject in focus"),
        (with_box(*FACE, inside=0.75), 0.5, 0.5, 0.01, 1, "subject in focus"),  # half way up from the threshold
        (with_box(*FACE, inside=0.75), 0.7, 1 / 6, 0.01, 1, "subject in focus"),
        (with_box(*SPECK), 0.5, 0.25, 0.0025, 1, "nothing in focus"),  # too small to count
        (with_box(*MIDDLE, inside=0, outside=1), 0.5, 2 / 3, 0.75, 2 / 3, "subject missed?"),
        # The mean of sin(pi y) over the last 15 % is (1 - cos(0.15 pi)) / (0.15 pi), over all of it 2 / pi.
        (with_box(*STRIP), 0.5, 0.363, 0.15, 0.363, "subject missed?"),
    ],
)
def test_score_share_centrality_and_verdict(focus, threshold, score, share, centrality, said):
    found = sharpness(focus, threshold)
    np.testing.assert_allclose(found, (score, share, centrality), atol=2e-3)
    assert verdict(found) == said
    assert said in VERDICTS


def test_a_small_sharp_face_is_above_a_large_sharp_ground():
    face, ground = with_box(*FACE), with_box(*MIDDLE, inside=0, outside=1)
    assert sharpness(face, 0.5).share < sharpness(ground, 0.5).share
    assert sharpness(face, 0.5).score > sharpness(ground, 0.5).score


def test_the_best_region_counts_whatever_else_is_in_focus():
    alone = sharpness(with_box(*FACE), 0.5)
    beside = sharpness(np.maximum(with_box(*FACE), with_box(*STRIP, inside=0.6)), 0.5)
    assert beside.score == pytest.approx(alone.score)
    assert beside.share > alone.share


def test_soft_edges_do_not_speak_against_a_small_region():
    soft = np.maximum(with_box(*FACE), with_box(0.29, 0.41, 0.34, 0.46, inside=0.55))
    assert sharpness(soft, 0.5).score > 0.95


def test_proportions_and_mirrors_change_nothing():
    focus = np.random.default_rng(0).random((40, 40), dtype=np.float32).repeat(5, axis=0).repeat(5, axis=1)
    found = sharpness(focus, 0.8)
    assert 0 < found.score < 1
    for same in (focus.repeat(2, axis=1), focus[::-1], focus[:, ::-1], focus.T):
        np.testing.assert_allclose(sharpness(np.ascontiguousarray(same), 0.8), found, atol=1e-3)
