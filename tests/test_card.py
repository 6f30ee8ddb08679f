"""The figures of model cards: by hand, and the room that they look at."""

from types import SimpleNamespace

import numpy as np
import skimage.data
from PIL import Image

from jaxdbd.inference import Prediction
from tools import card


def test_views_are_of_the_room_and_scenes_differ_in_focus(monkeypatch):
    monkeypatch.setattr(card, "SCENES", 6)
    left, right, _ = skimage.data.stereo_motorcycle()
    views = card.sharp_views(left, right)
    assert [view.shape[:2] for view in views[3:5]] == [(250, 370), (350, 519)]
    assert all(view.dtype == np.uint8 and min(view.shape[:2]) >= 250 for view in views)
    # The left half is far, the right half near: a lens has one of them in focus, both or none.
    near = np.where(np.arange(741) < 370, 0.0, 1.0).astype(np.float32) * np.ones((500, 1), np.float32)
    halves = set()
    for scene in card.refocused(left, near):
        assert scene.photo.shape == left.shape
        far_part, near_part = (scene.mask[:, a:b][scene.valid[:, a:b]].mean() for a, b in ((0, 330), (410, 741)))
        assert {far_part, near_part} <= {0.0, 1.0}
        halves.add((far_part, near_part))
    assert len(halves) >= 2


def test_shares_of_a_pair_by_hand(tmp_path, monkeypatch):
    # In focus: the upper half of the first and the left half of the second. In exactly one 2 of 4 quarters, in none 1.
    for name in ("a_1", "a_2", "b_1"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
    upper, left = np.zeros((2, 8, 8), np.float32)
    upper[:4], left[:, :4] = 1, 1
    maps = [SimpleNamespace(focus=upper), SimpleNamespace(focus=left)]
    monkeypatch.setattr(card.jaxdbd, "predict", lambda model, variables, photographs: maps[: len(photographs)])
    assert card.pair_shares(None, None, tmp_path) == {"a": (0.5, 0.25)}
    np.testing.assert_allclose(card.mean_focus(None, None, [None, None]), [0.5, 0.5])


def test_blur_of_the_room_in_pixels():
    # Three pixels of 100 everywhere, told as three and as six: right, and off by a factor of two.
    photo, mask = np.zeros((50, 100, 3), np.uint8), np.zeros((50, 100), bool)
    scenes = [card.Scene(photo, mask, mask, np.full((50, 100), 0.03, np.float16))] * 2
    maps = [Prediction(np.zeros((50, 100), np.float32), None, np.full((50, 100), c, np.float32)) for c in (3.0, 6.0)]
    figures = card.blur_figures(maps, scenes)
    assert (figures["within_factor"], figures["agreement"]) == (0.5, 1)
    assert abs(figures["log2_error"] - 0.5) < 0.01


def test_a_point_of_light_becomes_an_even_disk_and_plain_ground_stays():
    plain = np.full((21, 30, 3), 120, np.uint8)
    np.testing.assert_array_equal(card.blurred(plain, 3.0), plain)
    point = np.zeros((21, 21, 3), np.uint8)
    point[10, 10] = 255
    disk = card.blurred(point, 3.0)[..., 0]
    y, x = np.mgrid[-10:11, -10:11]
    distance = np.hypot(x, y)
    assert len(set(disk[distance <= 2.5])) == 1
    assert disk[10, 10] > 0
    assert not disk[distance > 3.5].any()
