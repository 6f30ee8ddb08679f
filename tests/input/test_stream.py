"""The order of a run's rows: every photograph once a pass, exact shares, and nothing but the row's number decides."""

import numpy as np
import pytest

from jaxdbd.input.stream import make_stream, photographs_of, share_pattern


def test_every_pass_shows_every_photograph_once_in_another_order():
    stream = make_stream([7, 3], None, seed=0)
    passes = photographs_of(stream, np.arange(30)).reshape(3, 10)
    assert all(sorted(each) == list(range(10)) for each in passes)
    assert not (passes[0] == passes[1]).all()
    assert not (photographs_of(make_stream([7, 3], None, seed=1), np.arange(10)) == passes[0]).all()


def test_a_row_depends_on_its_number_alone():
    stream = make_stream([7, 30], [0.4, 0.6], seed=3)
    together = photographs_of(stream, np.arange(100))
    np.testing.assert_array_equal([photographs_of(stream, np.array([n]))[0] for n in range(100)], together)
    np.testing.assert_array_equal(photographs_of(stream, np.array([9, 2, 77])), together[[9, 2, 77]])
    far = 10**12 + np.arange(5)
    np.testing.assert_array_equal(photographs_of(stream, far), photographs_of(stream, far))


def test_parts_keep_their_shares_at_every_moment():
    shares = np.array([0.45, 0.35, 0.2])
    stream = make_stream([50, 8, 20], shares.tolist(), seed=0)
    found = photographs_of(stream, np.arange(400))
    parts = np.searchsorted([50, 58], found, side="right")
    counts = np.cumsum(parts[:, None] == np.arange(3), axis=0)
    assert np.abs(counts - np.arange(1, 401)[:, None] * shares).max() < 1
    # Within a part nothing comes again before all has been there.
    (second,) = np.nonzero(parts == 1)
    for i in range(0, len(second) - 8, 8):
        assert sorted(found[second[i : i + 8]]) == list(range(50, 58))


@pytest.mark.parametrize(
    ("shares", "pattern"),
    [
        ((1.0,), [0]),
        ((1.0, 1.0), [0, 1]),
        ((2.0, 1.0), [0, 1, 0]),
        ((0.75, 0.25), [0, 0, 1, 0]),
    ],
)
def test_patterns_by_hand(shares, pattern):
    assert share_pattern(shares).tolist() == pattern


def test_thirds_written_as_decimals_are_thirds():
    assert len(share_pattern((1 / 3, 2 / 3))) == 3
