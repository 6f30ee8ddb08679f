"""Batches of a run: what is in them, and that a row's number alone decides what it is."""

import itertools

import jax
import numpy as np
import pytest
from made_up_records import depth, half_valid, make_part

from jaxdbd.input.augment import Augmentation
from jaxdbd.input.batches import augmenter, batches, window
from jaxdbd.input.placement import place
from jaxdbd.input.stream import make_stream
from jaxdbd.sharding import make_mesh

SIDE = 32
PLAIN = Augmentation(flip=False, min_area=1.0, max_aspect=1.0, jitter=0.0)
LIVELY = Augmentation(pasted=0.5, jitter=0.3)
COUNTS = [6, 10]


@pytest.fixture(scope="module")
def parts():
    """Six photographs with depth and features, and ten of another size, of which the left half does not count."""
    ramp = np.linspace(0, 1, 4 * 6 * 3, dtype=np.float16).reshape(4, 6, 3)
    return [
        make_part("a", 6, depth=depth(), features_8=ramp),
        make_part("b", 10, shape=(50, 48), valid=half_valid((50, 48))),
    ]


def rows(parts, *, batch_size=4, first=0, count=12, where="host", shares=(1.0, 1.0), settings=LIVELY, workers=0):
    """So many rows of a run from the row `first` on, and the ids of their photographs."""
    placed = place(parts, 2 * SIDE, ["depth", "features_8"], where)
    feed = batches(
        placed,
        make_stream(COUNTS, shares, seed=3),
        first=first,
        size=SIDE,
        augmentation=settings,
        batch_size=batch_size,
        mesh=make_mesh(jax.devices()[:1]),
        workers=workers,
    )
    taken = list(itertools.islice(feed, -(-count // batch_size)))
    feed.close()
    arrays = jax.tree.map(lambda *each: np.concatenate(each)[:count], *(batch for batch, _ in taken))
    return arrays, [placed.ids(n) for _, numbers in taken for n in numbers][:count]


def same(ours, theirs):
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    for name in ours[0]:
        np.testing.assert_array_equal(ours[0][name], theirs[0][name], err_msg=name)


@pytest.fixture(scope="module")
def undisturbed(parts):
    return rows(parts)


def test_a_batch_is_what_the_training_step_expects(undisturbed):
    batch, ids = undisturbed
    assert {name: (x.shape[1:], x.dtype.name) for name, x in batch.items()} == {
        "image": ((SIDE, SIDE, 3), "uint8"),
        "mask": ((SIDE, SIDE, 1), "uint8"),
        "valid": ((SIDE, SIDE, 1), "uint8"),
        "depth": ((SIDE, SIDE, 1), "float16"),
        "features_8": ((4, 6, 3), "float16"),
    }
    assert {name[0] for name in ids} == {"a", "b"}


def test_parts_without_a_map_or_valid_have_it_unknown(parts):
    batch, ids = rows(parts, settings=PLAIN, count=4)
    for name, near, valid, features in zip(ids, batch["depth"], batch["valid"], batch["features_8"], strict=True):
        if name.startswith("a"):
            np.testing.assert_array_equal(near, np.float16(0.5))
            assert valid.min() == 255
            assert not np.isnan(features).any()
        else:
            assert np.isnan(near).all()
            assert np.isnan(features).all()
            assert valid[:, : SIDE // 2 - 2].max() == 0
            assert valid[:, SIDE // 2 + 2 :].min() == 255


@pytest.mark.parametrize(("batch_size", "first"), [(6, 0), (3, 0), (1, 0), (4, 5), (3, 4)])
def test_batch_size_and_start_change_no_row(parts, undisturbed, batch_size, first):
    arrays, ids = undisturbed
    rest = {name: array[first:] for name, array in arrays.items()}, ids[first:]
    same(rows(parts, batch_size=batch_size, first=first, count=12 - first), rest)


@pytest.mark.slow
@pytest.mark.parametrize(("where", "workers"), [("device", 0), ("none", 0), ("none", 2)])
def test_where_photographs_lie_changes_no_row(parts, undisturbed, where, workers):
    same(rows(parts, where=where, workers=workers), undisturbed)


def test_windows_hold_whole_pairs_and_every_share():
    for first, share, devices in itertools.product((0, 1, 6, 7), (1, 2, 3, 4), (1, 2, 3)):
        seen = window(first, share, range(devices))
        by_device = seen.rows.reshape(devices, -1)
        assert (by_device[:, 0] % 2 == 0).all()
        assert by_device.shape[1] % 2 == 0
        own = [device[offset : offset + share] for device, offset in zip(by_device, seen.offsets, strict=True)]
        np.testing.assert_array_equal(np.concatenate(own), first + np.arange(share * devices))
    # A process sees the windows of its own devices.
    np.testing.assert_array_equal(window(8, 2, range(2, 4)).rows, [12, 13, 14, 15])


def test_another_seed_gives_other_rows(parts):
    make = augmenter(SIDE, LIVELY, 4, 2, make_mesh(jax.devices()[:1]), on_devices=False)
    other = augmenter(SIDE, LIVELY, 5, 2, make_mesh(jax.devices()[:1]), on_devices=False)
    photographs = place(parts, 2 * SIDE, [], "host").gather(np.array([3, 12], np.int32))
    arguments = photographs, np.arange(2, dtype=np.uint32), np.array([3, 12], np.int32), np.zeros(1, np.int32)
    assert not np.array_equal(make(*arguments)["image"], other(*arguments)["image"])
