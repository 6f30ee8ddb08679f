import cv2
import numpy as np
import pytest
from PIL import Image

from data import synthetic, textures
from data.synthetic import Plane, Scene
from data.synthetic import blur_kernel as disk
from jaxdbd.errors import UserError


def flat(size, at, value=1.0, alpha=None):
    return Plane(
        np.full((size, size, 3), value, np.float32), np.ones((size, size), np.float32) if alpha is None else alpha, at
    )


def test_scenes_are_deterministic_and_differ():
    a, b = synthetic.scenes(2, 1, 96, seed=3)["train"]
    first, again, other = synthetic.render(a), synthetic.render(a), synthetic.render(b)
    for x, y in zip(first, again, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(first[0], other[0])
    assert synthetic.load(a)["key"] == synthetic.load(a)["key"] != synthetic.load(b)["key"]
    test_scene = synthetic.scenes(2, 1, 96, seed=3)["test"][0]
    assert not np.array_equal(synthetic.render(test_scene)[0], first[0])


def test_render_shapes_types_and_range():
    image, in_focus, depth, blur = synthetic.render(Scene("s", (0, 0, 5), 80))
    assert image.shape == (80, 80, 3)
    assert image.dtype == np.uint8
    assert in_focus.shape == (80, 80)
    assert in_focus.dtype == bool
    assert depth.dtype == blur.dtype == np.float16
    assert depth.min() == 0
    assert depth.max() == 1


@pytest.mark.parametrize("shape", ["round", "blades", "gaussian"])
@pytest.mark.parametrize("diameter", [0.3, 1.0, 2.0, 7.5, 24.0])
def test_kernels_sum_to_one_and_are_centered(diameter, shape):
    kernel = disk(diameter, shape, blades=6, turn=0.3)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    offset = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    assert (kernel.sum(0) * offset).sum() == pytest.approx(0, abs=1e-4)


def test_polygon_spreads_light_as_far_as_the_disk():
    peak = disk(40.0).max()
    for blades in (5, 6, 7, 8):
        assert disk(40.0, "blades", blades).max() == pytest.approx(peak, rel=0.04)


def test_disk_has_the_diameter_asked_for():
    kernel = disk(12.0)
    # Second moment of a uniform disk of radius r along one axis: r^2 / 4; a pixel of its own adds 1/12.
    offset = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    assert (kernel.sum(0) * offset**2).sum() == pytest.approx(6.0**2 / 4, rel=0.05)


def test_coc_follows_the_thin_lens():
    """A point at n, focus at n_f, spreads over a disk of diameter A |n - n_f|: its area sets the peak brightness."""
    size, aperture = 65, 30.0
    for at, focus in ((0.2, 0.7), (0.9, 0.5)):
        plane = flat(size, at, 0.0)
        plane.color[size // 2, size // 2] = 1.0
        light, in_focus, _ = synthetic.photograph([plane], aperture, focus, disk)
        diameter = aperture * abs(at - focus)
        assert light[..., 0].max() == pytest.approx(1 / (np.pi * diameter**2 / 4), rel=0.06)
        assert light[..., 0].sum() == pytest.approx(1, rel=1e-4)  # no light is lost
        assert not in_focus.any()


def test_plane_at_the_focus_is_untouched_and_in_focus():
    rng = np.random.default_rng(0)
    plane = flat(32, 0.6)
    plane.color = rng.random((32, 32, 3), np.float32)
    light, in_focus, _ = synthetic.photograph([plane], 40.0, 0.6, disk)
    np.testing.assert_array_equal(light, plane.color)
    assert in_focus.all()


def test_mask_is_the_coc_under_its_threshold_on_a_ramp():
    size, aperture, focus = 128, 40.0, 0.5
    plane = flat(size, 0.5)
    plane.down = 0.8
    _, in_focus, _ = synthetic.photograph([plane], aperture, focus, disk)
    coc = aperture * np.abs(plane.nearness() - focus)
    np.testing.assert_array_equal(in_focus, coc < synthetic.IN_FOCUS_COC)
    assert 0 < in_focus.mean() < 0.2  # a band, as across a real ground


def test_near_plane_hides_and_its_blurred_edge_lets_the_background_through():
    size = 64
    alpha = np.zeros((size, size), np.float32)
    alpha[:, : size // 2] = 1
    planes = [flat(size, 0.1, 0.2), flat(size, 0.9, 1.0, alpha)]
    sharp, *_ = synthetic.photograph(planes, 20.0, 0.9, disk)
    np.testing.assert_allclose(sharp[32, [5, 60], 0], [1.0, 0.2], atol=1e-5)
    assert set(np.round(np.unique(sharp), 3)) == {np.float32(0.2), np.float32(1.0)}
    soft, in_focus, _ = synthetic.photograph(planes, 20.0, 0.1, disk)
    edge = soft[32, size // 2 - 8 : size // 2 + 8, 0]
    assert (np.diff(edge) <= 1e-5).all()
    assert soft[32, size // 2 - 1 : size // 2 + 1, 0].mean() == pytest.approx(0.6, abs=0.02)
    assert in_focus[32, 60]
    assert not in_focus[32, 5]


def test_visible_nearness_is_the_front_plane_scaled():
    alpha = np.zeros((16, 16), np.float32)
    alpha[4:8] = 1
    depth = synthetic.visible_nearness([flat(16, 0.2), flat(16, 0.8, alpha=alpha)])
    assert (depth[4:8] == 1).all()
    assert (depth[:4] == 0).all()


@pytest.mark.slow
def test_some_scenes_are_all_sharp_and_some_all_blurred():
    shares = []
    for scene in synthetic.scenes(80, 0, 64, seed=1)["train"]:
        rng = np.random.default_rng(scene.seed)
        planes = synthetic.compose(rng, scene.size, None)
        aperture, focus = synthetic.draw_lens(rng, planes, scene.size)
        coc = np.stack([aperture * np.abs(plane.nearness() - focus) for plane in planes])
        shares.append((coc < synthetic.IN_FOCUS_COC).mean())
    shares = np.array(shares)
    assert (shares == 1).sum() >= 2
    assert (shares == 0).sum() >= 2
    assert ((shares > 0) & (shares < 1)).sum() >= 40


@pytest.mark.parametrize(
    "kind", [textures.fractal, textures.tiles, textures.text, textures.stripes, textures.cells, textures.leaves]
)
def test_textures_are_finite_light_with_detail(kind):
    light = kind(np.random.default_rng(4), 128)
    assert light.shape == (128, 128, 3)
    assert np.isfinite(light).all()
    assert light.min() >= 0
    gray = light.mean(-1).astype(np.float32)
    assert np.abs(gray - cv2.GaussianBlur(gray, (0, 0), 3)).mean() > 0.003  # blurring it would show


def test_textures_from_photographs(tmp_path):
    Image.fromarray(np.full((90, 120, 3), (255, 0, 0), np.uint8)).save(tmp_path / "red.png")
    light = textures.photograph(np.random.default_rng(0), 64, tmp_path)
    np.testing.assert_allclose(light, np.broadcast_to(np.float32([1, 0, 0]), (64, 64, 3)), atol=1e-6)
    with pytest.raises(UserError, match="no photographs"):
        textures.photographs(tmp_path / "nowhere")
