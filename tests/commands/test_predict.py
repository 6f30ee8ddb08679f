"""Predictions: of arrays of any size, alone and together; and the command, on folders as people have them."""

import csv
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from drawn_network import drawn
from jax import numpy as jnp
from PIL import Image

import jaxdbd
from jaxdbd import inference, weights
from jaxdbd import predict as predict_function
from jaxdbd.__main__ import main
from jaxdbd.errors import UserError
from jaxdbd.inference import SquareMaps
from jaxdbd.input import geometry
from jaxdbd.machine.files import write_whole
from jaxdbd.network.edges import crisp
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.weights import store

ROOT = tiny.ROOT
SIDE = 64


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> Path:
    model = DepthDistilledDBD("tiny", full_resolution=False, blur_head=True, srfb="none", sab=False, size=SIDE)
    path = tmp_path_factory.mktemp("weights") / "lite.safetensors"
    weights.save(path, model, drawn(model), dataset="none", license="none", threshold=0.4)
    return path


@pytest.fixture(scope="module")
def network(weights_file) -> tuple[DepthDistilledDBD, dict]:
    return jaxdbd.load(weights_file)


@pytest.fixture
def brightness(monkeypatch):
    """In place of the network, one whose answer can be told: focus is brightness, depth redness, blur a tenth of it."""

    def compiled(model):
        def maps(variables, images):
            red = images[..., 0] / np.float32(255)
            return SquareMaps(jnp.mean(images / 255, axis=-1), red, red / 10)

        return maps

    monkeypatch.setattr(inference, "compiled", compiled)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Something with coarse and fine structure."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return (np.asarray(coarse).astype(int) + rng.integers(-30, 31, (height, width, 3))).clip(0, 255).astype(np.uint8)


def run(*arguments) -> int:
    return main(["predict", *map(str, arguments)])


