import hashlib
import io
import json
import pickle
from functools import partial

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_benchmark import photograph as smooth
from PIL import Image

from data import build, refocus, sources, synthetic, teachers
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


def decoded(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)))


def test_in_focus_at_one_nearness_the_photograph_stays():
    pixels = smooth(1, 96, 64)
    near = np.full((64, 96), 0.4, np.float32)
    light, classes = refocus.photograph(refocus.linear(pixels), near, Lens(80.0, 0.4), disk)
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
    out, classes = refocus.photograph(light, near, Lens(10 / (NEAR - FAR), FAR), disk)
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
    out, classes = refocus.photograph(light, near, Lens(14 / (NEAR - FAR), NEAR), disk)
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
    out, _ = refocus.photograph(light, soft, Lens(14 / (NEAR - FAR), float(soft.max())), disk)
    distance = cv2.distanceTransform((light[..., 0] < 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    assert out[..., 0][distance > 6].max() < DARK + 0.04
    assert out[50:70, 50:70].min() > BRIGHT - 0.01


@pytest.mark.parametrize("focus", [0.0, 0.5, 1.0])
def test_no_seams_on_a_slope(focus):
    gray = np.full((200, 200, 3), 128, np.uint8)
    light, _ = refocus.photograph(refocus.linear(gray), ramp(), Lens(15.0, focus), disk)
    assert np.abs(synthetic.encode_srgb(light).astype(int) - 128).max() <= 2


def test_blur_grows_smoothly_on_a_slope():
    """The contrast of fine stripes falls with the disk and shows no bands."""
    light = np.zeros((200, 200, 3), np.float32)
    light[::2] = 1.0
    out, _ = refocus.photograph(light, ramp(), Lens(3.0, 0.0), disk)
    contrast = np.abs(np.diff(out[100:102, :, 0], axis=0))[0]
    assert contrast[0] == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(contrast)).max() < 0.06


def test_what_was_not_sharp_before_never_counts_as_sharp():
    light, near = two_planes()
    sharp = np.zeros((SIZE, SIZE), bool)
    sharp[:, :60] = True
    _, classes = refocus.photograph(light, near, Lens(10 / (NEAR - FAR), FAR), disk, sharp)
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
    out, _ = refocus.photograph(light, near, Lens(40.0, 0.0), disk)
    area = (out[..., 0] > out[..., 0].max() / 2).sum()
    assert 2 * np.sqrt(area / np.pi) == pytest.approx(40 * 0.5, rel=0.05)


def test_classes_at_their_circles_of_confusion():
    # 200 pixels: sharp up to 0.8, blurred from 1.4. The disk grows by 0.05 a column.
    lens = Lens(10.0, 0.0)
    _, classes = refocus.photograph(np.full((200, 200, 3), 0.2, np.float32), ramp(), lens, disk)
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


# ---- building ----


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Four photographs, one of them for testing, with depth maps."""
    folder = tmp_path_factory.mktemp("sharp")
    (folder / "depth").mkdir()
    for i, name in enumerate(["a.jpg", "b.png", "c.JPEG", "d.bmp"]):
        Image.fromarray(smooth(i, 96, 64)).save(folder / name)
        np.save(folder / "depth" / f"{name[0]}.npy", np.linspace(0, 1, 20 * 30).reshape(20, 30) ** (i + 1))
    (folder / "test.txt").write_text("d.bmp\n")
    return folder


def command(raw, data_dir, *more):
    where = [f"--manual_dir={raw}", f"--data_dir={data_dir}", f"--test_list={raw / 'test.txt'}"]
    return ["--dataset=refocused", *where, f"--teacher=dir:{raw / 'depth'}", "--teacher_polarity=near", *more]


def folder_of(data_dir):
    return data_dir / "dbd" / "refocused" / "1.0.0"


def hashes(data_dir):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder_of(data_dir).iterdir())}


@pytest.fixture(scope="module")
def built(raw, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("built")
    assert build.main(command(raw, data_dir)) == 0
    return data_dir


def test_build_is_read_back(raw, built):
    builder = tfds.builder_from_directory(folder_of(built))
    records = {r["id"]: r for split in ("train", "test") for r in builder.as_data_source(split)}
    names = {key.decode() if isinstance(key, bytes) else key for key in records}
    assert names == {f"{stem}_{k}" for stem in "abcd" for k in range(2)}
    assert len(builder.as_data_source("test")) == 2
    for name, r in records.items():
        assert r["image"].shape == (64, 96, 3)
        assert r["mask"].shape == r["valid"].shape == (64, 96, 1)
        assert set(np.unique(r["mask"])) | set(np.unique(r["valid"])) <= {0, 255}
        depth = np.load(raw / "depth" / f"{(name.decode() if isinstance(name, bytes) else name)[0]}.npy")
        assert r["depth"].dtype == np.float16
        np.testing.assert_allclose(r["depth"][..., 0], depth, atol=1e-3)
    metadata = json.loads((folder_of(built) / "metadata.json").read_text())
    assert metadata["raw"]["renderings"] == 2
    assert metadata["raw"]["seed"] == 0
    assert metadata["teacher"]["name"] == "dir:depth"


def test_the_same_inputs_build_the_same_bytes(raw, built, tmp_path, capsys):
    assert build.main(command(raw, built)) == 0
    assert "built already" in capsys.readouterr().out
    assert build.main(command(raw, built, "--seed=1")) == 1
    assert "built with another raw" in capsys.readouterr().err
    assert build.main(command(raw, tmp_path)) == 0
    assert hashes(tmp_path) == hashes(built)


@pytest.mark.slow
def test_processes_and_beam_build_the_same_bytes(raw, built, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdbd.parallel.WORTHWHILE", 0)
    assert build.main(command(raw, tmp_path / "processes")) == 0
    assert hashes(tmp_path / "processes") == hashes(built)
    pytest.importorskip("apache_beam", reason="needs the optional extra: pip install 'jaxdbd[beam]'")
    assert build.main(command(raw, tmp_path / "beam", "--beam")) == 0
    assert hashes(tmp_path / "beam") == hashes(built)


def test_maps_say_what_is_sharp(raw, tmp_path, capsys):
    maps = tmp_path / "maps"
    maps.mkdir()
    left = np.zeros((64, 96), np.uint8)
    left[:, :48], left[:, 48:] = 230, 190  # as `predict` writes them: surely and perhaps
    args = [*command(raw, tmp_path), f"--sharp_maps={maps}"]
    Image.fromarray(left).save(maps / "e.png")
    assert build.main(args) == 1
    assert "maps: no map has the name of a photograph" in capsys.readouterr().err
    for stem in "abc":
        Image.fromarray(left[: 32 if stem == "b" else 64]).save(maps / f"{stem}.png")
    assert build.main(args) == 1
    assert "b.png: 96x64, but b.png is 96x32" in capsys.readouterr().err
    Image.fromarray(left).save(maps / "b.png")
    assert build.main([*args, "--renderings=6"]) == 0
    assert "1 photograph(s) have no map and count as sharp all over" in capsys.readouterr().err  # d.bmp, to test on
    masks = [np.squeeze(r["mask"]) for r in tfds.builder_from_directory(folder_of(tmp_path)).as_data_source("train")]
    assert np.any([mask[:, :40] > 0 for mask in masks])
    assert not np.any([mask[:, 56:] > 0 for mask in masks])


def test_train_list_alone_and_one_rendering(raw, tmp_path):
    (tmp_path / "train.txt").write_text("a.jpg\nb.png\n")
    args = [arg for arg in command(raw, tmp_path) if not arg.startswith("--test_list")]
    assert build.main([*args, f"--train_list={tmp_path / 'train.txt'}", "--renderings=1"]) == 0
    splits = tfds.builder_from_directory(folder_of(tmp_path)).info.splits
    assert {split: info.num_examples for split, info in splits.items()} == {"train": 2}


def test_describe(built, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert build.main(["--dataset=refocused", f"--data_dir={built}", "--describe", f"--sheet={sheet}"]) == 0
    out = capsys.readouterr().out
    assert "gray = left out of the loss" in out
    assert "inverted" not in out
    assert sheet.exists()


def test_the_teacher_sees_each_photograph_once(tmp_path):
    seen = []

    def raw_maps(records):
        seen.extend(r["id"] for r in records)
        return [np.eye(4, dtype=np.float32) for _ in records]

    teacher = teachers.Teacher({"name": "eye"}, "near", raw_maps, slow=True)
    records = [{"id": "a_0", "key": "a"}, {"id": "a_1", "key": "a"}, {"id": "b_0", "key": "b"}]
    maps = teachers.nearness(teacher, records, tmp_path)
    assert len(maps) == 3
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--teacher=none"], "blurs by depth"),
        (["--teacher=scene"], "synthetic scenes only"),
        (["--renderings=0"], "at least 1"),
        (["--sharp_maps=/nowhere/at/all"], "/nowhere/at/all"),
        (["--dataset=folder", "--sharp_maps=maps"], "folder has masks"),
        (["--manual_dir=/nowhere/at/all"], "no folder /nowhere/at/all"),
        (["--test_list=/nowhere.txt"], "no list of names"),
    ],
)
def test_mistakes_are_one_line(raw, args, message, tmp_path, capsys):
    assert build.main(command(raw, tmp_path / "out", *args)) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_empty_folder(raw, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert build.main(command(raw, tmp_path / "out", f"--manual_dir={tmp_path / 'empty'}")) == 1
    assert "no photographs" in capsys.readouterr().err


def test_all_faults_are_named_in_one_error(tmp_path, capsys):
    for i, name in enumerate(["a.jpg", "a.png", "b.jpg", "c.jpg", "d.jpg"]):
        Image.fromarray(smooth(i)).save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(b"junk")
    (tmp_path / "c.jpg").write_bytes(b"")
    (tmp_path / "depth").mkdir()
    for stem in "abc":
        np.save(tmp_path / "depth" / f"{stem}.npy", np.eye(4))
    (tmp_path / "test.txt").write_text("a.jpg\nnobody.jpg\n")
    assert build.main(command(tmp_path, tmp_path / "out")) == 1
    err = capsys.readouterr().err
    lines = err[err.index("error: ") :].strip().splitlines()
    assert "5 problem(s)" in lines[0]
    for wanted in ("a.png: same name", "b.jpg: cannot be", "c.jpg: empty", "d.jpg: no depth map", "nobody.jpg: in the"):
        assert sum(wanted in line for line in lines) == 1, wanted
    assert not (tmp_path / "out").exists()


def test_what_a_beam_worker_does_pickles_and_makes_the_same_examples(raw, built, tmp_path):
    from data import dbd_dataset

    splits, _ = sources.find_photographs(raw, raw / "test.txt")
    teacher = teachers.Settings(f"dir:{raw / 'depth'}", polarity="near")
    work = partial(dbd_dataset.make_examples, load=refocus.load, teacher=teacher, cache=tmp_path, make=refocus.render)
    items = refocus.scenes(splits, 2, 0)["test"]
    work, items = pickle.loads(pickle.dumps((work, items)))
    made = dict(work(items))
    for r in tfds.builder_from_directory(folder_of(built)).as_data_source("test"):
        example = made[r["id"].decode() if isinstance(r["id"], bytes) else r["id"]]
        np.testing.assert_array_equal(r["image"], decoded(example["image"]))
        np.testing.assert_array_equal(r["valid"][..., 0], decoded(example["valid"]))
