"""Resampling by two matrices, against Pillow."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_canvas import drawn, padded
from PIL import Image

from jaxdbd.input.resample import BICUBIC, BILINEAR, resample
from jaxdbd.input.views import WHOLE, crop, mirrored, tile

PHOTO = drawn(130, 190)
KERNELS = {"bicubic": (BICUBIC, Image.Resampling.BICUBIC), "bilinear": (BILINEAR, Image.Resampling.BILINEAR)}


@partial(jax.jit, static_argnames=("shape", "kernel", "in_bands", "flip"))
def resampled(image, box, true, shape, kernel=BICUBIC, in_bands=False, flip=False):
    spans = mirrored(crop(box)) if flip else crop(box)
    planes = resample(jnp.moveaxis(image, -1, 0), spans, shape, kernel, true, in_bands=in_bands)
    return jnp.moveaxis(planes, 0, -1)


def by_pillow(image, box, shape, resampling=Image.Resampling.BICUBIC):
    height, width = image.shape[:2]
    pixels = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    return np.asarray(Image.fromarray(image).resize(shape[::-1], resampling, box=pixels)).astype(int)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "box", [(0, 0, 1, 1), (0.1, 0.25, 0.85, 0.9), (0.4, 0.3, 0.55, 0.6), (0, 0.7, 0.2, 1)], ids=str
)
def test_a_part_is_resampled_as_by_pillow_and_padding_never_shows(box, kernel, flip):
    ours, theirs = KERNELS[kernel]
    expected = by_pillow(PHOTO, box, (64, 48), theirs)
    box, true = jnp.array(box, jnp.float32), jnp.array([130, 190])
    for filling in (0, 255):
        image = padded(PHOTO, (160, 200), filling)
        got = np.asarray(resampled(image, box, true, (64, 48), ours, flip=flip))
        np.testing.assert_allclose(got[:, ::-1] if flip else got, expected, atol=1)
        assert (got == (expected[:, ::-1] if flip else expected)).mean() > 0.99


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0.1, 0.25, 0.85, 0.9), (0, 0.7, 0.2, 1)], ids=str)
def test_bands_leave_out_nothing_that_counts(box, flip):
    image = padded(drawn(230, 300), (240, 320), 255)
    box, true = jnp.array(box, jnp.float32), jnp.array([230, 300])
    whole, bands = (resampled(image, box, true, (128, 128), in_bands=b, flip=flip) for b in (False, True))
    np.testing.assert_allclose(bands, whole, atol=1)
    assert (bands == whole).mean() > 0.999


def test_bands_need_no_matrix_of_a_whole_axis():
    arguments = jnp.zeros((240, 320, 3), jnp.uint8), jnp.array(WHOLE), jnp.array([240, 320]), (128, 128)
    whole, bands = (resampled.lower(*arguments, in_bands=b).as_text() for b in (False, True))
    for matrix in ("tensor<128x320xf32>", "tensor<128x240xf32>"):
        assert matrix in whole
        assert matrix not in bands


@pytest.mark.parametrize("in_bands", [False, True])
def test_a_pattern_repeats_a_part_mirrored(in_bands):
    image, side, size = drawn(80, 120), 128, jnp.array([80, 120])
    box = (0.25, 0.5, 0.75, 1.0)  # 60 x 40 pixels
    planes = jnp.moveaxis(jnp.asarray(padded(image, (96, 130), 255)), -1, 0)

    @jax.jit
    def pattern(scale, offsets):
        spans = tile(crop(jnp.array(WHOLE)), jnp.array(box), size, scale, side, offsets)
        return jnp.moveaxis(resample(planes, spans, (side, side), BICUBIC, size, in_bands=in_bands), 0, -1)

    # A copy is 20 x 30: beside it 108 rows and 98 columns are left.
    small = pattern(jnp.float32(0.5), jnp.array([7 / 108, 49 / 98]))
    one = by_pillow(image, box, (20, 30))
    np.testing.assert_allclose(small, np.pad(one, [(7, 101), (49, 49), (0, 0)], mode="symmetric"), atol=1)
    # Of a part larger than the pattern only some is seen, once.
    large = pattern(jnp.float32(4.0), jnp.array([0.5, 0.5]))
    np.testing.assert_allclose(large, by_pillow(image, box, (160, 240))[:side, :side], atol=1)
