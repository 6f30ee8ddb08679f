"""Panels: every picture where its column's title says, whole, and in proportion."""

import numpy as np

from jaxdbd.inference import Prediction
from jaxdbd.input.records import Example
from jaxdbd.photographs.overlay import blur_colors, depth_colors
from jaxdbd.photographs.panels import example_panel, gray, panel
from jaxdbd.scoring.blur import WIDEST

RED, BLUE = ((np.zeros((60, 100, 3)) + color).astype(np.uint8) for color in ((200, 0, 0), (0, 0, 200)))


def test_gray_rounds_and_clips():
    values = gray(np.array([[-1.0, 0.0, 0.5, 1.0, 2.0]], np.float32))
    assert values.shape == (1, 5, 3)
    assert values[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_pictures_keep_their_proportions_and_places():
    tall = BLUE.transpose(1, 0, 2)  # 100 high, 60 wide
    sheet = panel([[RED, BLUE], [tall, RED]], ["left", "right"], side=50)
    assert sheet.shape == (22 + 30 + 4 + 50, 50 + 4 + 50, 3)  # rows as high as their highest picture
    is_red, is_blue = ((sheet == color).all(axis=-1) for color in ((200, 0, 0), (0, 0, 200)))
    assert is_red[22:52, :50].all()
    assert is_blue[22:52, 54:].all()
    assert is_blue[56:106, 10:40].all()
    assert is_red[66:96, 54:].all()
    assert is_red.sum() == is_blue.sum() == 2 * 30 * 50


def test_example_panel_shows_depth_only_where_there_is_any():
    mask = np.zeros((60, 100), np.uint8)
    focus = np.full((60, 100), 0.25, np.float32)
    near = np.linspace(0, 1, 100, dtype=np.float32)[None].repeat(60, 0)
    example, teacher = Example("a", RED, mask, None), Example("a", RED, mask, near.astype(np.float16))
    bare = example_panel([example], [Prediction(focus, None)])
    untaught = example_panel([example], [Prediction(focus, near)])
    full = example_panel([teacher], [Prediction(focus, 0.1 + 0.5 * near)])
    side = 224
    assert bare.shape[1] == 3 * (side + 4) - 4
    assert untaught.shape[1] == 4 * (side + 4) - 4
    assert full.shape[1] == 5 * (side + 4) - 4
    y = 22 + 60  # well inside a row of 134
    assert full.shape[0] == 22 + round(side * 0.6)
    assert full[y, 2 * (side + 4) + side // 2].tolist() == [64, 64, 64]
    wanted = depth_colors(np.full((1, 1), 0.5, np.float32))[0, 0].astype(int)
    # Beside the teacher's, the network's depth has the scale and shift that fit best: half way, both say 0.5.
    for sheet, column in ((untaught, 3), (full, 3), (full, 4)):
        assert np.abs(sheet[y, column * (side + 4) + side // 2] - wanted).max() <= 6


def test_example_panel_shows_blur_beside_the_true_one():
    focus = np.full((60, 100), 0.25, np.float32)
    blur = np.linspace(0, 6, 100, dtype=np.float32)[None].repeat(60, 0)  # pixels of 100
    example = Example("a", RED, np.zeros((60, 100), np.uint8), None, blur=np.full((6, 10), 0.03, np.float16))
    sheet = example_panel([example], [Prediction(focus, None, blur)])
    assert sheet.shape[1] == 5 * 228 - 4
    wanted = blur_colors(np.full((1, 1), 0.03), WIDEST)[0, 0].astype(int)
    for column in (3, 4):
        assert np.abs(sheet[22 + 60, column * 228 + 112] - wanted).max() <= 6
