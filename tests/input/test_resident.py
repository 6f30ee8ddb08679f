"""Photographs decoded once: what is kept of them, where, and when it is decoded anew."""

import numpy as np
import pytest
from made_up_records import depth, half_valid, make_part

from data import build
from jaxdbd.input import placement, resident
from jaxdbd.input.records import decode, open_split
from jaxdbd.input.resident import cache_place, canvases, layout_of, load, longest_side, on_grid


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    flags = ["--dataset=synthetic", "--teacher=scene", "--size=64", "--train_scenes=5", "--test_scenes=3"]
    assert build.main([*flags, f"--data_dir={folder}"]) == 0
    return folder


def load_all(records, side=48, maps=("depth",)):
    folder = cache_place(records, side, maps)
    return load(records, layout_of(records, side, maps, folder), side, folder, "decoding")


def test_photographs_are_those_of_the_records_at_most_so_large(data_dir):
    records = open_split("dbd/synthetic", "train", data_dir)
    whole, smaller = load_all(records, 64), load_all(records, 48)
    for i in range(len(records)):
        example = decode(records[i])
        np.testing.assert_array_equal(whole.image[i], example.image)
        np.testing.assert_array_equal(whole.mask[i], example.mask)
        np.testing.assert_array_equal(whole.maps["depth"][i], on_grid(example.depth))
        assert whole.ids[i] == example.id
        # Averages over areas keep the mean.
        assert abs(smaller.image[i].mean() - example.image.mean()) < 1
    assert smaller.image.shape == (5, 48, 48, 3)
    assert smaller.valid is None


def test_a_later_start_decodes_nothing(data_dir, monkeypatch):
    records = open_split("dbd/synthetic", "test", data_dir)
    first = load_all(records)
    monkeypatch.setattr(resident, "decode_reduced", lambda *_: pytest.fail("decoded again"))
    monkeypatch.setattr(resident, "image_size", lambda *_: pytest.fail("read again"))
    again = load_all(records)
    assert isinstance(again.image, np.memmap)
    assert again.ids == first.ids
    np.testing.assert_array_equal(again.image, first.image)
    assert again.image.flags.writeable is False


def test_shards_that_were_built_anew_are_decoded_anew(tmp_path):
    flags = ["--dataset=synthetic", "--teacher=scene", "--size=64", f"--data_dir={tmp_path}"]
    counts = ["--train_scenes=2", "--test_scenes=1"]
    assert build.main([*flags, *counts]) == 0
    before = load_all(open_split("dbd/synthetic", "train", tmp_path))
    assert build.main([*flags, *counts, "--seed=1", "--overwrite"]) == 0
    after = load_all(open_split("dbd/synthetic", "train", tmp_path))
    assert not np.array_equal(before.image, after.image)


def test_a_start_that_was_killed_leaves_nothing_that_counts(data_dir, monkeypatch):
    records = open_split("dbd/synthetic", "train", data_dir)
    with monkeypatch.context() as patched:
        patched.setattr(resident, "put", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load_all(records, 32)
    assert load_all(records, 32).image.any(axis=(1, 2, 3)).all()


def test_canvases_of_parts_of_other_sizes_are_padded():
    parts = [make_part("a", 2, depth=depth()), make_part("b", 3, shape=(50, 20))]
    held = [load(part, layout_of(part, 64, ["depth"], None), 64, None, "decoding") for part in parts]
    found = canvases(held, np.array([1, 4]))
    assert found.image.shape == (2, 50, 60, 3)
    np.testing.assert_array_equal(found.size, [[40, 60], [50, 20]])
    np.testing.assert_array_equal(found.mask[0, :40], decode(parts[0][1]).mask)
    np.testing.assert_array_equal(found.image[1, :, :20], decode(parts[1][2]).image)
    assert not np.isnan(found.maps["depth"][0]).any()
    assert np.isnan(found.maps["depth"][1]).all()


def test_holes_of_a_depth_grow_and_never_mix():
    near = np.linspace(0, 1, 64 * 64, dtype=np.float16).reshape(64, 64)
    near[10:20, 30:40] = np.nan
    grid = on_grid(near)[..., 0]
    scale = resident.GRID // 64
    assert np.isnan(grid[10 * scale : 20 * scale, 30 * scale : 40 * scale]).all()
    assert 0 <= np.nanmin(grid) <= np.nanmax(grid) <= 1
    assert np.isnan(grid).sum() < (12 * scale) ** 2


def test_the_first_place_that_is_large_enough(monkeypatch):
    class Device:
        def __init__(self, limit):
            self.limit = limit

        def memory_stats(self):
            return self.limit and {"bytes_limit": self.limit}

    monkeypatch.setattr(placement.os, "sysconf", {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 10}.get)
    for limits, size, where in (
        ((1000, 1000), 400, "device"),
        ((1000, 900), 400, "host"),
        ((None,), 1, "host"),
        ((None,), 500, "host"),
        ((None,), 501, "none"),
    ):
        monkeypatch.setattr(placement.jax, "local_devices", lambda limits=limits: [Device(limit) for limit in limits])
        assert placement.fitting(size) == where


def test_a_quarter_of_what_is_kept_is_not_enlarged():
    assert longest_side(256) == 512


def test_blur_is_that_of_the_shards_or_what_the_mask_tells(data_dir):
    records = open_split("dbd/synthetic", "train", data_dir)
    assert "blur" in records[0]
    held = load_all(records, 64, ("blur",))
    np.testing.assert_array_equal(held.maps["blur"][1], on_grid(decode(records[1]).blur))
    # Photographs that are in focus on the left half; of the second part the left half does not count.
    parts = [make_part("a", 2), make_part("b", 2, valid=half_valid())]
    held = [load(part, layout_of(part, 64, ["blur"], None), 64, None, "decoding") for part in parts]
    found = canvases(held, np.array([1, 3])).maps["blur"]
    columns = resident.GRID // 2
    assert not found[0, :, : columns - 5].any()
    assert np.isnan(found[0, :, columns + 5 :]).all()
    assert np.isnan(found[1]).all()


def test_blur_that_nobody_asks_for_is_not_kept(data_dir):
    records = open_split("dbd/synthetic", "train", data_dir)
    assert set(load_all(records, 64).maps) == {"depth"}
