"""A few hundred damaged files; `python tests/fuzz.py` reads thousands."""

from collections import Counter
from pathlib import Path

import fuzz
import pytest
import samples


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("pictures", 240), ("weights", 150)])
def test_only_results_and_refusals_come_out(kind, count):
    outcomes = fuzz.run(kind, count, seed=1)
    assert fuzz.faults(outcomes) == []
    assert [o.number for o in outcomes] == list(range(count))
    for suffix in {Path(o.name).suffix for o in outcomes}:
        results = Counter(o.result for o in outcomes if o.name.endswith(suffix))
        # Damage that is too great tests nothing. safetensors writes its notes in any order, so the count varies.
        assert results["read"] >= 1, suffix
        assert results["refused"] >= 2, suffix


def test_the_same_number_damages_the_same_way():
    files = samples.pictures()
    assert fuzz.damaged(files, 7) == fuzz.damaged(files, 7) != fuzz.damaged(files, 7, seed=1)


def test_a_crash_and_an_error_of_ours_are_told(monkeypatch):
    odd = fuzz.Outcome(3, "a.png", "ValueError: x", 0.1, 0), fuzz.Outcome(4, "a.png", "read", 0.1, 9 << 30)
    assert [line.split(",")[0] for line in fuzz.faults([*odd, fuzz.Outcome(5, "a.png", "refused", 0.1, 0)])] == [
        "number 3",
        "number 4",
    ]
