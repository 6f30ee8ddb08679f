"""Pointers of Git LFS in the place of every kind of file that is read: the line names LFS and how to get the file."""

import shutil

import numpy as np
import pytest
from fake_benchmark import write_benchmark
from odd_files import half, ramp, save, tiny_weights

from data import build, teachers
from data.teachers import Settings
from jaxdbd import weights
from jaxdbd.__main__ import main
from jaxdbd.errors import UserError
from jaxdbd.input.records import open_split
from jaxdbd.machine.files import read_names
from jaxdbd.photographs.masks import read_map, read_mask
from jaxdbd.photographs.photos import SUFFIXES, read_photograph

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n"
LINE = "{}: a pointer of Git LFS in place of the file: fetch that with `git lfs pull`"


def pointer(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(POINTER)
    return path


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("w.safetensors", weights.load),
        ("w.safetensors", weights.read_metadata),
        ("w.pth", weights.read_tensors),
        ("w.npz", weights.read_tensors),
        ("a.jpg", read_photograph),
        ("a.png", read_mask),
        ("a.heic", read_map),
        ("names.txt", lambda path: read_names(path, SUFFIXES)),
        ("t.onnx", lambda path: teachers.open_teacher(Settings(f"onnx:{path}", polarity="near"))),
    ],
)
def test_a_pointer_is_named(tmp_path, name, read):
    path = pointer(tmp_path / name)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value) == LINE.format(path)


@pytest.mark.parametrize("suffix", [".npy", ".png", ".pfm", ".exr"])
def test_a_depth_map_is_named(tmp_path, suffix):
    path = pointer(tmp_path / f"a{suffix}")
    teacher = teachers.open_teacher(Settings(f"dir:{tmp_path}", polarity="near"))
    with pytest.raises(UserError) as caught:
        teachers.nearness(teacher, [{"id": "a", "path": tmp_path / "a.jpg"}], None)
    assert str(caught.value) == LINE.format(path)


def test_commands_name_it(tmp_path, capsys):
    file, run = pointer(tmp_path / "w.safetensors"), pointer(tmp_path / "results.json")
    photo = pointer(save(tmp_path / "in" / "a.png", ramp()))
    own = tiny_weights(tmp_path)
    convert = ["convert", str(file), "--arch=vgg16", f"--out={tmp_path / 'x.safetensors'}"]
    predict = ["predict", str(photo), f"--out={tmp_path / 'out'}", f"--weights={own}"]
    for flags, path in ((convert, file), (["compare", str(run)], run), (predict, photo)):
        assert main(flags) == 1
        assert f"error: {LINE.format(path)}" in capsys.readouterr().err


def test_build_and_score_name_it(tmp_path, capsys):
    write_benchmark(tmp_path / "raw", 3)
    paths = [pointer(tmp_path / "raw" / name) for name in ("image/photo00.jpg", "gt/photo01.png")]
    flags = ["--dataset=folder", "--gt_white=focus", f"--manual_dir={tmp_path / 'raw'}", f"--data_dir={tmp_path / 'd'}"]
    assert build.main(flags) == 1
    told = capsys.readouterr().err
    assert all(LINE.format(path) in told for path in paths)
    gt, pred = tmp_path / "score" / "gt" / "a.png", tmp_path / "score" / "pred" / "a.png"
    save(gt, half())
    pointer(pred)
    assert main(["score", f"--pred={pred.parent}", f"--gt={gt.parent}", "--gt_white=focus"]) == 1
    assert LINE.format(pred) in capsys.readouterr().err


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    flags = ["--dataset=synthetic", "--size=64", "--train_scenes=4", "--test_scenes=2"]
    assert build.main([*flags, f"--data_dir={folder}"]) == 0
    return folder


@pytest.mark.parametrize(
    "pattern", ["*-train.array_record*", "*-test.array_record*", "dataset_info.json", "features.json"]
)
def test_shards_and_what_a_dataset_says_of_itself(scenes, tmp_path, pattern):
    folder = shutil.copytree(scenes, tmp_path / "d")
    path = pointer(next(folder.rglob(pattern)))
    with pytest.raises(UserError) as caught:
        open_split("dbd/synthetic", "train", folder)
    assert str(caught.value) == LINE.format(path)


def test_what_only_mentions_lfs_is_read(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12.0).reshape(3, 4))
    (tmp_path / "names.txt").write_text("version\nb.jpg\n")
    assert list(read_names(tmp_path / "names.txt", SUFFIXES)) == ["version", "b"]
