"""The blur that rendered shards hold: diameters by hand, and where light of several is mixed."""

import numpy as np
import pytest

from data import refocus, synthetic
from data.blur import SIDE, blur_map
from data.refocus import Lens
from data.synthetic import Plane, Scene
from data.synthetic import blur_kernel as disk

SIZE, NEAR, FAR = 120, 0.9, 0.1
SQUARE = np.s_[40:80, 40:80]


def stored(diameters):
    return blur_map(diameters[..., 0], diameters[..., 1])[..., 0].astype(np.float32)


def test_one_diameter_is_a_share_of_the_longer_side():
    found = blur_map(np.full((50, 100), 8.0), np.full((50, 100), 64.0))
    assert found.shape == (50, 100, 1)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, 0.08, rtol=1e-3)


def test_diameters_that_spread_are_unknown_and_never_averaged():
    # Half of the light from 2 and half from 10: mean 6, mean square 52, spread 4.
    mean, square = np.full((640, 320), 6.0), np.full((640, 320), 52.0)
    mean[:320], square[:320] = 2.0, 4.0
    found = blur_map(mean, square)[..., 0]
    assert found.shape == (SIDE, SIDE // 2)
    np.testing.assert_allclose(found[: SIDE // 2].astype(float), 2 / 640, rtol=1e-3)
    assert np.isnan(found[SIDE // 2 :]).all()
    # A few pixels more or less of what is sharp are no difference.
    assert np.isfinite(blur_map(np.full((1000, 1000), 0.5), np.full((1000, 1000), 1.2))).all()


def test_refocused_photographs_know_it_but_at_blurred_edges():
    light = np.full((SIZE, SIZE, 3), 0.1, np.float32)
    near = np.full((SIZE, SIZE), FAR, np.float32)
    near[SQUARE] = NEAR
    *_, diameters = refocus.photograph(light, near, Lens(10 / (NEAR - FAR), FAR), disk)
    blur = stored(diameters)
    np.testing.assert_allclose(blur[50:70, 50:70], 10 / SIZE, rtol=1e-2)
    np.testing.assert_allclose(blur[:30], 0, atol=1e-4)
    assert np.isnan(blur[60, 39])  # half the light is the square's


def test_rendered_scenes_know_it():
    aperture, focus = 40.0, 0.5
    ground = Plane(np.full((64, 64, 3), 0.5, np.float32), np.ones((64, 64), np.float32), 0.5, down=0.8)
    *_, diameters = synthetic.photograph([ground], aperture, focus, disk)
    expected = aperture * np.abs(ground.nearness() - focus) / 64
    np.testing.assert_allclose(stored(diameters), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_mask_and_the_blur_of_a_scene_agree(seed):
    _, in_focus, _, blur = synthetic.render(Scene("s", (0, 0, seed), 96))
    known = np.isfinite(blur[..., 0])
    assert known.mean() > 0.5
    sharp = blur[..., 0].astype(float) * 96 < synthetic.IN_FOCUS_COC
    assert (sharp == in_focus)[known].mean() > 0.99
