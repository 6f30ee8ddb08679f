"""Augmentation of rows: what happens how often, and what it never depends on."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_canvas import canvas, drawn
from PIL import Image

from jaxdbd.input.augment import Augmentation, augment
from jaxdbd.input.draws import SHAPES, draw
from jaxdbd.input.views import Canvas, random_box, sharp_box

SIZE = 96  # large enough for bands
PLAIN = Augmentation(flip=False, min_area=1.0, max_aspect=1.0, jitter=0.0)
EVERYTHING = Augmentation(
    jitter=0.2,
    sharp=0.2,
    tiled=0.2,
    sky=0.5,
    blurred=0.2,
    refocused=0.3,
    pasted=0.4,
    veiled=0.4,
    shrunk=0.4,
    gray=0.3,
    noise=4.0,
    jpeg=0.5,
)


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(jnp.arange(count))


def batch(*rows: Canvas) -> Canvas:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def photographs(filling: int, count: int = 8) -> Canvas:
    """Different photographs of different sizes, of which some are in focus all over, padded with `filling`."""
    rows = []
    for i in range(count):
        rng = np.random.default_rng(i)
        height, width = 100 + 4 * i, 156 - 5 * i
        mask = np.full((height, width), 255, np.uint8)
        mask[:, : width * (i % 4) // 4] = 0
        valid = np.full((height, width), 255, np.uint8)
        valid[: 10 * (i % 3)] = 0
        depth, blur = rng.random((12, 16, 1)), rng.random((10, 10, 1)) / 20
        depth[0, i] = np.nan
        maps = {"depth": depth, "blur": blur, "features_8": rng.normal(size=(8, 8, 3))}
        rows.append(canvas(drawn(height, width, i), mask, valid, (132, 160), filling, **maps))
    return batch(*rows)


@pytest.fixture(scope="module")
def compiled():
    """Everything: at once, for accelerators, and in turn, for a CPU."""
    return [jax.jit(partial(augment, size=SIZE, settings=EVERYTHING, in_turn=in_turn)) for in_turn in (False, True)]


def assert_same(first: dict, second: dict, share: float = 0.0) -> None:
    """All but a `share` of the values are the same, and are unknown in the same places."""
    assert first.keys() == second.keys()
    for name in first:
        a, b = (np.asarray(row[name], np.float32) for row in (first, second))
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b), err_msg=name)
        assert (np.abs(a - b) > 1e-3 * np.abs(b)).mean() <= share, name


def test_rows_have_the_shapes_and_types_of_batches(compiled):
    rows = compiled[0](photographs(0), keys(8))
    assert {name: (array.shape, array.dtype.name) for name, array in rows.items()} == {
        "image": ((8, SIZE, SIZE, 3), "uint8"),
        "mask": ((8, SIZE, SIZE, 1), "uint8"),
        "valid": ((8, SIZE, SIZE, 1), "uint8"),
        "depth": ((8, SIZE, SIZE, 1), "float16"),
        "blur": ((8, SIZE, SIZE, 1), "float16"),
        "features_8": ((8, 8, 8, 3), "float16"),
    }
    assert not np.array_equal(rows["image"][0], compiled[0](photographs(0), keys(8, seed=1))["image"][0])


def test_padding_never_shows(compiled):
    for program in compiled:
        assert_same(program(photographs(0), keys(8)), program(photographs(255), keys(8)))


def test_rows_in_turn_are_those_at_once(compiled):
    # Sums in another order round a few values the other way, and JPEG a few of their blocks.
    at_once, in_turn = (program(photographs(0), keys(8)) for program in compiled)
    assert_same(at_once, in_turn, share=2e-3)


def test_a_row_depends_on_its_partner_and_on_no_other_row(compiled):
    every, numbers = photographs(0), keys(8)
    order = jnp.array([4, 5, 0, 1, 6, 7, 2, 3])
    rows = compiled[0](every, numbers)
    moved = compiled[0](jax.tree.map(lambda x: x[order], every), numbers[order])
    assert_same(jax.tree.map(lambda x: x[order], rows), moved)
    # Without its partner's photograph a row over which some of it was laid is another one.
    lonely = every._replace(image=every.image.at[1::2].set(0))
    changed = (compiled[0](lonely, numbers)["image"] != rows["image"]).any(axis=(1, 2, 3))
    assert 0 < changed[::2].sum() < 4
    assert changed[1::2].all()


def left(height: int, width: int) -> np.ndarray:
    """A mask in focus on the left half."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    return mask