def gray(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "L"
        return np.asarray(picture).astype(int)


# --- Arrays ---


@pytest.mark.parametrize("shape", [(48, 70), (1, 1), (40, 3000), (200, 64)])
def test_maps_have_the_photographs_size_and_range(network, shape):
    focus, depth = jaxdbd.predict(*network, photograph(*shape))
    for values in (focus, depth):
        assert values.shape == shape
        assert values.dtype == np.float32
        assert 0 <= values.min() <= values.max() <= 1


def test_blur_is_in_pixels_of_the_photograph(network):
    model, variables = network
    photo = photograph(SIDE, SIDE)
    large = np.asarray(Image.fromarray(photo).resize((4 * SIDE, 2 * SIDE), Image.Resampling.NEAREST))
    output = jax.jit(model.apply)(variables, jaxdbd.normalize(jnp.asarray(photo[None]), model.encoder))
    wanted = 1.28 * (np.exp(output.blur[0, ..., 0]) - 1)
    assert 0 < np.median(wanted) < SIDE
    np.testing.assert_allclose(jaxdbd.predict(model, variables, photo).blur, np.minimum(wanted, SIDE), rtol=1e-3)
    # Twice as high and four times as wide: disks of as many pixels are squashed to ellipses.
    times = jaxdbd.predict(model, variables, large).blur[1::2, 1::4] / np.minimum(wanted, SIDE)
    assert np.median(times[wanted > 0]) == pytest.approx(np.sqrt(8), rel=0.05)


def test_one_compilation_for_all_sizes(network):
    jaxdbd.predict(*network, photograph(30, 40))
    before = inference.compiled(network[0])._cache_size()
    jaxdbd.predict(*network, [photograph(33, 20), photograph(2, 7), photograph(90, 90)])
    assert inference.compiled(network[0])._cache_size() == before > 0


def test_a_photograph_that_fits_the_square_gets_the_networks_own_answer(network):
    model, variables = network
    photo = photograph(SIDE, SIDE)
    focus, depth = jaxdbd.predict(model, variables, photo)
    images = jaxdbd.normalize(jnp.asarray(photo[None]), model.encoder)
    output = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(focus, 1 / (1 + np.exp(-output.focus[0, ..., 0])), atol=1e-4)
    # Depth goes from the least to the greatest mean of blocks of 16 pixels.
    raw = np.asarray(output.depth[0, ..., 0])
    means = raw.reshape(SIDE // 16, 16, SIDE // 16, 16).mean(axis=(1, 3))
    wanted = np.clip((raw - means.min()) / (means.max() - means.min()), 0, 1)
    np.testing.assert_allclose(depth, wanted, atol=1e-3)
    assert np.ptp(focus) > 0.05  # a flat map would agree with anything


def test_alone_and_in_a_list_the_maps_are_the_same_bits(network):
    photos = [photograph(50 + 9 * i, 90 - 7 * i, seed=i) for i in range(5)]
    together = jaxdbd.predict(*network, photos)
    assert len(together) == 5
    for photo, prediction in zip(photos, together, strict=True):
        alone = jaxdbd.predict(*network, photo)
        np.testing.assert_array_equal(prediction.focus, alone.focus)
        np.testing.assert_array_equal(prediction.depth, alone.depth)
    assert jaxdbd.predict(*network, []) == []


def test_padding_of_an_accelerators_batch_changes_nothing(network, monkeypatch):
    monkeypatch.setattr(inference, "batch_size_of", lambda platform: 4)
    squares = [photograph(SIDE, SIDE, seed=i) for i in range(6)]
    together = list(inference.predict_maps(*network, squares))
    assert len(together) == 6
    for i in (0, 5):
        alone = next(inference.predict_maps(*network, squares[i : i + 1]))
        for a, b in zip(together[i], alone, strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.abs(together[0][0] - together[5][0]).max() > 0.01  # neither map is the other's


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_that_are_no_photographs(image):
    with pytest.raises(ValueError, match="uint8 array"):
        geometry.to_square(image, 64)


@pytest.mark.parametrize("size", [(64, 64), (65, 300), (427, 640), (64, 1000), (63, 100), (1, 1), (40, 3000)])
def test_maps_are_resized_as_pillow_does(size):
    square = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    wanted = np.asarray(Image.fromarray(square).resize(size[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(geometry.to_size(square, size), wanted, atol=3e-7)


def test_a_strip_of_a_map_is_that_strip_of_the_whole():
    square = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    strips = [geometry.rows_to_size(square, (250, 90), slice(top, min(top + 37, 250))) for top in range(0, 250, 37)]
    np.testing.assert_allclose(np.concatenate(strips), geometry.to_size(square, (250, 90)), atol=1e-5)


def test_every_block_of_the_documentation_runs(weights_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store, "BUNDLED", weights_file.parent)  # where `lite` is
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photograph(140, 220)).save("photo.jpg")
    Path("text.jpg").write_text("no picture")
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        exec(block, names)
    with Image.open("overlay.jpg") as picture:
        assert picture.size == (220, 140)
    assert Path("depth.png").exists()
    printed = capsys.readouterr().out
    assert "% in focus" in printed
    assert "text.jpg: not a picture" in printed
    for prediction, size in zip(names["predictions"], [(140, 220), (140, 220), (100, 200)], strict=True):
        assert prediction.focus.shape == size


def test_the_first_lines_of_the_readme_run(weights_file, monkeypatch):
    monkeypatch.setattr(store, "BUNDLED", weights_file.parent)
    monkeypatch.chdir(ROOT)  # where its photograph is
    block, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(block, names)
    assert names["focus"].shape == names["depth"].shape == names["photo"].shape[:2] == (480, 640)
    assert names["focus"].dtype == np.float32


# --- The command ---


def test_command_writes_what_the_function_returns(network, weights_file, tmp_path):
    photo = photograph(48, 70)
    Image.fromarray(photo).save(tmp_path / "a b.png")
    assert run(tmp_path / "a b.png", "--out", tmp_path / "out", "--weights", weights_file) == 0
    focus = predict_function(*network, photo).focus
    np.testing.assert_array_equal(gray(tmp_path / "out" / "a b.png"), np.rint(focus * 255))


def test_weights_say_how_crisp_the_map_is_and_raw_leaves_it_out(network, tmp_path):
    model, variables = network
    sharp = model.clone(edge_radius=0.05, edge_slope=3.0)
    path, square = tmp_path / "sharp.safetensors", photograph(SIDE, SIDE)
    weights.save(path, sharp, variables, dataset="none", license="none", threshold=0.9)
    assert weights.load(path)[0] == sharp
    soft = jnp.asarray(jaxdbd.predict(model, variables, square).focus)[None]
    logits = crisp(jnp.log(soft / (1 - soft)), jnp.asarray(square)[None] / 255, 0.05, 3.0)
    Image.fromarray(square).save(tmp_path / "p.png")
    for flags, expected, threshold in (([], jax.nn.sigmoid(logits), 0.9), (["--raw"], soft, 0.675)):
        flags = [f"--weights={path}", f"--out={tmp_path / 'out'}", "--binary", *flags]
        assert main(["predict", str(tmp_path / "p.png"), *flags]) == 0
        found = np.asarray(Image.open(tmp_path / "out" / "p.png"))
        np.testing.assert_allclose(found, 255 * np.asarray(expected[0]), atol=0.6)
        # A threshold of .9 has odds of 9, and before a slope of 3 its cubic root, 2.08.
        binary = np.asarray(Image.open(tmp_path / "out" / "p.binary.png")) > 0
        differs = binary != (np.asarray(expected[0]) > threshold)
        assert differs.mean() < 0.01


def test_folder_as_people_have_them(brightness, weights_file, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    # Dark on the left, bright on the right: which shows whether a map is upright and of its own photograph.
    ramp = np.linspace(0, 255, 60).astype(np.uint8)[None, :, None].repeat(40, axis=0).repeat(3, axis=2)
    picture = Image.fromarray(ramp)
    good = {f"plain{i}.jpg": (picture, {}) for i in range(20)}
    exif = Image.Exif()
    exif[0x0112] = 6
    good |= {
        "rotated.jpg": (picture.transpose(Image.Transpose.ROTATE_90), {"exif": exif}),
        "cmyk.jpg": (picture.convert("CMYK"), {}),
        "gray.png": (picture.convert("L"), {}),
        "palette.png": (picture.quantize(64), {}),
        "alpha.png": (picture.convert("RGBA"), {}),
        "deep.png": (Image.fromarray(ramp[..., 0].astype(np.uint16) * 257), {}),
        "moving.gif": (picture, {"save_all": True, "append_images": [picture.rotate(180)] * 3}),
        "naïve café 写真.webp": (picture, {}),
    }
    for name, (image, options) in good.items():
        image.save(folder / name, **options)
    Image.fromarray(ramp[:1, :1]).save(folder / "one.png")
    picture.resize((3000, 40)).save(folder / "strip.bmp")
    jpeg = (folder / "plain0.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) - 40])
    (folder / "text.jpg").write_text("dear diary")
    (folder / "empty.png").write_bytes(b"")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    assert run(folder, "--out", out, "--weights", weights_file, "--csv", tmp_path / "rows.csv") == 1

    for name in good:
        seen = gray(out / f"{Path(name).stem}.png")
        assert seen.shape == (40, 60)
        assert np.abs(seen[:, 4:-4] - ramp[:, 4:-4, 0]).max() < 12, name
    assert gray(out / "one.png").shape == (1, 1)
    assert gray(out / "strip.png").shape == (40, 3000)
    assert len(list(out.iterdir())) == len(good) + 2  # nothing of the bad ones, nothing unfinished
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with (tmp_path / "rows.csv").open() as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert list(rows) == sorted(before)
    errors = {name: row["error"] for name, row in rows.items() if row["error"]}
    assert set(errors) == {"cut.jpg", "text.jpg", "empty.png"}
    console = capsys.readouterr().err
    for name, error in errors.items():
        assert f"error: {folder / name}: " in console
        assert name in error
        assert not rows[name]["fraction_in_focus"]
    # Brighter than 0.4 is 60 % of a ramp, and their mean redness is 0.7.
    assert float(rows["plain0.jpg"]["fraction_in_focus"]) == pytest.approx(0.6, abs=0.02)
    assert float(rows["plain0.jpg"]["mean_depth_in_focus"]) == pytest.approx(0.7, abs=0.02)
    # Of a photograph of 40 x 60 pixels, a square's side is the root of 2400, and redness .5 in the middle.
    assert float(rows["plain0.jpg"]["median_blur_pixels"]) == pytest.approx(0.05 * 2400**0.5, abs=0.1)
    assert float(rows["plain0.jpg"]["p90_blur_pixels"]) == pytest.approx(0.09 * 2400**0.5, abs=0.1)
    assert rows["text.jpg"]["median_blur_pixels"] == ""
    assert rows["one.png"]["fraction_in_focus"] == "0.0000"
    assert rows["one.png"]["mean_depth_in_focus"] == ""  # of nothing


def test_extra_pictures_and_thresholds(brightness, weights_file, tmp_path):
    ramp = np.linspace(0, 255, SIDE).astype(np.uint8)[None, :, None].repeat(SIDE, axis=0).repeat(3, axis=2)
    Image.fromarray(ramp).save(tmp_path / "a.png")

    def in_focus(*flags) -> float:
        assert run(tmp_path / "a.png", "--out", tmp_path / "out", "--weights", weights_file, *flags) == 0
        binary = gray(tmp_path / "out" / "a.binary.png")
        assert set(np.unique(binary)) == {0, 255}
        return binary.mean() / 255

    assert in_focus("--binary", "--overlay", "--depth") == pytest.approx(0.6, abs=0.02)  # the weights' threshold, 0.4
    assert in_focus("--binary=0.75") == pytest.approx(0.25, abs=0.02)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"a.png", "a.binary.png", "a.overlay.jpg", "a.depth.png"}
    with Image.open(out / "a.overlay.jpg") as picture:
        assert picture.size == (SIDE, SIDE)
    assert run(tmp_path / "a.png", "--out", out, "--weights", weights_file, "--binary=7") == 1


def test_blur_is_written_in_pixels_and_as_a_picture(brightness, weights_file, tmp_path):
    Image.new("RGB", (200, 50), (102, 0, 0)).save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "--out", tmp_path / "out", "--weights", weights_file, "--blur") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "a_blur.npy", "a_blur.png"}
    blur = np.load(tmp_path / "out" / "a_blur.npy")
    assert (blur.shape, blur.dtype) == ((50, 200), np.float32)
    np.testing.assert_allclose(blur, 0.04 * 100, rtol=1e-5)
    with Image.open(tmp_path / "out" / "a_blur.png") as picture:
        assert picture.width == 200
        assert picture.height > 50  # a scale is below


@pytest.mark.parametrize("turn", [1, 3, 6, 7])
def test_masks_for_colmap_are_named_and_turned_as_the_files_are(brightness, weights_file, tmp_path, turn):
    ramp = np.linspace(0, 255, 60).astype(np.uint8)[None, :, None].repeat(40, axis=0).repeat(3, axis=2)
    exif = Image.Exif()
    exif[0x0112] = turn
    (tmp_path / "in" / "day").mkdir(parents=True)
    for name in ("a.jpg", "a.png", "day/b.jpg"):
        Image.fromarray(ramp).save(tmp_path / "in" / name, quality=95, exif=exif)
    out = tmp_path / "out"
    assert run(tmp_path / "in", "--out", out, "--weights", weights_file, "--masks=colmap", "--recursive") == 0
    masks = {str(path.relative_to(out)): gray(path) for path in out.rglob("*.png")}
    assert set(masks) == {"a.jpg.png", "a.png.png", "day/b.jpg.png"}
    for mask in masks.values():
        assert set(np.unique(mask)) == {0, 255}
        np.testing.assert_array_equal(mask[:, 4:20], 0)  # under 0.4, as the pixels lie in the file
        np.testing.assert_array_equal(mask[:, 30:], 255)


def test_same_stem_keeps_both_and_says_so(brightness, weights_file, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, level in (("a.png", 40), ("a.bmp", 200)):
        Image.new("RGB", (9, 9), (level,) * 3).save(folder / name)
    assert run(folder, "--out", tmp_path / "out", "--weights", weights_file) == 0
    assert {p.name: int(gray(p)[0, 0]) for p in (tmp_path / "out").iterdir()} == {"a.png.png": 40, "a.bmp.png": 200}
    assert "share a name" in capsys.readouterr().out


def test_output_among_the_photographs_is_refused_and_touches_nothing(weights_file, tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert run(tmp_path, "--out", tmp_path, "--weights", weights_file) == 1
    assert "folder of their own" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize("map_", ["depth", "blur"])
def test_maps_of_a_head_that_is_not_there_are_refused(tmp_path, capsys, map_):
    model = DepthDistilledDBD("tiny", full_resolution=False, depth_head=False, size=SIDE)
    weights.save(tmp_path / "w.safetensors", model, drawn(model), dataset="", license="")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    command = [tmp_path / "a.png", "--out", tmp_path / "out", "--weights", tmp_path / "w.safetensors", f"--{map_}"]
    assert run(*command) == 1
    assert f"was trained without a {map_} head" in capsys.readouterr().err


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left"):
        write_whole(tmp_path / "a.png", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.png", b"old")]


def test_folders_that_cannot_be_are_said_before_anything_is_done(weights_file, tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("in the way")
    for flags in (["--out", tmp_path / "file"], ["--out", tmp_path / "out", "--csv", tmp_path / "file" / "rows.csv"]):
        assert run(tmp_path / "a.png", "--weights", weights_file, *flags) == 1
        assert f"error: {tmp_path / 'file'}: cannot be made a folder" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))
