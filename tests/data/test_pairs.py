"""Masks that come of comparing photographs of one scene, on scenes where the mask is known."""

import cv2
import numpy as np
import pytest
from fake_benchmark import decoded
from PIL import Image

from data import alignment, finding, pairs, sources
from data.alignment import Misaligned, align
from data.guided import guided_filter
from data.synthetic import blur_kernel as disk
from jaxdbd.errors import UserError

HEIGHT, WIDTH = 160, 240


def textured(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Luminance with something to see at every scale from a pixel to the whole, [0, 1]."""
    rng = np.random.default_rng(seed)
    sizes = [(height // n + 1, width // n + 1) for n in (1, 2, 4, 8, 16, 40)]
    layers = [
        cv2.resize(rng.random(size, np.float32), (width, height), interpolation=cv2.INTER_CUBIC) for size in sizes
    ]
    return np.clip(0.5 + 0.5 * np.sum([layer - 0.5 for layer in layers], axis=0), 0, 1).astype(np.float32)


def columns(first: float, last: float) -> np.ndarray:
    """True in the columns between two shares of the width."""
    x = (np.arange(WIDTH) + 0.5) / WIDTH
    return np.broadcast_to((x > first) & (x < last), (HEIGHT, WIDTH))


def focused_on(region: np.ndarray, sharp: np.ndarray, diameter: float = 7.0) -> np.ndarray:
    """The photograph in focus in a region alone."""
    return np.where(region, sharp, cv2.filter2D(sharp, -1, disk(diameter))).astype(np.float32)


def near_and_far(seed: int = 0) -> list[np.ndarray]:
    """Two photographs, in focus on the left half and on the right half."""
    return [focused_on(columns(0, 0.5), textured(seed)), focused_on(columns(0.5, 1), textured(seed))]


def as_picture(luminance: np.ndarray) -> Image.Image:
    gray = np.rint(np.clip(luminance, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(np.repeat(gray[..., None], 3, -1))


def scene(folder, photographs, name="scene") -> list[sources.Pair]:
    """Writes photographs as NAME_1.png, NAME_2.png, ..."""
    paths = [folder / f"{name}_{number}.png" for number in range(1, len(photographs) + 1)]
    for path, photograph in zip(paths, photographs, strict=True):
        as_picture(photograph).save(path)
    return [sources.Pair(path.stem, path, None, "focus") for path in paths]


def compared(photographs) -> list[pairs.Compared]:
    """What comparing them gives, which must be masks."""
    found = pairs.compare_scene(photographs)
    assert not isinstance(found, str), found
    return found


def masks_of(found) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(decoded(one.mask) > 127, decoded(one.valid) > 127) for one in found]


def similarity(scale: float, shift: tuple[float, float], degrees: float = 0.0) -> np.ndarray:
    turned = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), degrees, scale)
    turned[:, 2] += shift
    return turned


def seen_from(to: np.ndarray, photograph: np.ndarray) -> np.ndarray:
    """The photograph with what was at (x, y) now at the place that `to` takes (x, y) to."""
    return cv2.warpAffine(photograph, to, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def test_each_half_is_in_focus_where_it_is_sharp(tmp_path):
    first, second = compared(scene(tmp_path, near_and_far()))
    for one, known in ((first, columns(0, 0.5)), (second, columns(0.5, 1))):
        mask, valid = decoded(one.mask) > 127, decoded(one.valid) > 127
        assert valid.mean() > 0.9
        assert (mask == known)[valid].mean() > 0.99
        away = ~columns(0.45, 0.55)
        assert (mask == known)[valid & away].all()
    assert (first.id, second.id) == ("scene_1", "scene_2")


@pytest.mark.parametrize(
    ("scale", "shift", "degrees"),
    [(1.0, (0, 0), 0), (1.0, (3.4, -1.8), 0), (1.03, (-1.5, 2.0), 0), (0.98, (1, 1), 0.4)],
)
def test_shift_scale_and_turn_are_found(scale, shift, degrees):
    first, second = near_and_far(1)
    known = similarity(scale, shift, degrees)
    corners = np.array([[x, y, 1] for x in (0, WIDTH) for y in (0, HEIGHT)])
    found = align(first, seen_from(known, second))
    np.testing.assert_allclose(corners @ found.T, corners @ known.T, atol=0.5)
    # Without shear: a turn times one scale.
    np.testing.assert_allclose(found[0, 0], found[1, 1], atol=1e-9)
    np.testing.assert_allclose(found[0, 1], -found[1, 0], atol=1e-9)


def test_photographs_larger_than_what_is_compared_are_aligned_too(monkeypatch):
    first, second = near_and_far(2)
    known = similarity(1.02, (3.0, -2.0))
    monkeypatch.setattr(alignment, "SIDE", WIDTH // 2)
    np.testing.assert_allclose(align(first, seen_from(known, second)), known, atol=0.7)


def test_masks_lie_in_the_place_of_each_photograph(tmp_path):
    first, second = near_and_far()
    to = similarity(1.03, (1.0, 1.0))
    found = masks_of(compared(scene(tmp_path, [first, seen_from(to, second)])))
    right = seen_from(to, columns(0.5, 1).astype(np.float32)) > 0.5
    for (mask, valid), known in zip(found, (columns(0, 0.5), right), strict=True):
        assert valid.mean() > 0.8
        assert (mask == known)[valid].mean() > 0.985
    # The second one shows a smaller part of the scene; of the first one a strip at the rim was never compared.
    assert not found[0][1][:, [0, -1]].any()
    assert found[1][1][HEIGHT // 2, [0, -1]].all()


def test_a_larger_shift_and_another_scene_are_refused(tmp_path):
    first, second = near_and_far()
    with pytest.raises(Misaligned, match="% of the longer side apart, and at most 5% are undone"):
        align(first, seen_from(similarity(1.0, (20.0, 0.0)), second))
    with pytest.raises(Misaligned):
        align(first, textured(9))
    with pytest.raises(Misaligned):
        align(first, np.full_like(first, 0.5))
    why = pairs.compare_scene(scene(tmp_path, [first, textured(9)]))
    assert isinstance(why, str)


def test_a_stack_of_three(tmp_path):
    thirds = [columns(0, 1 / 3), columns(1 / 3, 2 / 3), columns(2 / 3, 1)]
    found = compared(scene(tmp_path, [focused_on(third, textured(3)) for third in thirds]))
    assert [one.id for one in found] == ["scene_1", "scene_2", "scene_3"]
    for (mask, valid), known in zip(masks_of(found), thirds, strict=True):
        assert valid.mean() > 0.85
        assert (mask == known)[valid].mean() > 0.985


def test_a_longer_exposure_is_not_sharper(tmp_path):
    first, second = near_and_far(4)
    (tmp_path / "alike").mkdir()
    alike = masks_of(compared(scene(tmp_path / "alike", [0.5 * first, 0.5 * second])))
    brighter = masks_of(compared(scene(tmp_path, [0.5 * first, 0.9 * second])))
    for (mask, valid), (mask_too, valid_too) in zip(alike, brighter, strict=True):
        assert (valid == valid_too).mean() > 0.97
        assert (mask == mask_too)[valid & valid_too].all()


def test_what_has_no_texture_is_left_out_of_the_loss(tmp_path):
    sharp = textured(5)
    sharp[: HEIGHT // 2] = 0.5
    found = masks_of(compared(scene(tmp_path, [focused_on(columns(*at), sharp) for at in ((0, 0.5), (0.5, 1))])))
    for _, valid in found:
        assert not valid[: HEIGHT // 2 - 32].any()
        assert valid[HEIGHT // 2 + 8 :].mean() > 0.9


def test_the_less_blurred_of_two_blurred_grounds_is_not_in_focus(tmp_path):
    sharp, near, middle = textured(6), columns(0, 1 / 3), columns(1 / 3, 2 / 3)
    blurred = {diameter: cv2.filter2D(sharp, -1, disk(diameter)) for diameter in (6.0, 10.0)}
    first = np.where(near, sharp, np.where(middle, blurred[6.0], blurred[10.0]))
    second = np.where(near | middle, blurred[10.0], sharp)
    found = masks_of(compared(scene(tmp_path, [first, second])))
    inside = columns(0.42, 0.58)
    assert found[0][1][inside].mean() < 0.01
    mask, valid = found[1]  # in the other one it is blurred all the same
    assert valid[inside].mean() > 0.9
    assert not mask[valid & inside].any()


def test_what_counts_by_hand():
    ratio = np.float32([[2.0, 2.0, 2.0, -2.0, -2.0, 0.5]])
    texture = np.float32([[0.02, 0.007, 0.02, 0.007, 0.003, 0.02]]) ** 2
    fine = np.float32([[-1.0, -1.0, -1.5, -1.5, -1.0, -1.0]])
    mask, valid = pairs.labels(ratio, texture, fine)
    assert mask.tolist() == [[True, True, True, False, False, True]]
    assert valid.tolist() == [[True, False, False, True, False, False]]


def test_fineness_is_the_logarithm_of_the_ratio_of_the_energies():
    energy = np.float32([0.02, 0.08]) * np.ones((20, 30, 1), np.float32)
    np.testing.assert_allclose(pairs.fineness(energy), -np.log(4), atol=1e-3)


def test_the_ratio_of_energies_by_hand():
    energy = np.full((20, 30, 2), 0.04, np.float32)
    guide = textured(0, 20, 30)
    ratio, texture = pairs.compare(energy, energy / 4, guide)
    np.testing.assert_allclose(ratio, np.log(4), atol=1e-3)
    np.testing.assert_allclose(texture, 0.08, rtol=1e-5)
    ratio, _ = pairs.compare(energy / 4, energy, guide)
    np.testing.assert_allclose(ratio, -np.log(4), atol=1e-3)
    # One scale says 4 and weighs 1, the other says 1 and weighs a quarter: four fifths of log 4.
    own, rival = energy * np.float32([1, 0.25]), energy * np.float32([0.25, 0.25])
    np.testing.assert_allclose(pairs.compare(own, rival, guide)[0], 0.8 * np.log(4), atol=1e-3)


def test_energy_is_of_the_laplacian_at_two_scales():
    # Of a wave the Laplacian of Gaussian leaves s^2 w^2 exp(-s^2 w^2 / 2); the mean of a wave's square is a half.
    w = 2 * np.pi / 16
    wave = np.tile(0.5 + 0.2 * np.cos(w * np.arange(256, dtype=np.float32)), (256, 1))
    found = pairs.energies(wave)[64:-64, 64:-64].mean((0, 1))
    expected = [0.5 * (0.2 * (s * w) ** 2 * np.exp(-((s * w) ** 2) / 2)) ** 2 for s in pairs.SCALES]
    np.testing.assert_allclose(found, expected, rtol=0.05)  # the Laplacian is that of a grid


def test_the_guided_filter_is_a_mean_without_edges_and_keeps_an_edge_of_the_guide():
    values = np.zeros((21, 21), np.float32)
    values[10, 10] = 1
    flat = guided_filter(values, np.full_like(values, 0.5), radius=1, epsilon=1e-3)
    expected = cv2.boxFilter(cv2.boxFilter(values, -1, (3, 3)), -1, (3, 3))  # of means over lines that are means
    np.testing.assert_allclose(flat, expected, atol=1e-6)
    step = np.float32(np.arange(21) > 10) * np.ones((21, 1), np.float32)
    np.testing.assert_allclose(guided_filter(step, step, radius=3, epsilon=1e-4), step, atol=1e-3)


@pytest.mark.parametrize(
    ("photographs", "why"),
    [
        (lambda: [near_and_far()[0]] * 2, "only 0% of the pixels"),
        (lambda: [textured(0), focused_on(columns(0, 0), textured(0))], "one photograph is the sharpest everywhere"),
        (lambda: [near_and_far()[0], near_and_far()[1][:, :-1]], "differ in size: 239x160, 240x160"),
        (lambda: near_and_far()[:1], "its other photographs were left out"),
    ],
)
def test_scenes_without_clean_masks_say_why(photographs, why, tmp_path):
    found = pairs.compare_scene(scene(tmp_path, photographs()))
    assert isinstance(found, str)
    assert why in found


def test_scenes_left_out_are_told_and_none_left_is_an_error(tmp_path, capsys):
    good, bad = scene(tmp_path, near_and_far(), "good"), scene(tmp_path, [textured(0)] * 2, "bad")
    found = pairs.compared({"train": [*bad, *good], "test": bad})
    assert [one.id for one in found["train"]] == ["good_1", "good_2"]
    assert found.keys() == {"train"}
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["left out", "bad"]] * 2
    with pytest.raises(UserError, match="no scene gives masks"):
        pairs.compared({"train": bad})


def test_scenes_are_found_by_name_and_number(tmp_path):
    for name in ("a_1.jpg", "a_2.png", "A_10.jpg", "b_c_01.jpg", "B_C_2.JPG", "d_1.jpg", "d_2.jpg"):
        as_picture(textured(0, 8, 8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    splits, problems = finding.find_scenes(tmp_path)
    assert problems == []
    ids = ["a_1", "a_2", "A_10", "b_c_01", "B_C_2", "d_1", "d_2"]
    assert [photograph.id for photograph in splits["train"]] == ids
    assert [pairs.scene_of(photograph) for photograph in splits["train"]] == ["a"] * 3 + ["b_c"] * 2 + ["d"] * 2
    (tmp_path / "test.txt").write_text("B_c\n")
    (tmp_path / "train.txt").write_text("a\nnobody\n")
    splits, problems = finding.find_scenes(tmp_path, tmp_path / "test.txt", tmp_path / "train.txt")
    assert [photograph.id for photograph in splits["test"]] == ["b_c_01", "B_C_2"]
    assert [photograph.id for photograph in splits["train"]] == ["a_1", "a_2", "A_10"]
    assert len(problems) == 1
    assert problems[0].startswith("nobody: in the train list")


def test_names_that_are_no_scene_are_problems(tmp_path):
    for name in ("a_1.jpg", "a_01.jpg", "a_2.jpg", "b_1.jpg", "c.jpg", "_1.jpg"):
        as_picture(textured(0, 8, 8)).save(tmp_path / name)
    _, problems = finding.find_scenes(tmp_path)
    told = {line.split(": ")[0].rpartition("/")[2]: line.split(": ")[1] for line in problems}
    assert told["a_1.jpg"].startswith("same number as a_01.jpg")
    assert told["b_1.jpg"].startswith("the only photograph of its scene")
    assert told["c.jpg"].startswith("its name has no number")
    assert told["_1.jpg"].startswith("its name has no number")


@pytest.mark.slow
def test_the_pairs_of_the_lists_give_masks_that_complement_each_other(shared):
    lists = [finding.Path(finding.__file__).with_name(f"pairs_{which}.txt") for which in ("test", "train")]
    splits, problems = finding.find_scenes(shared / "data" / "pairs", *lists)
    assert problems == []
    assert {split: len(photographs) for split, photographs in splits.items()} == {"train": 64, "test": 32}
    found = pairs.compared(splits)
    assert {split: len(photographs) for split, photographs in found.items()} == {"train": 64, "test": 32}
    for one, other in zip(found["test"][::2], found["test"][1::2], strict=True):
        (mask, valid), (mask_too, valid_too) = masks_of([one, other])
        both = valid & valid_too
        assert (mask ^ mask_too)[both].mean() > 0.95
