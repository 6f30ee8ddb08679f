"""What is a mask and what is none, whichever command reads it."""

import cv2
import numpy as np
import pytest
from odd_files import half, save
from odd_masks import BINARY, MASKS, NO_MASKS
from PIL import Image

from jaxdbd.errors import UserError
from jaxdbd.photographs.masks import not_black_and_white, read_map, read_mask


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colors_of_sixteen_bits_count_by_all_of_them(tmp_path, suffix):
    # Pillow keeps the high bytes, and of a mask of 0 and 255 those are all 0.
    path = str(tmp_path / f"m.{suffix}")
    for white, message in ((65535, None), (255, "of 16 bits it uses 8, its largest value is 255"), (1, "value is 1;")):
        cv2.imwrite(path, np.dstack([BINARY.astype(np.uint16) * white] * 3))
        if message is None:
            np.testing.assert_array_equal(read_mask(path), half())
            continue
        with pytest.raises(UserError, match=message):
            read_mask(path)


@pytest.mark.parametrize("kind", MASKS)
def test_masks(kind, tmp_path):
    mask = read_mask(save(tmp_path / "m.png", MASKS[kind]))
    assert mask.dtype == np.uint8
    expected = half(*mask.shape) > 127 if kind != "all black" else np.zeros(mask.shape, bool)
    np.testing.assert_array_equal(mask > 127, expected)


@pytest.mark.parametrize("kind", NO_MASKS)
def test_what_is_none_is_refused_with_its_values(kind, tmp_path):
    picture, message = NO_MASKS[kind]
    suffix = "tif" if kind == "floating point" else "png"
    with pytest.raises(UserError, match=message) as caught:
        read_mask(save(tmp_path / f"m.{suffix}", picture))
    assert str(caught.value).startswith(str(tmp_path / f"m.{suffix}"))
    assert "\n" not in str(caught.value)


def test_a_mask_in_jpeg_is_what_it_was_before_compression(tmp_path):
    mask = half(40, 54)  # its edge runs through JPEG's blocks
    soft = save(tmp_path / "m.jpg", mask, quality=40)
    assert len(np.unique(Image.open(soft))) > 4
    np.testing.assert_array_equal(read_mask(soft) > 127, mask > 127)
    with pytest.raises(UserError, match="colors"):
        read_mask(save(tmp_path / "red.jpg", np.dstack([half(), half() * 0, half() * 0])))


def test_a_mask_is_turned_by_its_own_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_mask(save(tmp_path / "m.png", np.ascontiguousarray(np.rot90(half())), exif=exif))
    np.testing.assert_array_equal(turned, half())


def test_maps_may_be_gray_and_nothing_else(tmp_path):
    gray = np.tile(np.arange(60, dtype=np.uint8), (40, 1))
    np.testing.assert_array_equal(read_map(save(tmp_path / "a.png", gray)), gray)
    for kind in ("palette of colors", "in the alpha channel", "16 bits, 0 and 255"):
        with pytest.raises(UserError, match=r"colors|alpha|not an 8-bit"):
            read_map(save(tmp_path / "b.png", NO_MASKS[kind][0]))


def test_shares_of_gray_by_hand():
    counts = np.zeros(256, int)
    counts[[0, 255]] = 500
    assert not_black_and_white(counts) is None
    counts[10:110] = 9  # 900 of 1900 pixels, none of them alone
    assert not_black_and_white(counts) is None
    counts[10:110] = 11
    assert "grays from 0 to 255" in not_black_and_white(counts)
    counts[10:110] = 0
    counts[100] = 112  # 112 of 1112
    assert "0, 100 and 255" in not_black_and_white(counts)
