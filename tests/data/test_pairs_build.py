"""`data/build.py --dataset=pairs`: from a folder of photographs of scenes to shards."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_benchmark import hashes
from PIL import Image
from test_pairs import as_picture, columns, near_and_far, scene, textured

from data import build, describe, pairs


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Three scenes, one of them for testing and one without masks, and depth maps."""
    folder = tmp_path_factory.mktemp("pairs")
    scene(folder, near_and_far(0), "chair")
    scene(folder, near_and_far(1), "fence")
    scene(folder, [textured(2)] * 2, "wall")
    as_picture(near_and_far(0)[1]).convert("L").save(folder / "chair_2.png")
    (folder / "depth").mkdir()
    for path in folder.glob("*.png"):
        np.save(folder / "depth" / f"{path.stem}.npy", np.linspace(0, 1, 600).reshape(20, 30))
    (folder / "test.txt").write_text("fence\n")
    return folder


def command(raw, data_dir, *more):
    return [
        "--dataset=pairs",
        f"--manual_dir={raw}",
        f"--data_dir={data_dir}",
        f"--test_list={raw / 'test.txt'}",
        *more,
    ]


def with_depth(raw):
    return f"--teacher=dir:{raw / 'depth'}", "--teacher_polarity=near"


def folder_of(data_dir):
    return data_dir / "dbd" / "pairs" / "1.0.0"


def records(data_dir, split):
    return {r["id"].decode(): r for r in tfds.builder_from_directory(folder_of(data_dir)).as_data_source(split)}


@pytest.fixture(scope="module")
def built(raw, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("built")
    assert build.main(command(raw, data_dir, *with_depth(raw))) == 0
    return data_dir


def test_what_is_read_back_is_what_was_there(raw, built):
    assert records(built, "train").keys() == {"chair_1", "chair_2"}
    assert records(built, "test").keys() == {"fence_1", "fence_2"}
    for name, record in (records(built, "train") | records(built, "test")).items():
        photograph = Image.open(raw / f"{name}.png").convert("RGB")
        np.testing.assert_array_equal(record["image"], np.asarray(photograph))
        known = columns(0, 0.5) if name.endswith("1") else columns(0.5, 1)
        mask, valid = (record[field][..., 0] for field in ("mask", "valid"))
        assert set(np.unique(mask)) | set(np.unique(valid)) == {0, 255}
        assert ((mask > 0) == known)[valid > 0].mean() > 0.99
        assert record["depth"].shape == (20, 30, 1)
    metadata = json.loads((folder_of(built) / "metadata.json").read_text())
    assert metadata["teacher"]["name"] == "dir:depth"


def test_the_same_inputs_build_the_same_bytes(raw, built, tmp_path, capsys):
    assert build.main(command(raw, built, *with_depth(raw))) == 0
    assert "built already" in capsys.readouterr().out
    assert build.main(command(raw, tmp_path, *with_depth(raw))) == 0
    assert "left out: wall: only 0% of the pixels" in capsys.readouterr().err
    assert hashes(tmp_path, "pairs") == hashes(built, "pairs")
    (tmp_path / "train.txt").write_text("chair\n")
    assert build.main(command(raw, built, *with_depth(raw), f"--train_list={tmp_path / 'train.txt'}")) == 1
    assert "built with another raw" in capsys.readouterr().err


def test_without_a_teacher_there_is_no_depth(raw, tmp_path):
    assert build.main(command(raw, tmp_path)) == 0
    assert set(records(tmp_path, "test")["fence_1"]) == {"id", "image", "mask", "valid"}


def test_large_photographs_are_reduced(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "MAX_SIDE", 120)
    scene(tmp_path, near_and_far(3))
    args = ["--dataset=pairs", f"--manual_dir={tmp_path}", f"--data_dir={tmp_path / 'out'}"]
    assert build.main(args) == 0
    for record in records(tmp_path / "out", "train").values():
        assert {record[name].shape[:2] for name in ("image", "mask", "valid")} == {(80, 120)}


def test_describe_counts_what_the_masks_say_and_draws_each_scene(built, tmp_path, capsys):
    args = ["--dataset=pairs", f"--data_dir={built}", "--describe", f"--sheet={tmp_path / 'sheet.png'}"]
    assert build.main([*args, f"--pictures={tmp_path / 'pictures'}"]) == 0
    out = capsys.readouterr().out
    assert "counts" in out
    assert "AUC" not in out  # the near half is in focus in one, the far half in the other: nothing follows
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"chair.png", "fence.png"}
    width, height = Image.open(tmp_path / "pictures" / "chair.png").size
    assert width > 3 * 400  # photograph, mask and depth
    assert height > 2 * 400 * 160 / 240  # of two photographs
    figures = describe.statistics(folder_of(built))["train"]
    assert (figures["counts"] > 0.9).all()
    np.testing.assert_allclose(figures["focus"], 0.5, atol=0.03)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--manual_dir=/nowhere/at/all"], "no folder /nowhere/at/all"),
        (["--teacher=scene"], "synthetic scenes only"),
        (["--sharp_maps=maps"], "pairs has masks"),
        (["--pictures=out"], "add --describe"),
        (["--describe", "--dataset=cuhk", "--pictures=out"], "cuhk has none"),
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


def test_all_faults_are_named_in_one_error(tmp_path, capsys):
    scene(tmp_path, near_and_far(0), "good")
    scene(tmp_path, near_and_far(1), "bad")
    (tmp_path / "bad_1.png").write_bytes(b"junk")
    (tmp_path / "bad_2.png").write_bytes(b"")
    as_picture(textured(0)).save(tmp_path / "lone_1.png")
    as_picture(textured(0)).save(tmp_path / "house.png")
    as_picture(textured(0)).save(tmp_path / "good_1.jpg")
    (tmp_path / "test.txt").write_text("good\nnobody\n")
    assert build.main(command(tmp_path, tmp_path / "out")) == 1
    err = capsys.readouterr().err
    lines = err[err.index("error: ") :].strip().splitlines()
    assert "6 problem(s)" in lines[0]
    faults = ("bad_1.png: cannot be", "bad_2.png: empty", "lone_1.png: the only", "house.png: its name has no number")
    for wanted in (*faults, "good_1.png: same name", "nobody: in the test list"):
        assert sum(wanted in line for line in lines) == 1, wanted
    assert not (tmp_path / "out").exists()


def test_a_folder_where_no_scene_gives_masks(tmp_path, capsys):
    scene(tmp_path, [textured(2)] * 2, "wall")
    assert build.main(["--dataset=pairs", f"--manual_dir={tmp_path}", f"--data_dir={tmp_path / 'out'}"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: no scene gives masks")
    assert not (tmp_path / "out").exists()
