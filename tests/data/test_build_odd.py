"""`data/build.py` on files that people really have: right, or named among the problems."""

import os
import unicodedata

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tifffile
from fake_benchmark import decoded, write_benchmark
from odd_files import (
    NOT_UTF8,
    camera_raw,
    half,
    one_line,
    ramp,
    save,
    small_disk,  # noqa: F401
    without_rights,
)
from odd_masks import MASKS, NO_MASKS

from data import build, sources, textures
from jaxdbd.errors import UserError
from jaxdbd.input.records import open_split
from jaxdbd.photographs.photos import read_photograph


def run(folder, *flags, dataset="folder") -> int:
    where = [f"--manual_dir={folder}", f"--data_dir={folder / 'built'}"]
    white = ["--gt_white=focus"] if dataset == "folder" else []
    return build.main([f"--dataset={dataset}", *where, *white, *map(str, flags)])


def problems(capsys) -> dict[str, str]:
    """Each problem of the one error that was printed, by the name of its file."""
    error = capsys.readouterr().err
    assert "Traceback" not in error
    lines = error[error.index("error: ") :].splitlines()[1:]
    return {line.strip().split(": ")[0].rpartition("/")[2]: line.strip() for line in lines}


def built(folder, dataset="folder") -> dict[str, dict]:
    source = tfds.builder_from_directory(folder / "built" / "dbd" / dataset / "1.0.0").as_data_source("train")
    return {record["id"].decode() if isinstance(record["id"], bytes) else record["id"]: record for record in source}


def pair(folder, name, photograph=None, mask=None, **options) -> None:
    save(folder / "image" / name, ramp() if photograph is None else photograph, **options)
    save(folder / "gt" / f"{name.rpartition('.')[0]}.png", half() if mask is None else mask)


def test_what_is_no_mask_is_refused(tmp_path, capsys):
    for i, (picture, _) in enumerate(NO_MASKS.values()):
        save(tmp_path / "image" / f"{i}.png", ramp())
        save(tmp_path / "gt" / f"{i}.tif", picture)
    assert run(tmp_path) == 1
    assert set(problems(capsys)) == {f"{i}.tif" for i in range(len(NO_MASKS))}
    assert not (tmp_path / "built").exists()


def test_masks_of_every_kind_are_built(tmp_path):
    kinds = [kind for kind in MASKS if kind != "soft edges"]
    for i, kind in enumerate(kinds):
        pair(tmp_path, f"{i}.png", mask=MASKS[kind])
    assert run(tmp_path) == 0
    for i, kind in enumerate(kinds):
        expected = half() if kind != "all black" else half() * 0
        np.testing.assert_array_equal(built(tmp_path)[str(i)]["mask"][..., 0], expected)


