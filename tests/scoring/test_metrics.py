"""The four protocols against pixel-by-pixel definitions, pysodmetrics, and values worked out by hand."""

import json
import math

import numpy as np
import pytest
from PIL import Image
from py_sod_metrics import MAE, Emeasure, Fmeasure, Smeasure, WeightedFmeasure

from jaxdbd.scoring import metrics, structure


def blobs(seed: int, shape=(90, 130)) -> tuple[np.ndarray, np.ndarray]:
    """A smooth map that spans 0..255 and a mask that it is related to."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    truth = np.sin(7 * x + seed) + np.cos(5 * y - seed)
    guess = truth + 0.6 * np.sin(9 * y + 4 * x) + 0.3 * rng.standard_normal(shape)
    guess = (guess - guess.min()) / (guess.max() - guess.min())
    return np.rint(guess * 255).astype(np.uint8), np.where(truth > 0.3, 255, 0).astype(np.uint8)


PAIRS = [blobs(seed, shape) for seed, shape in enumerate([(90, 130), (64, 64), (131, 77), (320, 320), (50, 200)])]


def f_of(called: np.ndarray, true: np.ndarray) -> float:
    """F from precision and recall, as the papers write it."""
    hits = (called & true).sum()
    if hits == 0:
        return 0.0
    p, r = hits / called.sum(), hits / true.sum()
    return 1.3 * p * r / (0.3 * p + r)


def score(pairs) -> dict:
    return metrics.summarize([structure.score_image(str(i), *pair) for i, pair in enumerate(pairs)])


@pytest.fixture(scope="module")
def results() -> dict:
    return score(PAIRS)


def test_mae_is_soft_and_the_same_under_every_protocol(results):
    expected = np.mean([np.abs(m / 255 - t / 255).mean() for m, t in PAIRS])
    for protocol in metrics.PROTOCOLS:
        assert results[protocol]["mae"] == pytest.approx(expected, abs=1e-12)


def test_ddff_is_blur_at_one_half_with_f_per_image_and_iou_pooled(results):
    blur = [(m / 255 < 0.5, t / 255 < 0.5) for m, t in PAIRS]
    assert results["ddff"]["f"] == pytest.approx(np.mean([f_of(*pair) for pair in blur]), abs=1e-12)
    both, either = sum((a & b).sum() for a, b in blur), sum((a | b).sum() for a, b in blur)
    assert results["ddff"]["iou"] == pytest.approx(both / either, abs=1e-12)


def test_dd_pools_pixels_under_its_own_threshold_of_map_and_mask(results):
    def cut(x):
        return x > min(1.5 * np.mean(x), 255)

    called = np.concatenate([cut(m).ravel() for m, _ in PAIRS])
    true = np.concatenate([cut(t).ravel() for _, t in PAIRS])
    assert results["dd"]["f"] == pytest.approx(f_of(called, true), abs=1e-12)


def test_adaptive_is_at_320_with_greater_or_equal():
    focus, mask = blobs(3, (320, 320))
    p = focus / 255
    expected = f_of(p >= min(1.5 * p.mean(), 1), mask / 255 > 0.1)
    assert score([(focus, mask)])["adaptive"]["f"] == pytest.approx(expected, abs=1e-12)


def test_adaptive_resizes_map_bilinearly_and_mask_to_the_nearest_before_the_threshold():
    focus, mask = blobs(5, (427, 640))
    p = np.asarray(Image.fromarray(focus).resize((320, 320), Image.Resampling.BILINEAR)) / 255
    true = np.asarray(Image.fromarray(mask).resize((320, 320), Image.Resampling.NEAREST)) > 0
    expected = f_of(p >= min(1.5 * p.mean(), 1), true)
    assert score([(focus, mask)])["adaptive"]["f"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("largest", [255, 200, 7])
def test_max_is_the_best_of_255_thresholds_on_the_map_over_its_maximum(largest):
    focus, mask = blobs(1)
    focus = (focus.astype(int) * largest // 255).astype(np.uint8)
    stretched = focus / focus.max()
    expected = max(f_of(stretched >= i / 255, mask / 255 >= 0.1) for i in range(1, 256))
    assert score([(focus, mask)])["max"]["f"] == pytest.approx(expected, abs=1e-12)


def test_gray_mask_is_cut_by_each_protocol_in_its_way():
    focus = np.array([[255, 255, 0, 0]], np.uint8)
    mask = np.array([[255, 60, 60, 0]], np.uint8)
    image = metrics.score_counts("a", focus, mask)
    assert image.ddff == metrics.Confusion(tp=2, fp=0, fn=1)
    assert image.dd == metrics.Confusion(tp=1, fp=1, fn=0)  # 1.5 * mean = 140.6
    assert image.max_f == pytest.approx(f_of(focus > 0, mask >= 25.5))  # two of three found
    assert metrics.mean_absolute_error(image.levels) == 0.25


def test_equals_pysodmetrics(results):
    theirs = {"mae": MAE(), "f": Fmeasure(), "e": Emeasure(), "s": Smeasure(), "w": WeightedFmeasure()}
    for focus, mask in PAIRS:
        for measure in theirs.values():
            measure.step(focus, mask)
    f = theirs["f"].get_results()
    e = theirs["e"].get_results()["em"]["curve"]
    ours = results["threshold_free"]
    assert results["ddff"]["mae"] == pytest.approx(theirs["mae"].get_results()["mae"], abs=1e-9)
    assert ours["max_f"] == pytest.approx(f["fm"]["curve"].max(), abs=1e-9)
    assert ours["e_max"] == pytest.approx(e.max(), abs=1e-9)
    assert ours["e_mean"] == pytest.approx(e.mean(), abs=1e-9)
    assert ours["s"] == pytest.approx(theirs["s"].get_results()["sm"], abs=1e-9)
    assert ours["weighted_f"] == pytest.approx(theirs["w"].get_results()["wfm"], abs=1e-9)
    np.testing.assert_allclose(results["pr_curve"]["precision"], f["pr"]["p"][::-1], atol=1e-12)
    np.testing.assert_allclose(results["pr_curve"]["recall"], f["pr"]["r"][::-1], atol=1e-12)


def test_auc_counts_ordered_pairs_of_pixels():
    rng = np.random.default_rng(0)
    focus = rng.integers(0, 12, (9, 11)).astype(np.uint8)
    mask = np.where(rng.random((9, 11)) < 0.4, 255, 0).astype(np.uint8)
    inside, outside = focus[mask > 0].astype(int), focus[mask == 0].astype(int)
    order = np.sign(inside[:, None] - outside[None])
    levels = metrics.count_levels(focus, mask > 0)
    assert metrics.area_under_roc(levels) == pytest.approx((order.mean() + 1) / 2, abs=1e-12)


def test_calibration_error_by_hand():
    # p = 1 on four pixels, of which three are in focus; p = 0 on four, of which none is: |3/4 - 1| * 4/8.
    focus = np.array([[255] * 4, [0] * 4], np.uint8)
    mask = np.array([[255, 255, 255, 0], [0] * 4], np.uint8)
    assert metrics.calibration_error(metrics.count_levels(focus, mask > 0)) == pytest.approx(0.125)


def test_boundary_iou_by_hand():
    # 100 x 100: the band is round(0.02 * 141.4) = 3 pixels wide. A 40-pixel square has 40^2 - 34^2 band pixels.
    truth, shifted = np.zeros((2, 100, 100), bool)
    truth[30:70, 30:70] = True
    shifted[30:70, 40:80] = True
    assert structure.boundary(truth).sum() == 40**2 - 34**2
    assert structure.boundary_iou(truth, truth) == 1.0
    # Shifted by 10: the bands share two 3 x 30 strips above and below, less nothing, and cross no other band.
    shared = 2 * 3 * 30
    assert structure.boundary_iou(truth, shifted) == pytest.approx(shared / (2 * (40**2 - 34**2) - shared))
    assert structure.boundary(np.ones((100, 100), bool)).sum() == 100**2 - 94**2  # the frame is an edge


def test_merging_does_not_depend_on_order_or_on_the_split():
    images = [structure.score_image(str(i), *pair) for i, pair in enumerate(PAIRS)]
    forward, backward = metrics.summarize(images), metrics.summarize(images[3:] + images[:3][::-1])
    for summary in (forward, backward):
        summary.pop("pr_curve")
    e, other = forward["threshold_free"].pop("e_max"), backward["threshold_free"].pop("e_max")
    f, other_f = forward["threshold_free"].pop("max_f"), backward["threshold_free"].pop("max_f")
    assert forward == backward
    assert (e, f) == pytest.approx((other, other_f), abs=1e-14)


SHAPE = (320, 320)  # so that `adaptive` does not resize
SHARP, BLURRED = np.full(SHAPE, 255, np.uint8), np.zeros(SHAPE, np.uint8)
HALF = np.concatenate([SHARP[:160], BLURRED[160:]])
CORNER = BLURRED.copy()
CORNER[-1, -1] = 255


@pytest.mark.parametrize("mask", [SHARP, BLURRED, HALF, CORNER], ids=["sharp", "blurred", "half", "corner"])
@pytest.mark.parametrize("level", [0, 1, 100, 127, 128, 254, 255])
@pytest.mark.filterwarnings("error")
def test_constant_maps_give_no_nan(mask, level):
    results = score([(np.full(SHAPE, level, np.uint8), mask)])
    json.dumps(results, allow_nan=False)
    for protocol in metrics.PROTOCOLS:
        assert all(0 <= v <= 1 for v in results[protocol].values())


@pytest.mark.parametrize(
    ("focus", "mask", "ddff_f", "ddff_iou", "dd", "adaptive", "best"),
    [
        (SHARP, SHARP, 0.0, 1.0, 0.0, 1.0, 1.0),  # nothing blurred to find; dd empties the mask
        (BLURRED, SHARP, 0.0, 0.0, 0.0, 1.0, 0.0),  # adaptive calls all of an all-zero map in focus
        (BLURRED, BLURRED, 1.0, 1.0, 0.0, 0.0, 0.0),  # nothing in focus to find
        (SHARP, BLURRED, 0.0, 0.0, 0.0, 0.0, 0.0),
        (HALF, HALF, 1.0, 1.0, 1.0, 1.0, 1.0),
        (HALF, SHARP, 0.0, 0.0, 0.0, 0.65 / 0.8, 0.65 / 0.8),  # precision 1, recall 1/2
        (np.full(SHAPE, 100, np.uint8), HALF, 0.65 / (0.15 + 1), 0.5, 0.0, 0.0, 0.65 / (0.15 + 1)),
        (np.full(SHAPE, 200, np.uint8), HALF, 0.0, 0.0, 0.0, 0.0, 0.65 / (0.15 + 1)),
    ],
)
def test_degenerate_values_are_as_the_docstring_says(focus, mask, ddff_f, ddff_iou, dd, adaptive, best):
    results = score([(focus, mask)])
    got = [results["ddff"]["f"], results["ddff"]["iou"], *(results[p]["f"] for p in ("dd", "adaptive", "max"))]
    assert got == pytest.approx([ddff_f, ddff_iou, dd, adaptive, best], abs=1e-9)


def test_undefined_auc_is_left_out():
    assert score([(SHARP, SHARP)])["threshold_free"]["auc"] is None
    assert score([(SHARP, SHARP), (HALF, HALF)])["threshold_free"]["auc"] == 1.0
    assert math.isclose(score([(SHARP, HALF)])["threshold_free"]["auc"], 0.5)


def test_best_threshold_calls_most_pixels_right():
    # Blurred pixels at level 40, focused ones at 200: everything above 40, up to 200, separates them.
    levels = np.zeros((2, 256), np.int64)
    levels[0, 40], levels[1, 200] = 10, 10
    threshold = metrics.best_threshold([levels])
    assert 40 / 255 < threshold < 200 / 255
    # Of nine pixels at level 100, five are in focus: calling them so is right more often, while F is .83 with them and
    # .90 without.
    levels[0, 100], levels[1, 100] = 4, 5
    f = metrics.precision_recall(levels)[2]
    assert f[90] < f[150]
    assert 40 / 255 < metrics.best_threshold([levels]) < 100 / 255
    # Each photograph counts as much as another, whatever its size.
    small = np.zeros((2, 256), np.int64)
    small[0, 100], small[1, 200] = 1, 1
    assert 100 / 255 < metrics.best_threshold([levels, small]) < 200 / 255
