"""Panels: every picture where its column's title says, whole, and in proportion."""

import numpy as np

from jaxdbd.input_pipeline import Example
from jaxdbd.overlay import depth_colours
from jaxdbd.predict import Prediction
from jaxdbd.viz import example_panel, grey, panel

RED, BLUE = ((np.zeros((60, 100, 3)) + colour).astype(np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))


def test_grey_rounds_and_clips():
    values = grey(np.array([[-1.0, 0.0, 0.5, 1.0, 2.0]], np.float32))
    assert values.shape == (1, 5, 3)
    assert values[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_pictures_keep_their_proportions_and_places():
    sheet = panel([[RED, BLUE], [BLUE, RED]], ["left", "right"], side=100)
    assert sheet.shape == (22 + 2 * 104 - 4, 2 * 104 - 4, 3)
    middles = [(22 + 50 + 104 * y, 50 + 104 * x) for y in range(2) for x in range(2)]
    assert [sheet[m].tolist() for m in middles] == [[200, 0, 0], [0, 0, 200], [0, 0, 200], [200, 0, 0]]
    # 60 of 100 rows: 20 white ones above and below.
    column = (sheet[22 : 22 + 100, 50] == (200, 0, 0)).all(axis=-1)
    assert 58 <= column.sum() <= 60
    assert abs(int(np.flatnonzero(column)[0]) - 20) <= 1


def test_example_panel_shows_depth_only_where_there_is_any():
    mask = np.zeros((60, 100), np.uint8)
    focus = np.full((60, 100), 0.25, np.float32)
    near = np.ones((30, 50), np.float16)
    bare = example_panel([Example("a", RED, mask, None)], [Prediction(focus, None)])
    full = example_panel([Example("a", RED, mask, near)], [Prediction(focus, focus)])
    side = 224
    assert bare.shape[1] == 3 * (side + 4) - 4
    assert full.shape[1] == 5 * (side + 4) - 4
    y = 22 + side // 2
    assert full[y, 2 * (side + 4) + side // 2].tolist() == [64, 64, 64]
    wanted = [depth_colours(np.full((1, 1), v, np.float32))[0, 0] for v in (1, 0.25)]
    for column, colour in zip((3, 4), wanted, strict=True):
        assert np.abs(full[y, column * (side + 4) + side // 2].astype(int) - colour).max() <= 2