def test_masks_all_of_one_value_need_a_flag(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        pair(tmp_path, name, mask=half() * 0)
    assert run(tmp_path) == 1
    assert "--allow_uniform_masks" in problems(capsys)["gt"]
    assert run(tmp_path, "--allow_uniform_masks") == 0


def test_the_shards_hold_what_predict_sees(tmp_path, capsys):
    color = ramp()
    color[..., 1] = color[:, ::-1, 1]
    deep = color.astype(np.uint16) * 257
    pair(tmp_path, "float.tif", color[..., 0].astype(np.float32) / 255)
    pair(tmp_path, "alpha.png", np.dstack([color, 255 - half()]))
    pair(tmp_path, "gray.png", deep[..., 0])
    pair(tmp_path, "dark.png", color[..., 0].astype(np.uint16) * 16)
    for name in ("planes", "negative"):
        pair(tmp_path, f"{name}.tif")
    planes = np.ascontiguousarray(np.moveaxis(deep, -1, 0))
    tifffile.imwrite(tmp_path / "image" / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "image" / "negative.tif", 65535 - deep[..., 0], photometric="miniswhite")
    pair(tmp_path, "named.heic", color, format="JPEG")
    with pytest.warns(UserWarning, match="largest value is 4080"):
        expected = {path.stem: np.asarray(read_photograph(path)) for path in (tmp_path / "image").iterdir()}
    np.testing.assert_array_equal(expected["float"], ramp()[..., :1].repeat(3, -1))
    assert (expected["alpha"][:, 40:] == 255).all()
    np.testing.assert_array_equal(expected["planes"], color)
    np.testing.assert_array_equal(expected["negative"], ramp())
    assert run(tmp_path) == 0
    assert "dark.png: its largest value is 4080 of 65535" in capsys.readouterr().err
    for name, record in built(tmp_path).items():
        np.testing.assert_array_equal(record["image"], expected[name])


def test_what_cannot_be_read_is_among_the_problems(tmp_path, capsys):
    for name in ("gone.jpg", "loop.jpg", "raw.tif", "fine.jpg"):
        pair(tmp_path, name)
    for name in ("gone.jpg", "loop.jpg"):
        (tmp_path / "image" / name).unlink()
        (tmp_path / "image" / name).symlink_to("nowhere" if name == "gone.jpg" else name)
    (tmp_path / "gt" / "fine.png").unlink()
    (tmp_path / "gt" / "fine.png").symlink_to("nowhere")
    camera_raw(tmp_path / "image" / "raw.tif")
    (tmp_path / "image" / "x.png").mkdir()  # no photograph
    os.mkfifo(tmp_path / "gt" / "pipe.png")
    assert run(tmp_path) == 1
    found = problems(capsys)
    assert set(found) == {"gone.jpg", "loop.jpg", "fine.png", "raw.tif"}
    assert "a link to nowhere, which is not there" in found["gone.jpg"]
    assert "symbolic links" in found["loop.jpg"]
    assert "RAW" in found["raw.tif"]


def test_names_of_any_bytes_and_in_two_normal_forms(tmp_path, capsys):
    pair(tmp_path, "a.jpg")
    save(tmp_path / "image" / unicodedata.normalize("NFD", "é.jpg"), ramp())
    save(tmp_path / "gt" / unicodedata.normalize("NFC", "é.png"), half())
    (tmp_path / "test.txt").write_bytes("É.jpg\n".encode("utf-8-sig"))
    assert run(tmp_path, f"--test_list={tmp_path}/test.txt") == 0
    assert len(built(tmp_path)) == 1
    try:
        pair(tmp_path, f"{NOT_UTF8}.jpg")
    except OSError:
        pytest.skip("this file system takes no name that is not UTF-8")
    assert run(tmp_path, "--overwrite") == 1
    assert problems(capsys) == {r"caf\xe9.jpg": rf"{tmp_path}/image/caf\xe9.jpg: its name is not UTF-8; rename it"}


def test_two_names_that_look_the_same_are_told_apart(tmp_path, capsys):
    for form in ("NFC", "NFD"):
        pair(tmp_path, unicodedata.normalize(form, "é.jpg"))
    if len(list((tmp_path / "image").iterdir())) == 1:
        pytest.skip("this file system keeps names in one normal form")
    assert run(tmp_path) == 1
    error = capsys.readouterr().err
    assert r"e\u0301.jpg" in error
    assert r"\xe9.jpg" in error


@pytest.mark.parametrize("name", ["metadata.json", "dataset_info.json", "features.json", "dbd-train.array_record*"])
@pytest.mark.parametrize("kept", [0, 0.9, None])
def test_a_dataset_that_a_power_cut_damaged_is_one_line(tmp_path, name, kept, capsys):
    pair(tmp_path, "a.jpg")
    assert run(tmp_path) == 0
    (path,) = (tmp_path / "built" / "dbd" / "folder" / "1.0.0").glob(name)
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: int(kept * len(content))])
    if name != "metadata.json":  # which tells only what it was built from
        with pytest.raises(UserError, match=r"again with --overwrite|is not built") as caught:
            open_split("dbd/folder", "train", tmp_path / "built")
        assert "\n" not in str(caught.value)
    capsys.readouterr()
    nothing_is_there = (name, kept) == ("dataset_info.json", None)
    assert run(tmp_path) == (0 if nothing_is_there else 1)
    if not nothing_is_there:
        one_line(capsys.readouterr().err, str(tmp_path / "built"), "again with --overwrite")
    assert run(tmp_path, "--overwrite") == 0
    assert len(built(tmp_path)) == 1


def test_lists(tmp_path, capsys):
    for name in ("IMG_2024.01.01.jpg", "b.jpg"):
        pair(tmp_path, name)
    names = tmp_path / "test.txt"
    names.write_bytes("IMG_2024.01.01\r\n".encode("utf-16"))
    assert run(tmp_path, f"--test_list={names}") == 0
    assert list(built(tmp_path)) == ["b"]
    for content, message in ((b"", "is empty"), (b"\xe9.jpg", "save it as UTF-8"), (b"x.jpg\n", None)):
        names.write_bytes(content)
        assert run(tmp_path, f"--test_list={names}", "--overwrite") == 1
        if message:
            one_line(capsys.readouterr().err, str(names), message)
    assert "there is no photograph of that name" in capsys.readouterr().err


