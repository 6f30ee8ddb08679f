"""What is a mask and what is none, whichever command reads it."""

import cv2
import numpy as np
import pytest
from odd_files import half, save
from PIL import Image, ImageFilter

from jaxdbd.errors import UserError
from jaxdbd.masks import not_black_and_white, read_map, read_mask

BINARY = half() // 255


def palette(*colors) -> Image.Image:
    picture = Image.fromarray(BINARY, "P")
    picture.putpalette([channel for color in colors for channel in color])
    return picture


def with_alpha(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([color, color, color, alpha])


WHITE = np.full_like(BINARY, 255)
MASKS = {
    "black and white": half(),
    "one bit": Image.fromarray(half()).convert("1"),
    "RGB": np.dstack([half()] * 3),
    "palette": palette((0, 0, 0), (255, 255, 255)),
    "constant alpha": with_alpha(half(), WHITE),
    "16 bits": half().astype(np.uint16) * 257,
    "16 bits, 8 shifted": half().astype(np.uint16) * 256,
    "all black": half() * 0,
    "soft edges": Image.fromarray(half(80, 120)).filter(ImageFilter.GaussianBlur(3)),
}
NO_MASKS = {
    "palette of colors": (palette((0, 0, 0), (128, 0, 0)), r"colors such as \(128, 0, 0\)"),
    "red": (np.dstack([half(), half() * 0, half() * 0]), r"colors such as \(255, 0, 0\)"),
    "0 and 1": (BINARY, "holds 0 and 1 as labels; save it with 0 and 255"),
    "1 and 2": (BINARY + 1, "holds 1 and 2 as labels"),
    "all 1": (BINARY * 0 + 1, "holds 1 as labels"),
    "0 and 128": (BINARY * 128, "holds 0 and 128 as labels"),
    "0, 1 and 255": (np.concatenate([half(), BINARY]), "holds 0, 1 and 255 as labels"),
    "trimap": (np.concatenate([half(), BINARY * 0 + 128]), "holds 0, 128 and 255 as labels"),
    "gray": (np.tile(np.arange(60, dtype=np.uint8) + 96, (40, 1)), "holds grays from 96 to 155"),
    "16 bits, 0 and 255": (half().astype(np.uint16), "holds 0 and 255 as labels; .* 0 and 65535"),
    "16 bits, 0 and 1": (BINARY.astype(np.uint16), "holds 0 and 1 as labels"),
    "in the alpha channel": (with_alpha(WHITE, half()), r"its alpha channel is not the same everywhere \(0 to 255\)"),
    "floating point": (BINARY.astype(np.float32), "floating point"),
}


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
