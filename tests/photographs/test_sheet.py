"""What the contact sheet shows of one photograph."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdbd.photographs.app.sheet import cell, entry_of, size_within
from jaxdbd.photographs.predicted import Predicted, Row


@pytest.mark.parametrize(
    ("size", "side", "small"), [((400, 600), 300, (200, 300)), ((3000, 40), 320, (320, 4)), ((1, 5000), 320, (1, 320))]
)
def test_the_longer_side_is_given(size, side, small):
    assert size_within(size, side) == small


def test_thumbnail_and_veil_of_a_photograph_twice_as_wide_as_high():
    left = np.zeros((64, 64), np.float32)
    left[:, :32] = 1
    square = np.rint(left[..., None] * [200, 100, 0]).astype(np.uint8)
    entry = entry_of("a.jpg", Predicted(Path("a.jpg"), (500, 1000), square, left, None), 0.5, Row("0.5000"))
    thumbnail, veil = Image.open(io.BytesIO(entry.thumbnail)), Image.open(io.BytesIO(entry.veil))
    assert thumbnail.size == veil.size == (64, 32)
    np.testing.assert_allclose(np.asarray(thumbnail)[16, 8], (200, 100, 0), atol=12)
    alpha = np.asarray(veil.convert("RGBA"))[..., 3]
    assert (alpha[:, :30] == 0).all()
    assert (alpha[:, 31:33] == 255).all()
    assert (alpha[:, 34:] == 170).all()
    shown = cell(entry, 3, "t", "v")
    assert (shown["number"], shown["size"], shown["share"]) == (3, "1000 x 500", 0.5)
