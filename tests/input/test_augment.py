"""Augmentation: one geometry for all three arrays, and what each effect does to photograph and mask."""

import dataclasses

import numpy as np
import pytest

from jaxdbd.input.augment import (
    Augmentation,
    add_noise,
    augment,
    compress,
    defocus,
    jitter_colors,
    paste,
    random_box,
    random_region,
    sharp_box,
    tile,
    veil,
)
from jaxdbd.input.geometry import View, crop_and_resize, resize

PLAIN = Augmentation(flip=False, min_area=1.0, max_aspect=1.0, jitter=0.0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def ramp():
    """A photograph, mask and depth that all show the same horizontal ramp, at different resolutions."""
    gray = np.linspace(0, 255, 120).astype(np.uint8)[None].repeat(80, 0)
    depth = np.linspace(0, 1, 60, dtype=np.float32)[None].repeat(40, 0)
    return View(gray[..., None].repeat(3, -1), gray, depth, None)


@pytest.mark.parametrize("flip", [False, True])
def test_image_mask_and_depth_show_the_same_part(ramp, flip):
    image, mask, depth, *_ = crop_and_resize(ramp, 64, (0.25, 0.1, 0.75, 0.9), flip)
    assert image.shape == (64, 64, 3)
    inside = slice(2, -2)
    np.testing.assert_allclose(image[:, inside, 0], mask[:, inside], atol=2)
    np.testing.assert_allclose(mask[:, inside] / 255, depth[:, inside], atol=0.02)
    row = mask[32, ::-1] if flip else mask[32]
    assert row[0] == pytest.approx(255 * 0.25, abs=4)
    assert row[-1] == pytest.approx(255 * 0.75, abs=4)


def test_resizing_to_the_same_size_changes_nothing(rng):
    image = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize(image, (32, 48)), image)


def test_random_boxes_keep_to_their_bounds(rng):
    for _ in range(200):
        left, top, right, bottom = random_box(rng, 0.3, 4 / 3)
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        w, h = right - left, bottom - top
        # Where a side is cut at the photograph's, the area falls by at most the stretch.
        assert 0.3 / np.sqrt(4 / 3) - 1e-9 <= w * h <= 1 + 1e-9
        assert 3 / 4 - 1e-9 <= w / h <= 4 / 3 + 1e-9


def test_sharp_box_lies_in_focus_or_there_is_none(rng):
    mask = np.zeros((200, 300), np.uint8)
    mask[40:180, 100:280] = 255
    box = sharp_box(rng, mask, 64)
    rows, columns = slice(round(box[1] * 200), round(box[3] * 200)), slice(round(box[0] * 300), round(box[2] * 300))
    assert (mask[rows, columns] == 255).mean() > 0.99
    assert mask[rows, columns].shape[0] >= 64
    assert sharp_box(rng, np.zeros((200, 300), np.uint8), 64) is None
    assert sharp_box(rng, np.full((50, 300), 255, np.uint8), 64) is None


def test_tiling_repeats_a_part_and_its_depth(ramp, rng):
    image = ramp.image
    box = (0.25, 0.5, 0.5, 1.0)  # 30 x 40 pixels
    tiled, mask, near, *_ = tile(ramp, box, 0.5, 100, rng)
    assert tiled.shape == (100, 100, 3)
    assert mask.shape == (100, 100)
    assert mask.min() == 255
    part = resize(image, (20, 15), box)[0, :, 0]
    start = np.flatnonzero((tiled[0, :-1, 0] == part[0]) & (np.diff(tiled[0, :, 0].astype(int)) > 0))[0]
    np.testing.assert_array_equal(tiled[0, start : start + 30, 0], np.concatenate([part, part[::-1]]))
    np.testing.assert_allclose(near, tiled[..., 0] / 255, atol=0.03)
    larger, _, none, *_ = tile(ramp._replace(depth=None), box, 1.0, 20, rng)
    np.testing.assert_array_equal(larger[..., 0], image[40:60, 30:50, 0])
    assert none is None


