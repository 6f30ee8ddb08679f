import cv2
import numpy as np
import pytest
from fake_benchmark import decoded
from fake_benchmark import photograph as smooth
from PIL import Image

from data import refocus, sources, synthetic
from data.refocus import Lens
from data.synthetic import blur_kernel as disk

SIZE, NEAR, FAR = 120, 0.9, 0.1
BRIGHT, DARK = 0.8, 0.1
SQUARE = np.s_[40:80, 40:80]


def two_planes():
    """A bright near square on a dark far ground: linear light and nearness."""
    light = np.full((SIZE, SIZE, 3), DARK, np.float32)
    near = np.full((SIZE, SIZE), FAR, np.float32)
    light[SQUARE], near[SQUARE] = BRIGHT, NEAR
    return light, near


def ramp(size=200):
    return np.tile(np.linspace(0, 1, size, dtype=np.float32), (size, 1))


def record(pixels, seed=(0, 0, 0, 0)):
    return {"id": "a_0", "seed": seed, "sharp": None, "image": sources.png(Image.fromarray(pixels))}


def test_in_focus_at_one_nearness_the_photograph_stays():
    pixels = smooth(1, 96, 64)
    near = np.full((64, 96), 0.4, np.float32)
    light, classes, _ = refocus.photograph(refocus.linear(pixels), near, Lens(80.0, 0.4), disk)
    np.testing.assert_array_equal(synthetic.encode_srgb(light), pixels)
    mask, valid = refocus.labels(classes)
    assert mask.all()
    assert valid.all()


def test_boosted_highlights_clip_to_white_again():
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    boosted = synthetic.encode_srgb(refocus.boost_highlights(refocus.linear(pixels), 6.0))
    dark = refocus.linear(pixels) <= refocus.CLIPPED
    np.testing.assert_array_equal(boosted[dark], pixels[dark])
    assert (boosted >= pixels).all()
    color = np.float32([[[1.0, 0.5, 0.2]]])
    np.testing.assert_array_equal(refocus.boost_highlights(color, 6.0), color)


def test_focused_far_the_near_square_spills_over_the_ground():
    light, near = two_planes()
    out, classes, _ = refocus.photograph(light, near, Lens(10 / (NEAR - FAR), FAR), disk)
    row = out[60, :, 0]
    assert row[60] == pytest.approx(BRIGHT, abs=1e-3)
    assert row[[38, 81]].min() > DARK + 0.15  # a disk of 10 pixels reaches 5 beyond the edge
    np.testing.assert_allclose(row[[20, 100]], DARK, atol=1e-5)
    # The ground goes on beneath the square, so the blurred edge has no step: a disk of 10 gives at most 0.13 a pixel.
    assert np.abs(np.diff(row)).max() < 0.15 * (BRIGHT - DARK)
    mask, valid = refocus.labels(classes)
    assert not mask[45:75, 45:75].any()
    assert valid[50:70, 50:70].all()
    assert mask[:30].all()
    assert valid[:30].all()
    assert not valid[60, 40]  # half the light is the square's


def test_focused_near_the_square_is_crisp_and_stains_nothing():
    light, near = two_planes()
    out, classes, _ = refocus.photograph(light, near, Lens(14 / (NEAR - FAR), NEAR), disk)
    np.testing.assert_allclose(out[SQUARE], BRIGHT, atol=1e-5)
    ground = np.ones((SIZE, SIZE), bool)
    ground[SQUARE] = False
    np.testing.assert_allclose(out[ground], out[5, 5, 0], atol=0.01)
    mask, valid = refocus.labels(classes)
    np.testing.assert_array_equal(mask, ~ground)
    assert valid.all()