def many(first: Canvas, second: Canvas, settings: Augmentation, count: int = 400) -> dict:
    """Rows of two photographs in turn."""
    pair = batch(first, second)
    canvases = jax.tree.map(lambda x: jnp.tile(x, (count // 2, *[1] * (x.ndim - 1))), pair)
    return jax.tree.map(np.asarray, jax.jit(partial(augment, size=32, settings=settings))(canvases, keys(count)))


GRAY, RED = (np.full((48, 64, 3), color, np.uint8) for color in ((100, 100, 100), (200, 0, 0)))


def test_without_augmentation_a_view_is_the_resized_photograph():
    image, mask = drawn(100, 150), left(100, 150)
    row = jax.jit(partial(augment, size=SIZE, settings=PLAIN))(
        batch(*[canvas(image, mask, shape=(128, 160))] * 2), keys(2)
    )
    for name, array, kernel in (("image", image, Image.Resampling.BICUBIC), ("mask", mask, Image.Resampling.BILINEAR)):
        expected = np.asarray(Image.fromarray(array).resize((SIZE, SIZE), kernel)).astype(int)
        np.testing.assert_allclose(np.squeeze(row[name][0]).astype(int), expected, atol=1)


def test_what_has_no_share_is_not_computed():
    def text(settings):
        return (
            jax.jit(partial(augment, size=32, settings=settings)).lower(batch(*[canvas(GRAY)] * 2), keys(2)).as_text()
        )

    assert "fft" not in text(PLAIN)
    assert "fft" in text(dataclasses.replace(PLAIN, veiled=0.1))


def test_everything_lowers_for_accelerators(compiled):
    for platform in ("cuda", "tpu"):
        text = compiled[0].trace(photographs(0), keys(8)).lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.fft" in text
        assert "f64" not in text
        assert "callback" not in text


def test_random_boxes_lie_inside_and_have_the_area_and_aspect_asked_for():
    draws = np.random.default_rng(0).random((1000, 4), np.float32)
    left, top, right, bottom = np.asarray(jax.vmap(partial(random_box, min_area=0.3, max_aspect=4 / 3))(draws)).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert max(right.max(), bottom.max()) <= 1 + 1e-6
    w, h = right - left, bottom - top
    # Where a side is cut at the photograph's, the area falls by at most the stretch.
    assert (w * h).min() >= 0.3 / np.sqrt(4 / 3) - 1e-6
    assert 3 / 4 - 1e-5 <= (w / h).min() < 0.8 < 1.25 < (w / h).max() <= 4 / 3 + 1e-5
    assert np.ptp(left + w / 2) > 0.4
    assert np.ptp(top + h / 2) > 0.4


def test_a_sharp_box_lies_in_focus_or_there_is_none():
    draws = np.random.default_rng(0).random((4, 256), np.float32)
    find = jax.jit(sharp_box)
    mask = np.zeros((200, 304), np.uint8)
    mask[40:180, 100:280] = 255
    mask[190:] = 255  # padding
    box, found = find(draws, mask, jnp.array([190, 300]), 64)
    assert found
    rows, columns = (slice(round(float(box[i]) * n), round(float(box[i + 2]) * n)) for i, n in ((1, 190), (0, 300)))
    assert mask[rows, columns].min() == 255
    assert mask[rows, columns].shape[0] >= 64
    assert mask[rows, columns].size > 0.4 * 140 * 180
    assert not find(draws, np.zeros((200, 304), np.uint8), jnp.array([190, 300]), 64)[1]
    assert not find(draws, np.full((200, 304), 255, np.uint8), jnp.array([60, 300]), 64)[1]


def test_shares_of_blur():
    rows = many(canvas(GRAY), canvas(GRAY), Augmentation(sharp=0.1, blurred=0.2, refocused=0.3))
    low, high = rows["mask"].min(axis=(1, 2, 3)), rows["mask"].max(axis=(1, 2, 3))
    assert (high == 0).mean() == pytest.approx(0.2, abs=0.06)
    assert ((low == 0) & (high == 255)).mean() == pytest.approx(0.3, abs=0.06)
    assert (low == 255).mean() == pytest.approx(0.5, abs=0.06)


def test_shares_of_what_is_laid_over():
    below, above = canvas(GRAY), canvas(RED, left(48, 64))
    rows = many(below, above, dataclasses.replace(PLAIN, flip=True, pasted=0.3, veiled=0.2))
    image, mask = rows["image"][::2], rows["mask"][::2, ..., 0]
    red = (image[:, 16, :, 0] > 150) & (image[:, 16, :, 1] < 60)
    pasted, veiled = red.any(axis=1) & (mask == 255).all(axis=(1, 2)), (mask == 0).any(axis=(1, 2))
    assert pasted.mean() == pytest.approx(0.3, abs=0.08)
    assert veiled.mean() == pytest.approx(0.2, abs=0.08)
    assert red[pasted, 0].mean() == pytest.approx(0.5, abs=0.2)  # mirrored by itself
    # What is in focus all over would hide all of the photograph below.
    np.testing.assert_array_equal(rows["image"][1::2], np.broadcast_to(RED[0, 0], (200, 32, 32, 3)))


def test_patterns_and_parts_are_in_focus_all_over():
    halves = canvas(drawn(120, 160), left(120, 160)), canvas(drawn(120, 160), np.zeros((120, 160), np.uint8))
    tiled = many(*halves, dataclasses.replace(PLAIN, tiled=1.0))["mask"]
    # Without anything in focus, half: the whole photograph, made small.
    assert tiled[::2].min() == 255
    assert (tiled[1::2].min(axis=(1, 2, 3)) == 255).mean() == pytest.approx(0.5, abs=0.1)
    sharp = many(*halves, dataclasses.replace(PLAIN, sharp=0.4))["mask"]
    assert (sharp[::2].mean(axis=(1, 2, 3)) > 250).mean() == pytest.approx(0.4, abs=0.1)
    assert sharp[1::2].max() == 0


def test_skies_are_laid_over_what_is_in_focus_all_over():
    depth = np.ones((6, 8, 1))
    rows = many(canvas(GRAY, depth=depth), canvas(GRAY, left(48, 64), depth=depth), dataclasses.replace(PLAIN, sky=0.5))
    far = (rows["depth"] == 0).any(axis=(1, 2, 3))
    assert far[::2].mean() == pytest.approx(0.5, abs=0.1)
    assert not far[1::2].any()
    assert rows["mask"][::2].min() == 255


def test_shares_of_what_a_camera_does():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    photo = canvas(image)

    def happened(**share):
        seen = many(photo, photo, dataclasses.replace(PLAIN, **share))["image"].astype(int)
        return seen, (seen != image).any(axis=(1, 2, 3)).mean()

    seen, changed = happened(shrunk=0.3)
    assert changed == pytest.approx(0.3, abs=0.07)
    spreads = seen.std(axis=(1, 2, 3)) / image.std()
    assert 0.2 < spreads.min() < 0.4
    seen, changed = happened(gray=0.2)
    assert changed == pytest.approx(0.2, abs=0.06)
    assert (np.ptp(seen, axis=-1).max(axis=(1, 2)) == 0).mean() == changed
    seen, changed = happened(jpeg=0.4)
    assert changed == pytest.approx(0.4, abs=0.07)
    seen, changed = happened(noise=4.0)
    assert changed > 0.9
    inside = (image > 20) & (image < 235)
    sigma = np.array([(row - image)[inside].std() for row in seen])
    assert sigma.max() < 4.3
    assert sigma.mean() == pytest.approx(2, abs=0.25)
    seen, changed = happened(jitter=0.2)
    assert changed == 1
    ratios = seen.mean(axis=(1, 2, 3)) / image.mean()
    assert 0.75 < ratios.min() < 0.85
    assert 1.1 < ratios.max() < 1.25


def test_draws_are_evenly_spread_and_independent():
    numbers = jax.vmap(draw)(keys(500))
    assert {name: values.shape[1:] for name, values in numbers.items()} == SHAPES
    columns = np.concatenate([np.asarray(values).reshape(500, -1)[:, :4] for values in numbers.values()], axis=1)
    assert columns.min() >= 0
    assert columns.max() < 1
    np.testing.assert_allclose(columns.mean(axis=0), 0.5, atol=0.06)
    apart = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(apart).max() < 0.22