def test_tiled_photographs_are_in_focus_all_over(ramp, rng):
    image, _, depth, *_ = ramp
    in_focus = np.zeros((80, 120), np.uint8)
    in_focus[:, :60] = 255
    shares = []
    for mask in (np.zeros_like(in_focus), in_focus):
        views = [
            augment(View(image, mask, depth, None), 64, Augmentation(jitter=0.0, tiled=1.0), rng) for _ in range(60)
        ]
        full = [(seen, near) for seen, m, near, *_ in views if m.min() == 255]
        for seen, near in full:
            np.testing.assert_allclose(near, seen[..., 0] / 255, atol=0.06)
        shares.append((len(full) / len(views), np.mean([seen.max() <= 255 / 2 + 3 for seen, _ in full])))
    # Without anything in focus, half: the whole photograph, made small. With it, the other half show that part alone.
    assert shares[0] == (pytest.approx(0.5, abs=0.2), 0.0)
    assert shares[1] == (1.0, pytest.approx(0.5, abs=0.2))


def test_a_sky_lies_above_what_is_wholly_in_focus(rng):
    image = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    in_focus, near = np.full((96, 96), 255, np.uint8), np.ones((96, 96), np.float32)
    settings = dataclasses.replace(PLAIN, sky=1.0)
    shares = []
    for _ in range(50):
        seen, mask, depth, *_ = augment(View(image, in_focus, near, None), 96, settings, rng)
        assert mask.min() == 255
        assert np.diff(depth, axis=0).min() >= 0  # far in the sky, near below it, in every column
        np.testing.assert_allclose(seen[depth == 1], image[depth == 1], atol=1)
        plain = depth == 0
        shares.append(plain.mean())
        assert np.abs(np.diff(seen.astype(int), axis=1))[plain[:, 1:] & plain[:, :-1]].mean() < 3
    assert 0.2 < np.mean(shares) < 0.6
    in_focus[:48] = 0
    np.testing.assert_array_equal(augment(View(image, in_focus, near, None), 96, settings, rng)[0], image)


def test_a_veil_is_out_of_focus_and_leaves_the_rest():
    white, gray = (np.full((96, 96, 3), v, np.uint8) for v in (255, 100))
    left = np.zeros((96, 96), np.uint8)
    left[:, :48] = 255
    far, near = (np.full((96, 96), v, np.float32) for v in (0.0, 1.0))
    sharp = np.full((96, 96), 255, np.uint8)
    image, mask, depth, valid, _ = veil(View(gray, sharp, far, None), View(white, left, near, None), radius=6.0)
    # By symmetry half of the light at the border is white, in linear light; six pixels to either side there is none.
    for column, share, focus, counts in ((40, 1, 0, True), (47, 0.5, None, False), (56, 0, 255, True)):
        light = (image[48, column : column + 2].astype(float) / 255).mean() ** 2.2
        np.testing.assert_allclose(light, share + (1 - share) * (100 / 255) ** 2.2, atol=0.02)
        np.testing.assert_allclose(depth[48, column : column + 2].mean(), share, atol=0.02)
        assert (valid[:, column] == 255 * counts).all()
        assert focus is None or (mask[:, column] == focus).all()
    # What was blurred stays so, and counts.
    *_, valid, _ = veil(View(gray, np.zeros_like(left), far, None), View(white, left, near, None), radius=6.0)
    assert (valid == 255).all()


def test_a_shrunk_photograph_is_soft_and_keeps_its_mask(rng, ramp):
    fine = rng.integers(0, 2, (96, 96, 1), dtype=np.uint8).repeat(3, -1) * np.uint8(255)
    mask = (rng.random((96, 96)) < 0.5) * np.uint8(255)
    settings = dataclasses.replace(PLAIN, shrunk=1.0)
    spreads = []
    for _ in range(50):
        seen = augment(View(fine, mask, None, None), 96, settings, rng)
        np.testing.assert_array_equal(seen.mask, mask)
        spreads.append(seen.image.std() / fine.std())
    assert max(spreads) > 0.6 > 0.4 > min(spreads) > 0.2  # of 3 x 3 independent pixels a third would be left
    whole, shrunk = (augment(ramp, 96, s, np.random.default_rng(0)).image for s in (PLAIN, settings))
    np.testing.assert_allclose(shrunk[:, 4:-4].astype(int), whole[:, 4:-4], atol=2)