def test_soft_steps_of_nearness_stain_nothing_either():
    light, near = two_planes()
    soft = cv2.GaussianBlur(near, (0, 0), 1.5)
    out, *_ = refocus.photograph(light, soft, Lens(14 / (NEAR - FAR), float(soft.max())), disk)
    distance = cv2.distanceTransform((light[..., 0] < 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    assert out[..., 0][distance > 6].max() < DARK + 0.04
    assert out[50:70, 50:70].min() > BRIGHT - 0.01


@pytest.mark.parametrize("focus", [0.0, 0.5, 1.0])
def test_no_seams_on_a_slope(focus):
    gray = np.full((200, 200, 3), 128, np.uint8)
    light, *_ = refocus.photograph(refocus.linear(gray), ramp(), Lens(15.0, focus), disk)
    assert np.abs(synthetic.encode_srgb(light).astype(int) - 128).max() <= 2


def test_blur_grows_smoothly_on_a_slope():
    """The contrast of fine stripes falls with the disk and shows no bands."""
    light = np.zeros((200, 200, 3), np.float32)
    light[::2] = 1.0
    out, *_ = refocus.photograph(light, ramp(), Lens(3.0, 0.0), disk)
    contrast = np.abs(np.diff(out[100:102, :, 0], axis=0))[0]
    assert contrast[0] == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(contrast)).max() < 0.06


def test_what_was_not_sharp_before_never_counts_as_sharp():
    light, near = two_planes()
    sharp = np.zeros((SIZE, SIZE), bool)
    sharp[:, :60] = True
    _, classes, _ = refocus.photograph(light, near, Lens(10 / (NEAR - FAR), FAR), disk, sharp)
    mask, valid = refocus.labels(classes)
    ground = near == FAR
    ground[30:90, 30:90] = False  # where the square spills over it
    assert mask[ground & sharp].all()
    assert valid[ground & sharp].all()
    assert not mask[ground & ~sharp].any()
    assert not valid[ground & ~sharp].any()  # nor as blurred, for nothing blurred it here
    assert not mask[50:70, 50:70].any()
    assert valid[50:70, 50:70].all()  # the square is blurred, be it sharp before or not


def test_the_focus_is_on_what_was_sharp_before():
    sharp = np.zeros((100, 100), bool)
    sharp[:, 40:60] = True
    lenses = [refocus.draw_lens(np.random.default_rng(i), ramp(100), sharp) for i in range(200)]
    focused = [lens.focus for lens in lenses if lens.coc(ramp(100)).min() < 1e-6]
    assert len(focused) > 150
    assert 0.4 <= min(focused) <= max(focused) <= 0.6


def test_a_highlight_becomes_a_disk():
    light = np.full((101, 101, 3), 0.01, np.float32)
    light[50, 50] = 200.0
    near = np.full((101, 101), 0.5, np.float32)
    out, *_ = refocus.photograph(light, near, Lens(40.0, 0.0), disk)
    area = (out[..., 0] > out[..., 0].max() / 2).sum()
    assert 2 * np.sqrt(area / np.pi) == pytest.approx(40 * 0.5, rel=0.05)


def test_classes_at_their_circles_of_confusion():
    # 200 pixels: sharp up to 0.8, blurred from 1.4. The disk grows by 0.05 a column.
    lens = Lens(10.0, 0.0)
    _, classes, _ = refocus.photograph(np.full((200, 200, 3), 0.2, np.float32), ramp(), lens, disk)
    mask, valid = refocus.labels(classes)
    coc = lens.coc(ramp())
    assert mask[coc < 0.75].all()
    assert valid[coc < 0.75].all()
    assert not mask[coc > 1.5].any()
    assert valid[coc > 1.5].all()
    assert not valid[(coc > 0.9) & (coc < 1.3)].any()


def test_labels_by_hand():
    classes = np.float32([[[0.8, 0.1], [0.1, 0.8], [0.55, 0.45], [0.2, 0.1], [0.4, 0.6]]])
    mask, valid = refocus.labels(classes)
    assert mask.tolist() == [[True, False, True, True, False]]
    assert valid.tolist() == [[True, True, False, False, False]]


def test_lenses_of_all_kinds():
    near = ramp(100)
    cocs = np.stack([refocus.draw_lens(np.random.default_rng(i), near).coc(near) for i in range(600)]) / 100
    widest, least = cocs.max((1, 2)), cocs.min((1, 2))
    sharp = widest <= refocus.LOW / 2 + 1e-6
    blurred = least >= 1.3 * refocus.HIGH - 1e-6
    assert sharp.mean() == pytest.approx(refocus.ALL_SHARP, abs=0.05)
    assert blurred.mean() == pytest.approx(refocus.ALL_BLURRED, abs=0.04)
    others = ~sharp & ~blurred
    assert least[others].max() == pytest.approx(0, abs=1e-6)  # some pixel is in focus
    assert widest[others].min() >= refocus.WIDE[0] - 1e-6
    assert widest[others].max() <= refocus.WIDE[1] + 1e-6


def test_the_focus_is_not_on_the_edge_of_a_thing():
    _, near = two_planes()
    soft = cv2.GaussianBlur(near, (0, 0), 2)
    for i in range(200):
        lens = refocus.draw_lens(np.random.default_rng(i), soft)
        assert not 0.2 < lens.focus < 0.8, i


def test_guided_filter_pulls_nearness_to_the_edge():
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[:, 48:] = 200
    depth = np.zeros((24, 24), np.float16)
    depth[:, 11:] = 1  # the teacher's edge: one of its pixels, four of the photograph's, too far left
    pulled = refocus.refine(np.float16(cv2.GaussianBlur(depth.astype(np.float32), (0, 0), 1)), pixels)
    assert pulled.shape == (96, 96)
    assert np.abs(np.diff(pulled[48])).argmax() == 47
    np.testing.assert_array_equal(refocus.refine(np.full((4, 6), 0.5, np.float16), pixels).round(4), 0.5)


def test_render_is_deterministic_and_follows_its_seed():
    pixels = smooth(3, 96, 64)
    depth = np.float16(np.linspace(0, 1, 12 * 16).reshape(12, 16))
    first, again, other = (refocus.render((record(pixels, seed), depth)) for seed in ((0, 0, 1), (0, 0, 1), (0, 0, 2)))
    assert {key: first[key] for key in ("image", "mask", "valid")} == {
        key: again[key] for key in ("image", "mask", "valid")
    }
    assert first["image"] != other["image"]
    np.testing.assert_array_equal(first["depth"][..., 0], depth)
    assert decoded(first["image"]).shape == (64, 96, 3)
    assert set(np.unique(decoded(first["mask"]))) | set(np.unique(decoded(first["valid"]))) <= {0, 255}


def test_large_photographs_are_reduced():
    example = refocus.render((record(smooth(0, 1400, 700)), np.float16(np.eye(16))))
    assert decoded(example["image"]).shape == (512, 1024, 3)
    assert decoded(example["valid"]).shape == (512, 1024)
