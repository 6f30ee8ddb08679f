import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from fake_benchmark import mask, photograph, write_benchmark, write_pair
from PIL import Image

from data import checks, finding, sources
from data.sources import SOURCES, Pair
from jaxdbd.errors import UserError
from jaxdbd.photographs.decoding import ORIENTATION

FOLDER = sources.customise(SOURCES["folder"], gt_white="focus")


def image_of(record, field="image"):
    return Image.open(io.BytesIO(record[field]))


def test_cuhk_list_is_the_standard_hundred():
    names = SOURCES["cuhk"].test_list.read_text().split()
    assert len(names) == len(set(names)) == 100
    assert all(name.startswith("out_of_focus") for name in names)


def test_cuhk_folders_split_and_polarity(tmp_path):
    names = SOURCES["cuhk"].test_list.read_text().split()
    # As published: some names end in .JPG, and motion-blurred photographs lie among the others.
    for i, name in enumerate([*names[:99], names[99].replace(".jpg", ".JPG"), "out_of_focus9998.JPG"]):
        write_pair(tmp_path, name, i)
    write_pair(tmp_path, "motion0001.jpg", 500)
    splits, problems = finding.find_pairs(SOURCES["cuhk"], tmp_path)
    assert problems == []
    assert [pair.id for pair in splits["train"]] == ["out_of_focus9998"]
    assert len(splits["test"]) == 100
    pair = splits["train"][0]
    # Black in the file is in focus.
    np.testing.assert_array_equal(sources.read_mask(pair), np.asarray(Image.open(pair.mask)) == 0)


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("cuhk", "folder")])
def test_each_benchmark_is_read_from_its_published_folders(name, tmp_path):
    source = SOURCES[name]
    for i, (images, masks) in enumerate(source.folders.values()):
        for k in range(2):
            write_pair(tmp_path / source.root, f"{k}.jpg", 10 * i + k, images, masks)
    splits, problems = finding.find_pairs(source, tmp_path)
    assert problems == []
    assert {split: len(pairs) for split, pairs in splits.items()} == dict.fromkeys(source.folders, 2)
    for pairs in splits.values():
        white = np.asarray(Image.open(pairs[0].mask)) > 127
        np.testing.assert_array_equal(sources.read_mask(pairs[0]), white if source.white == "focus" else ~white)


def test_stems_match_whatever_the_case_and_the_kind_of_file(tmp_path):
    write_benchmark(tmp_path, 2)
    (tmp_path / "image" / "photo00.jpg").rename(tmp_path / "image" / "Photo00.JPG")
    Image.open(tmp_path / "gt" / "photo01.png").save(tmp_path / "gt" / "photo01.BMP")
    (tmp_path / "gt" / "photo01.png").unlink()
    (tmp_path / "gt" / "Thumbs.db").write_bytes(b"x")
    splits, problems = finding.find_pairs(FOLDER, tmp_path)
    assert problems == []
    assert [pair.id for pair in splits["train"]] == ["Photo00", "photo01"]


def test_split_lists(tmp_path):
    names = write_benchmark(tmp_path, 6)
    (tmp_path / "test.txt").write_text("\n".join([names[0], names[1].upper(), ""]))
    source = dataclasses.replace(FOLDER, test_list=tmp_path / "test.txt")
    splits, problems = finding.find_pairs(source, tmp_path)
    assert problems == []
    assert [pair.id for pair in splits["test"]] == ["photo00", "photo01"]
    assert [pair.id for pair in splits["train"]] == ["photo02", "photo03", "photo04", "photo05"]
    (tmp_path / "train.txt").write_text(f"{names[1]}\n{names[2]}\nnosuch.jpg\n")
    source = dataclasses.replace(source, train_list=tmp_path / "train.txt")
    splits, problems = finding.find_pairs(source, tmp_path)
    assert [pair.id for pair in splits["train"]] == ["photo01", "photo02"]
    assert len(problems) == 2
    assert "photo01" in problems[0].lower()
    assert "in both" in problems[0]
    assert "nosuch.jpg" in problems[1]


def test_customise():
    dut = sources.customise(SOURCES["dut"], images="a,b", masks="c,d")
    assert dut.folders == {"train": ("a", "c"), "test": ("b", "d")}
    for wrong, message in [
        ({"images": "a"}, "give 2 folder"),
        ({"train_list": Path("x")}, "give --test_list too"),
    ]:
        with pytest.raises(UserError, match=message):
            sources.customise(SOURCES["dut"], **wrong)
    with pytest.raises(UserError, match="gt_white"):
        sources.customise(SOURCES["folder"])
    with pytest.raises(UserError, match="test split only"):
        sources.customise(SOURCES["ebd"], test_list=Path("x"))