def test_a_gray_photograph_keeps_its_lightness_and_mask(ramp):
    whole = augment(ramp, 96, PLAIN, np.random.default_rng(0))
    gray = augment(ramp, 96, dataclasses.replace(PLAIN, gray=1.0), np.random.default_rng(0))
    lightness = whole.image @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    np.testing.assert_allclose(gray.image, np.repeat(lightness[..., None], 3, -1), atol=1)
    np.testing.assert_array_equal(gray.mask, whole.mask)


def test_defocus_keeps_light_and_spreads_a_point_over_its_disc():
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    blurred = defocus(image, 4.0)
    rows = np.flatnonzero(blurred[:, 20, 0])
    assert rows[0] == 16
    assert rows[-1] == 24
    np.testing.assert_array_equal(defocus(np.full((20, 20, 3), 77, np.uint8), 3.0), 77)


def test_whole_blur_empties_the_mask_and_sharp_part_fills_it(rng):
    image = rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)
    mask = np.zeros((200, 300), np.uint8)
    mask[:, 80:] = 255
    blurred, empty, *_ = augment(View(image, mask, None, None), 64, Augmentation(blurred=1.0, jitter=0.0), rng)
    assert empty.max() == 0
    assert np.abs(np.diff(blurred.astype(int), axis=1)).mean() < 20 < np.abs(np.diff(image.astype(int), axis=1)).mean()
    _, full, *_ = augment(View(image, mask, None, None), 64, Augmentation(sharp=1.0, jitter=0.0), rng)
    assert full.mean() > 0.99 * 255


def test_random_regions_cover_part_of_a_square(rng):
    for size in (64, 256):
        for _ in range(20):
            region = random_region(rng, size)
            assert region.min() == pytest.approx(0, abs=1e-6)
            assert region.max() == pytest.approx(1, abs=1e-6)
            assert 0.15 < region.mean() < 0.85


def test_refocusing_blurs_a_region_and_only_there_empties_the_mask(rng):
    image = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    settings = Augmentation(flip=False, min_area=1.0, max_aspect=1.0, jitter=0.0, refocused=1.0)
    refocused, mask, *_ = augment(View(image, np.full((256, 256), 255, np.uint8), None, None), 256, settings, rng)
    kept, emptied = mask == 255, mask == 0
    assert min(kept.mean(), emptied.mean()) > 0.1
    np.testing.assert_allclose(refocused[kept], image[kept], atol=1)
    # Noise that was blurred over at least three pixels has lost most of its contrast.
    assert refocused[emptied].std() < 0.5 * image[emptied].std()


def test_pasting_lays_one_photographs_focus_over_another():
    gray, red = np.full((60, 60, 3), 100, np.uint8), np.full((60, 60, 3), (200, 0, 0), np.uint8)
    below_mask, above_mask = np.zeros((2, 60, 60), np.uint8)
    below_mask[:15] = 255
    above_mask[30:, :30] = 255  # the lower left quarter
    near, far = np.full((60, 60), 0.9, np.float32), np.full((60, 60), 0.2, np.float32)
    image, mask, depth, *_ = paste(View(gray, below_mask, near, None), View(red, above_mask, far, None))
    np.testing.assert_array_equal(image[34:, :26], np.broadcast_to([200, 0, 0], (26, 26, 3)))
    np.testing.assert_array_equal(image[:, 34:], 100)
    np.testing.assert_array_equal(mask, np.maximum(below_mask, above_mask))
    np.testing.assert_allclose(depth[34:, :26], 0.2, atol=1e-4)
    np.testing.assert_allclose(depth[:26], 0.9, atol=1e-4)
    assert paste(View(gray, below_mask, None, None), View(red, above_mask, None, None)).depth is None


