"""Photographs of every kind, as `predict` reads them."""

import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from odd_files import camera_raw, save
from PIL import Image

from jaxdbd.errors import UserError
from jaxdbd.photographs.decoding import opened, reduce_decoding
from jaxdbd.photographs.photos import SPARE, read_photograph, reduced_photograph

RAMP = np.linspace(0, 255, 32).astype(np.uint8)[None].repeat(20, axis=0)  # 20 high, 32 wide, dark to bright
COLORS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 90)], axis=-1)


def pixels(path: Path) -> np.ndarray:
    picture = read_photograph(path)
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_come_back_exactly(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", COLORS, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(pixels(path), COLORS)


def test_cmyk_jpeg_keeps_its_colors(tmp_path):
    smooth = Image.fromarray(COLORS)
    path = save(tmp_path / "cmyk.jpg", smooth.convert("CMYK"), quality=100, subsampling=0)
    assert Image.open(path).mode == "CMYK"
    assert abs(pixels(path) - COLORS).mean() < 3


def test_gray_palette_and_one_pixel(tmp_path):
    np.testing.assert_array_equal(pixels(save(tmp_path / "gray.png", RAMP)), RAMP[..., None].repeat(3, axis=-1))
    palette = Image.fromarray(COLORS).quantize(256)
    assert abs(pixels(save(tmp_path / "palette.png", palette)) - COLORS).max() < 12
    np.testing.assert_array_equal(pixels(save(tmp_path / "one.png", COLORS[:1, :1])), COLORS[:1, :1])


def test_sixteen_bits_keep_their_range(tmp_path):
    deep = RAMP.astype(np.uint16) * 257
    for suffix in ("png", "tif"):
        path = save(tmp_path / f"deep.{suffix}", deep)
        assert Image.open(path).mode.startswith("I")
        np.testing.assert_array_equal(pixels(path)[..., 0], RAMP)
    np.testing.assert_array_equal(pixels(save(tmp_path / "int.tif", deep.astype(np.int32)))[..., 1], RAMP)


def test_floating_point_is_taken_as_zero_to_one_or_scaled_down(tmp_path):
    values = RAMP.astype(np.float32) / 255
    np.testing.assert_array_equal(pixels(save(tmp_path / "f.tif", values))[..., 0], RAMP)
    np.testing.assert_array_equal(pixels(save(tmp_path / "hdr.tif", values * 40))[..., 0], RAMP)
    half = pixels(save(tmp_path / "half.tif", values / 2))  # dim stays dim
    assert half.max() == 128
    values[0, 0] = np.nan
    assert pixels(save(tmp_path / "nan.tif", values))[0, 0, 0] == 0


def test_transparent_parts_are_shown_over_white(tmp_path):
    alpha = np.zeros(RAMP.shape, np.uint8)
    alpha[:, :16] = 255
    seen = pixels(save(tmp_path / "alpha.png", np.dstack([COLORS, alpha])))
    np.testing.assert_array_equal(seen[:, :16], COLORS[:, :16])
    assert (seen[:, 16:] == 255).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (30, 20), color) for color in ("red", "blue")]
    path = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert pixels(path).reshape(-1, 3).tolist() == [[255, 0, 0]] * 600


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation_is_undone(tmp_path, orientation, suffix):
    # What a camera stores when it was held so that undoing `orientation` gives `upright` (EXIF 2.3, tag 0x0112).
    upright = Image.fromarray(COLORS)
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = pixels(save(tmp_path / f"a.{suffix}", stored, exif=exif, **({"quality": 100} if suffix == "jpg" else {})))
    assert seen.shape == COLORS.shape
    assert abs(seen - COLORS).mean() < 3


def test_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif")
    path = tmp_path / "phone.heic"
    heif.from_pillow(Image.fromarray(COLORS)).save(path, quality=95)
    assert abs(pixels(path) - COLORS).mean() < 12  # coarse: colors are stored at half resolution


def test_heic_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    (tmp_path / "phone.heic").write_bytes(b"x")
    with pytest.raises(UserError, match="pip install pillow-heif"):
        read_photograph(tmp_path / "phone.heic")


