"""Pictures of a prediction: what is in focus untouched, the rest dimmed, a legend that says which end is near."""

import numpy as np
import pytest

from jaxdbd.photographs.overlay import OUTLINE, blur_picture, depth_colors, depth_picture, outlined_levels, overlay

PHOTO = np.random.default_rng(0).integers(60, 256, (120, 200, 3), np.uint8)


def test_in_focus_is_untouched_and_the_rest_is_dark_and_gray():
    in_focus = np.zeros((120, 200), bool)
    in_focus[30:90, 50:150] = True
    picture = overlay(PHOTO, in_focus)
    np.testing.assert_array_equal(picture[40:80, 60:140], PHOTO[40:80, 60:140])
    rest = picture[:20].astype(int)
    assert rest.mean() < 0.55 * PHOTO[:20].mean()
    assert np.ptp(rest, axis=-1).mean() < 0.3 * np.ptp(PHOTO[:20].astype(int), axis=-1).mean()


def test_outline_follows_the_region_and_not_the_photographs_border():
    in_focus = np.zeros((120, 200), bool)
    in_focus[:, :100] = True
    is_line = np.abs(overlay(PHOTO // 2, in_focus).astype(int) - OUTLINE).sum(axis=-1) < 40
    assert is_line[:, 97:103].any(axis=1).all()
    is_line[:, 97:103] = False
    assert not is_line.any()


@pytest.mark.parametrize("shape", [(1, 1), (40, 3000), (7, 5)])
def test_all_none_and_odd_shapes(shape):
    photo = np.full((*shape, 3), 200, np.uint8)
    np.testing.assert_array_equal(overlay(photo, np.ones(shape, bool)), photo)
    assert (overlay(photo, np.zeros(shape, bool)) < 110).all()


def test_depth_colors_grow_brighter_towards_near():
    colors = depth_colors(np.linspace(0, 1, 64, dtype=np.float32)[None])
    assert colors.shape == (1, 64, 3)
    luminance = colors[0] @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(luminance) > 0).mean() > 0.95
    assert luminance[0] < 5
    assert luminance[-1] > 200


@pytest.mark.parametrize("shape", [(1, 1), (300, 451), (40, 3000)])
def test_depth_picture_has_the_map_on_top_and_a_legend_below(shape):
    depth = np.random.default_rng(1).random(shape, dtype=np.float32)
    picture = depth_picture(depth)
    np.testing.assert_array_equal(picture[: shape[0], : shape[1]], depth_colors(depth))
    legend = picture[shape[0] :]
    assert 24 <= len(legend) <= 96
    row = legend[len(legend) // 2]
    ends = [np.abs(row.astype(int) - depth_colors(np.full((1, 1), v, np.float32))[0, 0]).sum(axis=-1) for v in (0, 1)]
    far, near = (int(np.flatnonzero(end == 0)[0]) for end in ends)
    assert far < near


@pytest.mark.parametrize(("shape", "widest"), [((1, 1), 0.0), ((300, 451), 30.0), ((40, 3000), 2.5)])
def test_blur_picture_has_the_map_on_top_and_a_scale_in_pixels_below(shape, widest):
    blur = np.linspace(0, widest, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    picture = blur_picture(blur)
    scale = picture[shape[0] :]
    assert 48 <= len(scale) <= 192
    ramp = scale[len(scale) * 3 // 8, : picture.shape[1]]
    drawn = np.flatnonzero((ramp != 255).any(axis=-1))
    # No blur has the color of the scale's left end, and the widest that of its right.
    np.testing.assert_array_equal(picture[0, 0], ramp[drawn[0]])
    if widest > 4 * 0.004 * (shape[0] * shape[1]) ** 0.5:
        np.testing.assert_array_equal(picture[shape[0] - 1, shape[1] - 1], ramp[drawn[-1]])
    assert (scale[len(scale) // 2 :] < 128).any()  # figures


def test_the_figures_of_a_reduced_map_are_pixels_of_the_photograph():
    blur = np.linspace(0, 10, 300 * 400, dtype=np.float32).reshape(300, 400)
    one, two = blur_picture(blur), blur_picture(blur, reduction=2.0)
    np.testing.assert_array_equal(one[:300], two[:300])
    # With reduction 2 the scale reaches 20: the figure 2 stands where 1 stood.
    assert not np.array_equal(one[300:], two[300:])


def test_levels_to_lay_over_a_small_picture():
    in_focus = np.zeros((6, 7), bool)
    in_focus[:, :3] = True
    row = [0, 0, 2, 2, 1, 1, 1]  # the line is on both sides of the edge, and not along the border
    np.testing.assert_array_equal(outlined_levels(in_focus), np.tile(np.uint8(row), (6, 1)))
    assert (outlined_levels(~in_focus[:, :1]) == 1).all()