def test_another_photograph_is_pasted_with_the_same_part_in_view(ramp, rng):
    red = np.full((40, 40, 3), (200, 0, 0), np.uint8)
    lower_left = np.zeros((40, 40), np.uint8)
    lower_left[20:, :20] = 255
    nothing = np.zeros_like(ramp[1])
    image, mask, *_ = augment(View(ramp.image, nothing, None, None), 64, PLAIN, rng, View(red, lower_left, None, None))
    np.testing.assert_array_equal(image[36:, :28], np.broadcast_to([200, 0, 0], (28, 28, 3)))
    np.testing.assert_array_equal(image[:28], crop_and_resize(ramp, 64)[0][:28])
    assert mask[36:, :28].min() == 255
    assert mask[:28].max() == mask[:, 36:].max() == 0


def test_what_is_pasted_is_mirrored_by_itself_half_the_time(ramp):
    settings = dataclasses.replace(PLAIN, flip=True)
    red, left_half = np.full((40, 40, 3), (200, 0, 0), np.uint8), np.zeros((40, 40), np.uint8)
    left_half[:, :20] = 255
    seen = set()
    for seed in range(16):
        above = View(red, left_half, np.full((10, 10), 0.2, np.float32), None)
        below = ramp._replace(mask=np.zeros_like(ramp.mask))
        image, mask, depth, *_ = augment(below, 64, settings, np.random.default_rng(seed), above)
        mirrored = bool(mask[32, 60])
        pasted, kept = (slice(36, 64), slice(0, 28)) if mirrored else (slice(0, 28), slice(36, 64))
        assert mask[:, pasted].min() == 255
        assert mask[:, kept].max() == 0
        np.testing.assert_array_equal(image[:, pasted], np.broadcast_to([200, 0, 0], (64, 28, 3)))
        np.testing.assert_allclose(depth[:, pasted], 0.2, atol=1e-4)
        np.testing.assert_allclose(depth[:, kept], image[:, kept, 0] / 255, atol=0.02)
        seen.add((mirrored, bool(image[32, kept, 0][0] < image[32, kept, 0][-1])))
    assert len(seen) == 4  # either photograph, whatever the other


def test_no_augmentation_is_plain_resizing(ramp, rng):
    ours, plain = augment(ramp, 64, PLAIN, rng), crop_and_resize(ramp, 64)
    for a, b in zip(ours[:3], plain[:3], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert ours.valid is plain.valid is None


def test_the_same_generator_gives_the_same_view(ramp):
    settings = Augmentation(sharp=0.3, blurred=0.3, refocused=0.3, noise=5.0, jpeg=0.5)
    for seed in range(8):
        first, second = (augment(ramp, 64, settings, np.random.default_rng(seed)) for _ in range(2))
        for a, b in zip(first[:3], second[:3], strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_does_not_count_goes_with_the_photograph(ramp, rng):
    # The left half of the photograph does not count, and its depth is not known.
    valid, depth = np.full_like(ramp.mask, 255), ramp.depth.copy()
    valid[:, :60], depth[:, :30] = 0, np.nan
    view = ramp._replace(depth=depth, valid=valid)
    same = augment(view, 64, PLAIN, rng)
    assert same.valid[:, :30].max() == 0
    assert same.valid[:, 34:].min() == 255
    assert np.isnan(same.depth[:, :32]).all()
    np.testing.assert_allclose(same.depth[:, 36:], crop_and_resize(ramp, 64).depth[:, 36:], atol=1e-6)
    # Blurred as a whole, every pixel counts again; a pasted photograph that counts only in places limits the rest.
    assert augment(view, 64, dataclasses.replace(PLAIN, blurred=1.0, sharp=0.0), rng).valid is None
    assert paste(crop_and_resize(ramp, 64), same).valid[:, :30].max() == 0


def test_color_noise_and_compression_stay_small(rng):
    image = np.full((64, 64, 3), 128, np.uint8)
    noisy = add_noise(image, 5.0, rng).astype(float)
    assert noisy.std() == pytest.approx(5.0, rel=0.05)
    assert noisy.mean() == pytest.approx(128, abs=0.3)
    assert np.abs(jitter_colors(image, 0.1, rng).astype(int) - 128).max() <= 14
    assert np.abs(compress(image, 90).astype(int) - 128).max() <= 2