def test_missing_folders_and_lists_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        finding.find_pairs(FOLDER, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no folder .*image.*--images"):
        finding.find_pairs(FOLDER, tmp_path)
    write_benchmark(tmp_path, 1)
    with pytest.raises(UserError, match=r"no list of names .*list\.txt"):
        finding.find_pairs(dataclasses.replace(FOLDER, test_list=tmp_path / "list.txt"), tmp_path)


def test_bytes_of_an_ordinary_photograph_are_kept(tmp_path):
    write_pair(tmp_path, "a.jpg", 1)
    record = sources.load(Pair("a", tmp_path / "image" / "a.jpg", tmp_path / "gt" / "a.png", "blur"))
    assert record["image"] == (tmp_path / "image" / "a.jpg").read_bytes()
    out = image_of(record, "mask")
    assert out.mode == "L"
    np.testing.assert_array_equal(np.asarray(out), 255 - mask(1))


def convertible():
    """(name, image, saving options, what comes out)."""
    rgb = photograph(3)
    gray = rgb[..., 0]
    palette = Image.fromarray(rgb).quantize(16)
    cmyk = Image.fromarray(rgb).convert("CMYK")
    alpha = np.dstack([rgb, np.full_like(gray, 99)])
    turned = Image.Exif()
    turned[ORIENTATION] = 6  # shown turned a quarter clockwise
    three_grays = np.dstack([gray] * 3)
    yield "gray.png", Image.fromarray(gray), {}, three_grays
    yield "palette.png", palette, {}, np.asarray(palette.convert("RGB"))
    yield "cmyk.tif", cmyk, {}, np.asarray(cmyk.convert("RGB"))
    over_white = Image.alpha_composite(Image.new("RGBA", alpha.shape[1::-1], "white"), Image.fromarray(alpha))
    yield "alpha.png", Image.fromarray(alpha), {}, np.asarray(over_white.convert("RGB"))
    yield "deep.png", Image.fromarray(gray.astype(np.uint16) * 257), {}, three_grays
    yield "plain.bmp", Image.fromarray(rgb), {}, rgb
    yield "turned.png", Image.fromarray(rgb), {"exif": turned}, np.rot90(rgb, -1)


@pytest.mark.parametrize(
    ("name", "image", "options", "expected"), convertible(), ids=lambda v: v if isinstance(v, str) else ""
)
def test_odd_photographs_become_upright_8_bit_rgb(name, image, options, expected, tmp_path):
    path, mask_path = tmp_path / name, tmp_path / "m.png"
    image.save(path, **options)
    Image.fromarray(np.zeros(expected.shape[:2], np.uint8)).save(mask_path)
    pair = Pair("x", path, mask_path, "focus")
    out = image_of(sources.load(pair))
    assert (out.mode, out.format) == ("RGB", "PNG")
    np.testing.assert_array_equal(np.asarray(out), expected)
    finding = checks.inspect(pair)
    assert finding.problem is None
    assert finding.conversion


def test_16_bit_rgb_png_is_reduced(tmp_path):
    import cv2

    rgb = photograph(3)
    cv2.imwrite(str(tmp_path / "deep.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    Image.fromarray(np.zeros(rgb.shape[:2], np.uint8)).save(tmp_path / "m.png")
    record = sources.load(Pair("x", tmp_path / "deep.png", tmp_path / "m.png", "focus"))
    assert record["image"][24] == 8
    np.testing.assert_array_equal(np.asarray(image_of(record)), rgb)


@pytest.mark.parametrize("mode", ["L", "RGBA", "1", "P", "I;16"])
def test_masks_of_any_kind(mode, tmp_path):
    white = mask(5)
    image = Image.fromarray(white)
    if mode == "I;16":
        image = Image.fromarray(white.astype(np.uint16) * 257)
    elif mode != "L":
        image = image.convert(mode)
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(sources.read_mask(Pair("x", Path(), tmp_path / "m.png", "focus")), white == 255)


def inspect(folder, name="a.jpg"):
    return checks.inspect(Pair("a", folder / "image" / name, folder / "gt" / "a.png", "focus"))


def test_inspect_names_each_fault(tmp_path):
    write_pair(tmp_path, "a.jpg", 1)
    image, label = tmp_path / "image" / "a.jpg", tmp_path / "gt" / "a.png"
    whole, whole_mask = image.read_bytes(), label.read_bytes()
    assert inspect(tmp_path).problem is None
    for path, content, expected in [
        (image, b"", "a.jpg: empty file"),
        (image, whole[: len(whole) // 2], "a.jpg: cannot be decoded as a photograph"),
        (image, b"not an image at all", "a.jpg: cannot be decoded as a photograph (not an image)"),
        (label, b"", "a.png: empty file"),
        (label, whole_mask[: len(whole_mask) // 2], "a.png: cannot be decoded as a mask"),
        (label, b"GIF89a junk", "a.png: cannot be decoded as a mask"),
    ]:
        path.write_bytes(content)
        assert expected in inspect(tmp_path).problem
        image.write_bytes(whole)
        label.write_bytes(whole_mask)
    Image.fromarray(mask(1, 50, 32)).save(label)
    assert "48x32, but a.png is 50x32" in inspect(tmp_path).problem
    Image.fromarray((mask(1) > 0).astype(np.uint8)).save(label)
    assert "0 and 1 as labels" in inspect(tmp_path).problem
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    Image.fromarray(photograph(1)).save(image, exif=turned)
    label.write_bytes(whole_mask)
    assert "EXIF" in inspect(tmp_path).problem
    Image.fromarray(np.rot90(mask(1), -1)).save(label)
    assert inspect(tmp_path).problem is None


def test_gray_masks_are_cut_at_127_and_counted(tmp_path, capsys):
    write_benchmark(tmp_path, 3)
    gray = np.tile(np.uint8([0] * 16 + list(range(120, 136)) + [255] * 16), (32, 1))
    Image.fromarray(gray).save(tmp_path / "gt" / "photo01.png")
    splits, problems = finding.find_pairs(FOLDER, tmp_path)
    np.testing.assert_array_equal(sources.read_mask(splits["train"][1]), gray >= 128)
    checks.check(FOLDER, splits, problems, drop_duplicates=False)
    assert "1 mask(s) hold grays and were cut at 127: photo01.png" in capsys.readouterr().err


def test_copies_across_splits_are_found_and_dropped(tmp_path, capsys):
    names = write_benchmark(tmp_path, 8)
    big = Image.open(tmp_path / "image" / names[5]).resize((96, 64))
    for name, copy in {names[0]: None, names[1]: big}.items():  # in test: an exact and a rescaled, recompressed copy
        if copy is None:
            (tmp_path / "image" / name).write_bytes((tmp_path / "image" / names[4]).read_bytes())
        else:
            copy.save(tmp_path / "image" / name, quality=40)
            Image.open(tmp_path / "gt" / "photo01.png").resize(copy.size, 0).save(tmp_path / "gt" / "photo01.png")
    (tmp_path / "test.txt").write_text("\n".join(names[:3]))
    source = dataclasses.replace(FOLDER, test_list=tmp_path / "test.txt")
    splits, problems = finding.find_pairs(source, tmp_path)
    kept = checks.check(source, splits, problems, drop_duplicates=False)
    assert kept == splits
    err = capsys.readouterr().err
    assert "2 training photograph(s) are also in test" in err
    assert "photo04.jpg ~ " in err
    assert "photo05.jpg ~ " in err
    kept = checks.check(source, splits, problems, drop_duplicates=True)
    assert [pair.id for pair in kept["train"]] == ["photo03", "photo06", "photo07"]
    assert kept["test"] == splits["test"]


def test_count_that_differs_from_what_was_published_is_a_warning(tmp_path, capsys):
    source = dataclasses.replace(FOLDER, count={"train": 5})
    write_benchmark(tmp_path, 3)
    splits, _ = finding.find_pairs(source, tmp_path)
    checks.check(source, splits, [], drop_duplicates=False)
    assert "train: 3 photographs, where 5 were published" in capsys.readouterr().err


@pytest.mark.slow
def test_real_cuhk(shared):
    splits, problems = finding.find_pairs(SOURCES["cuhk"], shared / "data" / "cuhk")
    assert problems == []
    assert {split: len(pairs) for split, pairs in splits.items()} == {"train": 604, "test": 100}
    share = np.mean([sources.read_mask(pair).mean() for pair in splits["train"]])
    assert share == pytest.approx(0.340, abs=0.002)