def test_what_a_file_holds_decides_and_not_what_else_was_read(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif")
    heif.from_pillow(Image.fromarray(COLORS)).save(tmp_path / "phone.heic", quality=95)
    heic = (tmp_path / "phone.heic").read_bytes()
    jpeg = save(tmp_path / "plain.jpg", COLORS, quality=95).read_bytes()
    (tmp_path / "named.jpg").write_bytes(heic)  # before any .heic is read
    assert abs(pixels(tmp_path / "named.jpg") - COLORS).mean() < 12
    (tmp_path / "named.HEIC").write_bytes(jpeg)
    (tmp_path / "named").write_bytes(jpeg)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    for name in ("named.HEIC", "named"):  # no package is needed for what they hold
        assert abs(pixels(tmp_path / name) - COLORS).mean() < 3
    with pytest.raises(UserError, match=r"named\.jpg: HEIC needs one more package: pip install pillow-heif"):
        read_photograph(tmp_path / "named.jpg")


def test_raw_is_refused_by_content_and_by_name(tmp_path):
    for name in ("a.nef", "a.DNG", "a.tif"):
        with pytest.raises(UserError, match=r"RAW.*convert it first, or take its JPEG"):
            read_photograph(camera_raw(tmp_path / name))
    preview = save(tmp_path / "b.tif", COLORS)
    preview.rename(tmp_path / "b.NEF")
    (tmp_path / "c.cr2").write_bytes(b"II*\0\x10\0\0\0CR\x02\0" + bytes(40))
    (tmp_path / "d.raf").write_bytes(b"FUJIFILMCCD-RAW " + bytes(40))
    (tmp_path / "e.cr3").write_bytes(b"\0\0\0\x18ftypcrx " + bytes(40))
    (tmp_path / "f.arw").write_bytes(b"unlike anything")
    for name in ("b.NEF", "c.cr2", "d.raf", "e.cr3", "f.arw"):
        with pytest.raises(UserError, match=f"{name}: RAW"):
            read_photograph(tmp_path / name)
    save(tmp_path / "g.jpg", COLORS, quality=95).rename(tmp_path / "g.nef")
    assert abs(pixels(tmp_path / "g.nef") - COLORS).mean() < 3  # its JPEG, under the wrong name


def tiff(path: Path, array: np.ndarray, **options) -> Path:
    tifffile.imwrite(path, array, **options)
    return path


def test_tiff_that_pillow_misreads(tmp_path):
    deep = COLORS.astype(np.uint16) * 257
    planes = np.ascontiguousarray(np.moveaxis(deep, -1, 0))
    for compression in (None, "zlib"):
        path = tiff(tmp_path / "p.tif", planes, photometric="rgb", planarconfig="separate", compression=compression)
        np.testing.assert_array_equal(pixels(path), COLORS)
    for dtype in (np.float16, np.float32, np.float64):
        path = tiff(tmp_path / "f.tif", (COLORS / 255).astype(dtype), photometric="rgb")
        assert abs(pixels(path) - COLORS).max() <= 1
    for gray, white in ((deep[..., 0], 65535), (RAMP.astype(np.float32) / 255, 1.0)):
        path = tiff(tmp_path / "w.tif", (white - gray).astype(gray.dtype), photometric="miniswhite")
        np.testing.assert_array_equal(pixels(path)[..., 0], RAMP)
    path = tiff(tmp_path / "i.tif", RAMP.astype(np.int16) * 128, photometric="minisblack")  # 32767 is white
    assert abs(pixels(path)[..., 0] - RAMP).max() <= 1
    contiguous = {"planarconfig": "contig"}
    for array, how, kind in ((RAMP.astype(np.complex64), {}, "1"), (np.dstack([RAMP] * 5), contiguous, "5")):
        path = tiff(tmp_path / "o.tif", array, photometric="minisblack", **how)
        with pytest.raises(UserError, match=rf"o\.tif: a TIFF of {kind} samples of .*save it as gray or RGB"):
            read_photograph(path)
    path = tiff(tmp_path / "u.tif", deep[..., 0].astype(np.uint32) * 65537, photometric="minisblack")
    assert abs(pixels(path)[..., 0] - RAMP).max() <= 1
    path = tiff(tmp_path / "t.tif", planes[:, :16, :16], photometric="rgb", planarconfig="separate", metadata=None)
    content = bytearray(path.read_bytes())
    at = content.index(b"\x03\x01\x03\0\x01\0\0\0\x01\0") + 8  # compression
    content[at] = 5
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.tif: a TIFF of a kind that cannot be read .*save it"):
        read_photograph(path)


@pytest.mark.parametrize("color", [False, True])
def test_few_bits_in_a_file_of_many_are_warned_of(tmp_path, color):
    twelve = (COLORS if color else RAMP).astype(np.uint16) * 16
    for suffix in ("png", "tif"):
        path = tmp_path / f"dark.{suffix}"
        assert cv2.imwrite(str(path), twelve[..., ::-1] if color else twelve)
        with pytest.warns(UserWarning, match=rf"dark\.{suffix}: its largest value is 4080 of 65535"):
            read_photograph(path)
    bright = (COLORS if color else RAMP).astype(np.uint16) * 257
    assert cv2.imwrite(str(tmp_path / "bright.png"), bright)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_photograph(tmp_path / "bright.png")


def test_a_range_that_the_file_states_is_used(tmp_path):
    values = (RAMP.astype(np.uint16) * 16).reshape(-1)  # 12 bits, packed: two values in three bytes
    packed = np.stack([values[::2] >> 4, (values[::2] & 15) << 4 | values[1::2] >> 8, values[1::2] & 255], -1)
    tags = {256: 32, 257: 20, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 8 * 12 + 4, 277: 1, 279: packed.size}
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag > 270 else 3, 1, value) for tag, value in tags.items())
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    (tmp_path / "t.tif").write_bytes(header + entries + bytes(4) + packed.astype(np.uint8).tobytes())
    assert abs(pixels(tmp_path / "t.tif")[..., 0] - RAMP).max() <= 1


