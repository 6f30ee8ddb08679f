"""The room that tools/room.py looks at: views that are sharp, and scenes whose masks follow the lens."""

import numpy as np
import skimage.data

from tools import room


def test_views_are_of_the_room_and_scenes_differ_in_focus(monkeypatch):
    monkeypatch.setattr(room, "SCENES", 6)
    left, right, _ = skimage.data.stereo_motorcycle()
    views = room.sharp_views(left, right)
    assert [view.shape[:2] for view in views[3:5]] == [(250, 370), (350, 519)]
    assert all(view.dtype == np.uint8 and min(view.shape[:2]) >= 250 for view in views)
    # The left half is far, the right half near: a lens has one of them in focus, both or none.
    near = np.where(np.arange(741) < 370, 0.0, 1.0).astype(np.float32) * np.ones((500, 1), np.float32)
    halves = set()
    for scene in room.refocused(left, near):
        assert scene.photo.shape == left.shape
        far_part, near_part = (scene.mask[:, a:b][scene.valid[:, a:b]].mean() for a, b in ((0, 330), (410, 741)))
        assert {far_part, near_part} <= {0.0, 1.0}
        halves.add((far_part, near_part))
    assert len(halves) >= 2
