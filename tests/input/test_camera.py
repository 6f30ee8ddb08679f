"""Fewer pixels, other colors, noise and JPEG, against Pillow."""

import io
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_canvas import drawn
from PIL import Image, ImageEnhance
from PIL.JpegImagePlugin import JpegImageFile

from jaxdbd.input import camera
from jaxdbd.input.camera import LUMINANCE, compress, table

SIZE = 96
PHOTO = drawn(SIZE, SIZE)
shrunk, enlarged, jittered, noisy = (
    jax.jit(f) for f in (camera.shrink, camera.enlarge, camera.jitter, camera.add_noise)
)
compressed = jax.jit(compress)


def planes(image) -> jnp.ndarray:
    return jnp.moveaxis(jnp.asarray(image, jnp.float32), -1, 0)


def picture(planes) -> np.ndarray:
    return np.moveaxis(np.asarray(planes), 0, -1).astype(np.uint8)


def filled(image: np.ndarray) -> np.ndarray:
    """A smaller picture in the corner of the square, its last row and column repeated."""
    missing = SIZE - len(image)
    return np.pad(image, [(0, missing), (0, missing), (0, 0)], mode="edge")


@pytest.mark.parametrize("side", [32, 51, 95])
def test_a_picture_is_reduced_and_enlarged_as_by_pillow(side):
    small = Image.fromarray(PHOTO).resize((side, side), Image.Resampling.BICUBIC)
    got = shrunk(planes(PHOTO), jnp.int32(side))
    np.testing.assert_allclose(picture(got).astype(int), filled(np.asarray(small)), atol=1)
    # What lies beyond the side never shows.
    garbage = jnp.where(jnp.arange(SIZE)[None, None, :] < side, planes(filled(np.asarray(small))), 255.0)
    back = np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(int)
    np.testing.assert_allclose(picture(enlarged(garbage, jnp.int32(side))), back, atol=1)


@pytest.mark.parametrize("side", [SIZE, 50])
@pytest.mark.parametrize("factors", [(0.8, 1.2, 0.9), (1.2, 0.8, 1.1), (1.0, 1.0, 1.0)], ids=str)
def test_colors_change_as_by_pillow(factors, side):
    image = PHOTO[:side, :side]
    expected = Image.fromarray(image)
    for change, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        expected = change(expected).enhance(factor)
    got = picture(jittered(planes(filled(image)), jnp.array(factors), jnp.int32(side))).astype(int)
    np.testing.assert_allclose(got, filled(np.asarray(expected)), atol=1)


def test_a_gray_picture_keeps_its_lightness():
    got = picture(camera.without_color(planes(PHOTO))).astype(int)
    np.testing.assert_allclose(got, np.asarray(Image.fromarray(PHOTO).convert("L").convert("RGB")), atol=1)


@pytest.mark.parametrize("sigma", [0.0, 1.0, 4.0])
def test_noise_is_normal_and_in_whole_levels(sigma):
    flat = jnp.full((3, SIZE, SIZE), 128.0)
    first, second = (np.asarray(noisy(flat, jnp.float32(seed), jnp.float32(sigma), SIZE)) - 128 for seed in (0.25, 0.5))
    np.testing.assert_array_equal(first, np.round(first))
    if sigma == 0:
        assert not first.any()
        return
    spread = np.sqrt(sigma**2 + 1 / 12)  # rounding adds its own
    for noise in (first, second):
        assert noise.std() == pytest.approx(spread, rel=0.02)
        assert noise.mean() == pytest.approx(0, abs=0.03 * sigma)
        for level in (1, round(sigma), round(2 * sigma)):
            beyond = 2 * NormalDist().cdf(-(level - 0.5) / sigma)
            assert (np.abs(noise) >= level).mean() == pytest.approx(beyond, abs=0.01)
    # Neither seeds nor neighbors nor channels have anything to do with each other.
    others = second, np.roll(first, 1, axis=2), np.roll(first, 1, axis=1), np.roll(first, 1, axis=0)
    for other in others:
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.02


def test_noise_repeats_beyond_the_side_of_a_reduced_picture():
    got = picture(noisy(planes(filled(PHOTO[:40, :40])), jnp.float32(0.3), jnp.float32(4), jnp.int32(40)))
    np.testing.assert_array_equal(got, filled(got[:40, :40]))


def saved(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).astype(int)


@pytest.mark.parametrize("quality", [40, 49, 50, 75, 95])
def test_the_tables_are_those_of_libjpeg(quality):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=quality)
    buffer.seek(0)
    ours = table(LUMINANCE, jnp.int32(quality))
    np.testing.assert_array_equal(np.asarray(ours).ravel(), JpegImageFile(buffer).quantization[0])


@pytest.mark.parametrize("quality", [40, 60, 80, 95])
def test_jpeg_is_that_of_pillow_but_for_coefficients_between_two_steps(quality):
    # libjpeg computes in whole numbers: of what lies within a few hundredths of the middle between two steps some goes
    # the other way, and all of its block changes a little.
    different = []
    for seed in range(4):
        image = drawn(SIZE, SIZE, seed)
        expected = saved(image, quality)
        got = picture(compressed(planes(image), jnp.int32(quality))).astype(int)
        different.append(np.abs(got - expected))
        assert np.abs(got - image).mean() == pytest.approx(np.abs(expected - image).mean(), rel=0.02)
    different = np.stack(different)
    assert different.mean() < 0.6
    assert (different > 3).mean() < 0.02


def test_jpeg_of_plain_pictures_is_exact():
    for color in ((0, 0, 0), (255, 255, 255), (200, 30, 90), (17, 130, 240)):
        image = np.full((SIZE, SIZE, 3), color, np.uint8)
        got = picture(compressed(planes(image), jnp.int32(70))).astype(int)
        np.testing.assert_allclose(got, saved(image, 70), atol=1)


def test_jpeg_of_a_reduced_picture_is_as_if_by_itself():
    image = PHOTO[:51, :51]
    got = picture(compressed(planes(filled(image)), jnp.int32(60))).astype(int)[:51, :51]
    different = np.abs(got - saved(image, 60))
    assert different.mean() < 0.5
    assert (different > 3).mean() < 0.03