def test_warnings_of_decoders_name_no_file_and_are_not_shown(tmp_path):
    jpeg = save(tmp_path / "a.jpg", COLORS).read_bytes()
    broken_exif = b"\xff\xe1\x00\x20Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\xff\0\0\xff\xff\0\0"
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + broken_exif + jpeg[2:])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        read_photograph(tmp_path / "a.jpg")
    assert not seen


def test_more_pixels_than_are_read_is_one_line(tmp_path):
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 4) + b"IDAT" + bytes(8))
    with pytest.raises(UserError, match=r"a\.png: 20000x20000 are 400 megapixels, over the 268.*reduce it"):
        read_photograph(tmp_path / "a.png")


def test_files_that_are_no_photographs(tmp_path):
    jpeg = save(tmp_path / "whole.jpg", np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)).read_bytes()
    png = save(tmp_path / "whole.png", COLORS).read_bytes()
    broken = {
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": png[: len(png) // 2],
        "text.jpg": b"dear diary\n" * 50,
        "empty.png": b"",
        "header.png": png[:20],
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name) as caught:
            read_photograph(tmp_path / name)
        assert "\n" not in str(caught.value)


# --- Decoded at less than their size ---


def large(height: int, width: int) -> Image.Image:
    """Something with structure of every size."""
    rng = np.random.default_rng(0)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((width, height)), np.float32)
        for n in (4, 20, 90)
    ]
    return Image.fromarray(np.mean(layers, axis=0).astype(np.uint8))


def square(picture: Image.Image, side: int) -> np.ndarray:
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)).astype(int)


@pytest.mark.parametrize(("factor", "left"), [(1, 1), (2, 1 / 2), (5, 1 / 4), (9, 1 / 8), (40, 1 / 8)])
@pytest.mark.parametrize("kind", [{}, {"progressive": True}])
def test_a_large_jpeg_is_decoded_at_the_least_size_that_is_enough(tmp_path, factor, left, kind):
    side, (height, width) = 16, (factor * SPARE * 16 + 8, factor * SPARE * 16 + 40)
    path = save(tmp_path / "a.jpg", large(height, width), **kind)
    with reduced_photograph(path, side) as (picture, size, remark):
        assert (size, remark) == ((height, width), "")
        assert picture.size == (np.ceil(width * left), np.ceil(height * left))
        assert abs(square(picture, side) - square(read_photograph(path), side)).mean() < 1  # of 255
        if left == 1:
            np.testing.assert_array_equal(picture, read_photograph(path))


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_a_reduced_jpeg_is_upright_and_has_its_own_size(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    path = save(tmp_path / "a.jpg", large(500, 900), exif=exif)
    whole = read_photograph(path)
    with reduced_photograph(path, 16) as (picture, size, _):
        assert size == (whole.height, whole.width)
        assert picture.width < whole.width / 2
        assert abs(square(picture, 16) - square(whole, 16)).mean() < 1


@pytest.mark.parametrize(("suffix", "mode"), [("png", "RGB"), ("webp", "RGB"), ("jpg", "L"), ("jpg", "CMYK")])
def test_other_kinds_are_read_whole_and_other_colors_reduced(tmp_path, suffix, mode):
    path = save(tmp_path / f"a.{suffix}", large(500, 900).convert(mode))
    with reduced_photograph(path, 16) as (picture, size, _):
        assert (size, picture.mode) == ((500, 900), "RGB")
        if suffix != "jpg":
            np.testing.assert_array_equal(picture, read_photograph(path))
        else:
            assert abs(square(picture, 16) - square(read_photograph(path), 16)).mean() < 1


def test_memory_is_counted_as_decoding_takes_it(tmp_path):
    for name, options, share in (("a.jpg", {}, 1 / 16), ("b.jpg", {"progressive": True}, 1), ("c.png", {}, 1)):
        with opened(save(tmp_path / name, large(800, 1600), **options)) as picture:
            assert reduce_decoding(picture, 200) == 800 * 1600 * share


def test_a_reduced_jpeg_that_is_cut_off_is_refused(tmp_path):
    path = save(tmp_path / "a.jpg", large(800, 1600))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="cannot be read as a picture"), reduced_photograph(path, 16):
        pass