def test_refocused_has_the_same_reader(tmp_path, capsys):
    save(tmp_path / "float.tif", ramp()[..., 0].astype(np.float32) / 255)
    camera_raw(tmp_path / "raw.tif")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "x.png").mkdir()
    (tmp_path / "depth").mkdir()
    for name in ("float", "raw", "gone"):
        np.save(tmp_path / "depth" / f"{name}.npy", np.eye(8))
    flags = [f"--teacher=dir:{tmp_path / 'depth'}", "--teacher_polarity=near"]
    assert run(tmp_path, *flags, dataset="refocused") == 1
    assert set(problems(capsys)) == {"raw.tif", "gone.jpg"}
    record = sources.load_photograph(tmp_path / "float.tif")
    np.testing.assert_array_equal(decoded(record["image"]), ramp())


def test_textures_have_the_same_reader(tmp_path):
    save(tmp_path / "f.tif", ramp()[..., 0].astype(np.float32) / 255)
    (tmp_path / "x.png").mkdir()
    texture = textures.photograph(np.random.default_rng(0), 16, tmp_path)
    assert texture.max() > 0.1


@pytest.mark.parametrize("dataset", ["folder", "refocused"])
def test_holes_of_a_depth_camera(tmp_path, dataset, capsys):
    depth = np.tile(np.linspace(500, 5000, 60).astype(np.uint16), (40, 1))
    depth[10:20, 5:15] = 0
    for name in ("a.png", "b.png"):
        if dataset == "folder":
            pair(tmp_path, name)
        else:
            save(tmp_path / name, ramp())
        save(tmp_path / "depth" / name, depth)
    flags = [f"--teacher=dir:{tmp_path / 'depth'}", "--teacher_polarity=far", "--renderings=1"]
    assert run(tmp_path, *flags, dataset=dataset) == 0
    assert "train: 2 of 2 depth maps have pixels without a measurement (0), 4.17 % of all" in (
        capsys.readouterr().err.replace("%", " %").replace("  ", " ")
    )
    for record in built(tmp_path, dataset).values():
        near = record["depth"][..., 0]
        np.testing.assert_array_equal(np.isnan(near), depth == 0)
        assert np.nanmax(near) == near[0, 0] == 1
        assert np.nanmin(near) == near[0, -1] == 0
    sheet = tmp_path / "sheet.png"
    where = [f"--dataset={dataset}", f"--data_dir={tmp_path / 'built'}", f"--sheet={sheet}"]
    assert build.main([*where, "--describe"]) == 0
    assert "2 of 2 depth maps" in capsys.readouterr().out


def test_a_depth_map_on_its_side_is_refused_and_one_of_another_case_is_found(tmp_path, capsys):
    pair(tmp_path, "a.png")
    save(tmp_path / "depth" / "A.PNG", (ramp()[..., 0] + 1).T.copy(), format="PNG")
    flags = [f"--teacher=dir:{tmp_path / 'depth'}", "--teacher_polarity=near"]
    assert run(tmp_path, *flags) == 1
    one_line(capsys.readouterr().err, "A.PNG: 40x60, but its photograph is 60x40, turned by 90 degrees")


def test_a_full_disk_is_one_line(tmp_path, small_disk, capsys):  # noqa: F811
    rng = np.random.default_rng(0)
    for i in range(6):
        pair(tmp_path, f"{i}.png", rng.integers(0, 256, (240, 320, 3), np.uint8), half(240, 320))
    where = ["--dataset=folder", f"--manual_dir={tmp_path}", "--gt_white=focus"]
    assert build.main([*where, f"--data_dir={small_disk}"]) == 1
    one_line(capsys.readouterr().err, str(small_disk), "No space left on device")
    assert not (small_disk / "dbd" / "folder" / "1.0.0").exists()


@pytest.mark.slow
def test_what_may_not_be_read_or_written_is_one_line(tmp_path):
    raw = tmp_path / "raw"
    write_benchmark(raw, 3)
    readonly = tmp_path / "readonly"
    readonly.mkdir(mode=0o555)
    fixed = ["--dataset=folder", "--gt_white=focus"]
    code = f"import sys; from data import build; sys.exit(build.main([*{fixed}, *sys.argv[1:]]))"
    done = without_rights(code, f"--manual_dir={raw}", f"--data_dir={readonly}")
    one_line(done.stderr, f"{readonly}", "Permission denied")
    (raw / "image" / "photo01.jpg").chmod(0)
    done = without_rights(code, f"--manual_dir={raw}", f"--data_dir={tmp_path}/out")
    assert "1 problem(s)" in done.stderr
    assert "photo01.jpg: cannot be read: Permission denied" in done.stderr
    (raw / "gt").chmod(0)
    try:
        done = without_rights(code, f"--manual_dir={raw}", f"--data_dir={tmp_path}/out")
        one_line(done.stderr, f"{raw}/gt: this folder cannot be read: Permission denied")
    finally:
        (raw / "gt").chmod(0o755)
