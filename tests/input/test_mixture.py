"""Mixtures of datasets: shares, exact resume, processes, and rows that hold the same arrays wherever they come from."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxdbd.errors import UserError
from jaxdbd.input import pipeline
from jaxdbd.input.augment import Augmentation
from jaxdbd.input.pipeline import open_parts, training_batches


def encode(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def make_part(name: str, count: int, **extras) -> list[dict]:
    rng = np.random.default_rng(count)
    image, mask = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), np.full((40, 60), 255, np.uint8)
    return [{"id": f"{name}{i}".encode(), "image": encode(image), "mask": encode(mask), **extras} for i in range(count)]


@pytest.fixture(scope="module")
def parts():
    """Six photographs with depth, and thirty of which the left half does not count, without depth."""
    valid = np.full((40, 60), 255, np.uint8)
    valid[:, :30] = 0
    return [
        make_part("a", 6, depth=np.full((8, 8, 1), 0.5, np.float16)),
        make_part("b", 30, valid=encode(valid)),
    ]


def stream(parts, **changes):
    settings = {"size": 32, "batch_size": 6, "seed": 1, "augmentation": Augmentation(pasted=0.5)}
    return training_batches(parts, **{**settings, **changes})


def share_of_a(batches, count=40) -> float:
    ids = [name for _ in range(count) for name in next(batches)["id"]]
    return sum(name.startswith("a") for name in ids) / len(ids)


@pytest.mark.slow
def test_shares_are_those_asked_for_or_by_number(parts):
    assert share_of_a(stream(parts)) == pytest.approx(6 / 36, abs=0.02)
    assert share_of_a(stream(parts, mixture=(1.0, 1.0))) == pytest.approx(0.5, abs=0.02)
    assert share_of_a(stream(parts, mixture=(3.0, 1.0))) == pytest.approx(0.75, abs=0.02)


def test_rows_hold_the_same_arrays_whichever_part_they_come_from(parts):
    batch = next(stream(parts, mixture=(1.0, 1.0), augmentation=Augmentation(flip=False, min_area=1.0, max_aspect=1.0)))
    assert batch.keys() == {"image", "mask", "depth", "valid", "id"}
    assert batch["valid"].shape == batch["mask"].shape
    for name, depth, valid in zip(batch["id"], batch["depth"], batch["valid"], strict=True):
        if name.startswith("a"):
            np.testing.assert_array_equal(depth, np.float16(0.5))
            assert valid.min() == 255
        else:
            assert np.isnan(depth).all()
            assert valid[:, :14].max() == 0
            assert valid[:, 18:].min() == 255
    assert {name[0] for name in batch["id"]} == {"a", "b"}


def test_one_part_alone_is_no_mixture(parts):
    alone, mixed = next(stream(parts[:1])), next(stream(parts[:1], mixture=(7.0,)))
    np.testing.assert_array_equal(alone["image"], mixed["image"])
    assert "valid" not in alone


def test_resumes_exactly_and_processes_share_the_stream(parts):
    whole = stream(parts, mixture=(1.0, 2.0))
    first = [next(whole) for _ in range(2)]
    state = whole.get_state()
    third = next(whole)
    resumed = stream(parts, mixture=(1.0, 2.0))
    resumed.set_state(state)
    again = next(resumed)
    assert again["id"] == third["id"]
    for name in ("image", "mask", "depth", "valid"):
        np.testing.assert_array_equal(again[name], third[name])
    halves = [next(stream(parts, mixture=(1.0, 2.0), batch_size=3, process_index=i, process_count=2)) for i in range(2)]
    assert [name for pair in zip(*(h["id"] for h in halves), strict=True) for name in pair] == first[0]["id"]


def test_parts_and_splits_belong_together(monkeypatch):
    monkeypatch.setattr(pipeline, "open_split", lambda name, split, *_: [{"of": f"{name} {split}"}])

    def opened(*arguments):
        return [records[0]["of"] for records in open_parts(*arguments)]

    assert opened("dbd/a", "train+test") == ["dbd/a train+test"]  # TFDS's own +
    assert opened("dbd/a+dbd/b", "train") == ["dbd/a train", "dbd/b train"]
    assert opened("dbd/a+dbd/b", "train[60:]+test") == ["dbd/a train[60:]", "dbd/b test"]
    with pytest.raises(UserError, match=r"2 parts and 'a\+b\+c' 3"):
        open_parts("dbd/a+dbd/b", "a+b+c")
