"""`data/build.py --dataset=refocused`: from a folder of photographs to shards."""

import json
import pickle
from functools import partial

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_benchmark import decoded, hashes
from fake_benchmark import photograph as smooth
from PIL import Image

from data import build, finding, refocus, teachers


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
    assert hashes(tmp_path, "refocused") == hashes(built, "refocused")


@pytest.mark.slow
def test_processes_and_beam_build_the_same_bytes(raw, built, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdbd.machine.parallel.WORTHWHILE", 0)
    assert build.main(command(raw, tmp_path / "processes")) == 0
    assert hashes(tmp_path / "processes", "refocused") == hashes(built, "refocused")
    pytest.importorskip("apache_beam", reason="needs the optional extra: pip install 'jaxdbd[beam]'")
    assert build.main(command(raw, tmp_path / "beam", "--beam")) == 0
    assert hashes(tmp_path / "beam", "refocused") == hashes(built, "refocused")


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
        (["--renderings=0"], "--renderings: 0 is not in [1, inf)"),
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

    splits, _ = finding.find_photographs(raw, raw / "test.txt")
    teacher = teachers.Settings(f"dir:{raw / 'depth'}", polarity="near")
    work = partial(dbd_dataset.make_examples, load=refocus.load, teacher=teacher, cache=tmp_path, make=refocus.render)
    items = refocus.scenes(splits, 2, 0)["test"]
    work, items = pickle.loads(pickle.dumps((work, items)))
    made = dict(work(items))
    for r in tfds.builder_from_directory(folder_of(built)).as_data_source("test"):
        example = made[r["id"].decode() if isinstance(r["id"], bytes) else r["id"]]
        np.testing.assert_array_equal(r["image"], decoded(example["image"]))
        np.testing.assert_array_equal(r["valid"][..., 0], decoded(example["valid"]))
