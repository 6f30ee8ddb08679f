"""A teacher's features in a view: they go with the photograph, and are unknown where it shows something else."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from jaxdbd.errors import UserError
from jaxdbd.input import teacher_maps as features
from jaxdbd.input.augment import Augmentation, add_sky, augment, paste
from jaxdbd.input.geometry import WHOLE, View, crop_and_resize
from jaxdbd.input.pipeline import training_batches

PLAIN = Augmentation(flip=False, min_area=1.0, max_aspect=1.0, jitter=0.0)
SHAPES = {"features_8": (4, 6, 3)}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def ramp(height=4, width=6, channels=3) -> np.ndarray:
    """Cells that hold their column, their row and their number."""
    row, column = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([column, row, row * width + column], axis=-1)[..., :channels]


def view(maps=None, mask=255, side=64) -> View:
    image = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    maps = {"features_8": ramp() if maps is None else maps}
    return View(image, np.full((side, side), mask, np.uint8), np.ones((side, side), np.float32), None, maps)


def test_a_part_by_hand():
    # The middle half of four cells 0 1 2 3: their borders lie at 0.5 and 2.5, the new cells at .75 1.25 1.75 2.25.
    maps = np.arange(4, dtype=np.float32)[None, :, None]
    np.testing.assert_allclose(features.part(maps, (0.25, 0.0, 0.75, 1.0), False)[0, :, 0], [0.75, 1.25, 1.75, 2.25])
    np.testing.assert_allclose(features.part(maps, (0.25, 0.0, 0.75, 1.0), True)[0, :, 0], [2.25, 1.75, 1.25, 0.75])
    # Beyond the centers of the outermost cells their values go on.
    np.testing.assert_allclose(features.part(maps, (0.0, 0.0, 0.25, 1.0), False)[0, :, 0], [0, 0, 0.125, 0.375])
    np.testing.assert_array_equal(features.part(ramp(), WHOLE, False), ramp())
    np.testing.assert_array_equal(features.part(ramp(), WHOLE, True), ramp()[:, ::-1])


def test_features_go_with_photograph_and_depth(rng):
    depth = np.linspace(0, 1, 60, dtype=np.float32)[None].repeat(40, 0)
    maps = np.linspace(0, 1, 60, dtype=np.float32)[None, :, None].repeat(40, 0)
    whole = View(np.zeros((80, 120, 3), np.uint8), np.zeros((80, 120), np.uint8), depth, None, {"features_8": maps})
    for flip in (False, True):
        seen = crop_and_resize(whole, 60, (0.3, 0.1, 0.8, 0.7), flip)
        np.testing.assert_allclose(seen.features["features_8"][:, :, 0], seen.depth[:40], atol=2e-3)


def test_what_lies_beside_unknown_cells_is_unknown():
    maps = ramp()
    maps[1, 2, 0] = np.nan  # of one channel, so of the cell
    part = features.part(maps, (0.0, 0.0, 0.5, 0.5), False)
    unknown = np.isnan(part)
    assert (unknown == unknown[..., :1]).all()
    known = features.part(ramp(), (0.0, 0.0, 0.5, 0.5), False)
    np.testing.assert_array_equal(part[~unknown], known[~unknown])
    # New cells whose center lies less than one old cell from that of row 1, column 2, in both directions.
    rows, columns = (np.arange(4) + 0.5) / 2 - 0.5, (np.arange(6) + 0.5) / 2 - 0.5
    near = (np.abs(np.clip(rows, 0, 3) - 1) < 1)[:, None] & (np.abs(np.clip(columns, 0, 5) - 2) < 1)
    np.testing.assert_array_equal(unknown[..., 0], near)
    assert 0 < near.sum() < near.size


def test_what_covers_a_view_decides_cell_by_cell():
    cover = np.zeros((8, 12), np.float32)
    cover[:, :3] = 1  # the first column of cells and half of the second
    out = features.covered({"features_8": ramp()}, cover)["features_8"]
    assert np.isnan(out[:, :2]).all()
    np.testing.assert_array_equal(out[:, 2:], ramp()[:, 2:])
    out = features.covered({"features_8": ramp()}, cover, {"features_8": -ramp()})["features_8"]
    np.testing.assert_array_equal(out[:, :1], -ramp()[:, :1])
    assert np.isnan(out[:, 1:2]).all()
    np.testing.assert_array_equal(out[:, 2:], ramp()[:, 2:])
    # Where the photograph laid over it has no features, nothing is known of what it shows.
    assert np.isnan(features.covered({"features_8": ramp()}, cover, None)["features_8"][:, :2]).all()


def test_a_pasted_photograph_brings_its_own():
    below, above = view(mask=0), view(-ramp(), mask=0)
    above.mask[32:, :32] = 255  # the lower left quarter
    seen = paste(below, above).features["features_8"]
    np.testing.assert_array_equal(seen[3:, :2], -ramp()[3:, :2])
    np.testing.assert_array_equal(seen[:1], ramp()[:1])
    np.testing.assert_array_equal(seen[:, 4:], ramp()[:, 4:])
    assert paste(below._replace(features=None), above).features is None


def test_a_sky_and_blurred_regions_are_unknown(rng):
    seen = add_sky(view(), rng)
    sky = np.asarray(Image.fromarray((seen.depth == 0).astype(np.float32)).resize((6, 4), Image.Resampling.BOX))
    assert np.isnan(seen.features["features_8"][sky > 0.5]).all()
    below = (sky == 0) & (np.diff(sky, axis=0, append=0) == 0)
    np.testing.assert_array_equal(seen.features["features_8"][below], ramp()[below])

    settings = dataclasses.replace(PLAIN, refocused=1.0)
    for seed in range(5):
        seen = augment(view(), 64, settings, np.random.default_rng(seed))
        blurred = np.asarray(Image.fromarray(255 - seen.mask).resize((6, 4), Image.Resampling.BOX))
        maps = seen.features["features_8"]
        np.testing.assert_array_equal(maps[blurred < 5], ramp()[blurred < 5])
        assert np.isnan(maps[blurred > 20]).all()
        assert 0 < np.isnan(maps).mean() < 1


def test_what_the_teacher_never_saw_is_unknown(rng):
    assert augment(view(), 64, dataclasses.replace(PLAIN, blurred=1.0), rng).features is None
    tiled = [augment(view(), 64, dataclasses.replace(PLAIN, tiled=1.0), rng).features for _ in range(8)]
    assert tiled == [None] * 8
    # Its light may change a little: the features stay.
    gentle = augment(view(), 64, dataclasses.replace(PLAIN, jitter=0.2, noise=4.0, jpeg=1.0), rng)
    np.testing.assert_array_equal(gentle.features["features_8"], ramp())


def encode(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def make_part(name: str, count: int, **extras) -> list[dict]:
    rng = np.random.default_rng(count)
    image, mask = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), np.zeros((40, 60), np.uint8)
    mask[:, :30] = 255
    return [{"id": f"{name}{i}".encode(), "image": encode(image), "mask": encode(mask), **extras} for i in range(count)]


@pytest.fixture(scope="module")
def parts():
    """Six photographs with features, and six without."""
    return [make_part("a", 6, features_8=ramp().astype(np.float16)), make_part("b", 6)]


def stream(parts, **changes):
    effects = {"sharp": 0.1, "tiled": 0.2, "blurred": 0.2, "refocused": 0.3, "pasted": 0.4, "jpeg": 0.3}
    settings = {"size": 64, "batch_size": 6, "seed": 1, "augmentation": Augmentation(**effects)}
    return training_batches(parts, **{**settings, **changes})


def test_batches_have_the_features_asked_for_and_nan_where_a_part_has_none(parts):
    shapes = features.shapes(parts)
    assert shapes == SHAPES
    batch = next(stream(parts, features=shapes, augmentation=PLAIN))
    assert (batch["features_8"].shape, batch["features_8"].dtype.name) == ((6, 4, 6, 3), "float16")
    for name, maps in zip(batch["id"], batch["features_8"], strict=True):
        if name.startswith("a"):
            np.testing.assert_array_equal(maps, ramp())
        else:
            assert np.isnan(maps).all()
    assert {name[0] for name in batch["id"]} == {"a", "b"}
    assert features.shapes(parts[1:]) == {}
    other = make_part("c", 1, features_8=ramp(2, 2).astype(np.float16))
    with pytest.raises(UserError, match="different teachers"):
        features.shapes([*parts, other])


def test_features_change_nothing_else_and_resume_exactly(parts):
    with_them, without = stream(parts, features=SHAPES), stream(parts)
    known = []
    for i in range(8):
        state = with_them.get_state()
        ours, plain = next(with_them), next(without)
        assert ours.keys() - plain.keys() == {"features_8"}
        assert ours["id"] == plain["id"]
        for name in ("image", "mask"):
            np.testing.assert_array_equal(ours[name], plain[name])
        cells = np.isnan(ours["features_8"])
        assert (cells == cells[..., :1]).all()
        known.append(1 - cells.mean())
        if i == 5:
            resumed = stream(parts, features=SHAPES)
            resumed.set_state(state)
            np.testing.assert_array_equal(next(resumed)["features_8"], ours["features_8"])
    assert 0.1 < np.mean(known) < 0.5  # half of the photographs have some
