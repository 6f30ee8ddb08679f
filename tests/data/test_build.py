import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_benchmark import hashes, mask, write_benchmark, write_pair
from PIL import Image
from tensorflow_datasets.core import constants

from data import build, describe, flags
from jaxdbd.photographs.decoding import ORIENTATION

ROOT = Path(__file__).resolve().parents[2]


def command(raw, data_dir, *more):
    return [
        "--dataset=folder",
        f"--manual_dir={raw}",
        f"--data_dir={data_dir}",
        "--gt_white=focus",
        f"--test_list={raw / 'test.txt'}",
        *more,
    ]


def script(*args, **kwargs):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "data" / "build.py"), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def shards(data_dir):
    return {name: value for name, value in hashes(data_dir).items() if "array_record" in name}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Ten photographs, three of them for testing, and depth maps that follow the masks."""
    folder = tmp_path_factory.mktemp("raw")
    names = write_benchmark(folder, 10)
    (folder / "test.txt").write_text("\n".join(names[:3]))
    (folder / "depth").mkdir()
    for i, name in enumerate(names):
        rng = np.random.default_rng(i)
        depth = mask(i) / 255 + rng.normal(0, 0.3, mask(i).shape)  # what is in focus is mostly near
        np.save(folder / "depth" / f"{Path(name).stem}.npy", depth.astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def built(raw, tmp_path_factory):
    """`raw` with its depth maps, built."""
    data_dir = tmp_path_factory.mktemp("built")
    assert build.main(command(raw, data_dir, f"--teacher=dir:{raw / 'depth'}", "--teacher_polarity=near")) == 0
    return data_dir


def test_what_is_read_back_is_what_was_there(raw, built):
    builder = tfds.builder_from_directory(built / "dbd" / "folder" / "1.0.0")
    assert builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD
    records = {r["id"]: r for split in ("train", "test") for r in builder.as_data_source(split)}
    assert len(records) == 10
    assert {name.decode() if isinstance(name, bytes) else name for name in records} == {
        f"photo{i:02d}" for i in range(10)
    }
    assert len(builder.as_data_source("test")) == 3
    for name, record in records.items():
        i = int(name[-2:])
        np.testing.assert_array_equal(record["image"], np.asarray(Image.open(raw / "image" / f"photo{i:02d}.jpg")))
        np.testing.assert_array_equal(record["mask"][..., 0], mask(i))
        depth = np.load(raw / "depth" / f"photo{i:02d}.npy")
        assert record["depth"].dtype == np.float16
        np.testing.assert_allclose(record["depth"][..., 0], (depth - depth.min()) / np.ptp(depth), atol=1e-3)


def test_metadata_names_teacher_and_source(built):
    metadata = tfds.builder_from_directory(built / "dbd" / "folder" / "1.0.0").info.metadata
    assert metadata["teacher"]["name"] == "dir:depth"
    assert metadata["teacher"]["polarity"] == "near"
    assert metadata["raw"]["masks_white"] == "focus"


def test_rebuild_is_a_no_op_that_says_so(raw, built, capsys):
    before = hashes(built)
    teacher = [f"--teacher=dir:{raw / 'depth'}", "--teacher_polarity=near"]
    assert build.main(command(raw, built, *teacher)) == 0
    assert "built already" in capsys.readouterr().out
    assert build.main(command(raw, built)) == 1
    assert "built with another teacher" in capsys.readouterr().err
    assert build.main(command(raw, built, *teacher, "--num_shards=2")) == 1
    assert "built with another num_shards" in capsys.readouterr().err
    assert hashes(built) == before


@pytest.mark.slow
def test_another_process_builds_the_same_bytes(raw, built, tmp_path):
    process = script(*command(raw, tmp_path, f"--teacher=dir:{raw / 'depth'}", "--teacher_polarity=near"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert hashes(tmp_path) == hashes(built)


def test_overwrite_without_a_teacher_has_no_depth(raw, tmp_path):
    assert build.main(command(raw, tmp_path, f"--teacher=dir:{raw / 'depth'}", "--teacher_polarity=near")) == 0
    assert build.main(command(raw, tmp_path, "--overwrite")) == 0
    record = tfds.builder_from_directory(tmp_path / "dbd" / "folder" / "1.0.0").as_data_source("test")[0]
    assert set(record) == {"id", "image", "mask"}


def test_num_shards(raw, tmp_path):
    assert build.main(command(raw, tmp_path, "--num_shards=3")) == 0
    builder = tfds.builder_from_directory(tmp_path / "dbd" / "folder" / "1.0.0")
    assert builder.info.splits["train"].num_shards == 3
    assert len(builder.as_data_source("train")) == 7


def test_inverted_teacher_shows(raw, tmp_path, capsys):
    assert build.main(command(raw, tmp_path, f"--teacher=dir:{raw / 'depth'}", "--teacher_polarity=far")) == 0
    out = capsys.readouterr().out
    assert "hints at an inverted teacher" in out
    figures = describe.statistics(tmp_path / "dbd" / "folder" / "1.0.0")
    assert figures["train"]["auc"].mean() < 0.1


def test_depth_auc_by_hand():
    depth = np.float16([[0.1, 0.2], [0.3, 0.4]])
    assert describe.depth_auc(depth, np.array([[False, False], [True, True]])) == 1
    # Of the four pairs (in focus, blurred) three are ordered: 0.4 > 0.3, 0.4 > 0.2 and 0.1 < both counts none.
    assert describe.depth_auc(depth, np.array([[True, False], [False, True]])) == 0.5
    assert describe.depth_auc(np.zeros((2, 2), np.float16), np.array([[True, False], [False, True]])) == 0.5
    assert np.isnan(describe.depth_auc(depth, np.ones((2, 2), bool)))


def test_describe(built, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert build.main(["--dataset=folder", f"--data_dir={built}", "--describe", f"--sheet={sheet}"]) == 0
    out = capsys.readouterr().out
    assert "teacher: name dir:depth" in out
    assert "nearness ranks in-focus pixels with AUC" in out
    assert Image.open(sheet).width > 3 * 3 * 200
    figures = describe.statistics(built / "dbd" / "folder" / "1.0.0")
    assert figures["test"]["focus"].mean() == pytest.approx(np.mean([mask(i) / 255 for i in range(3)]), abs=1e-6)
    assert figures["train"]["depth_missing"].sum() == 0
    assert set(figures["train"]["width"]) == {48}


def plant_faults(folder, names):
    """Ten faults, each of another kind or in another file; returns what the error must name."""
    image, gt = folder / "image", folder / "gt"
    stems = [Path(name).stem for name in names]
    (gt / f"{stems[0]}.png").unlink()
    (image / names[1]).unlink()
    Image.open(gt / f"{stems[2]}.png").resize((33, 21)).save(gt / f"{stems[2]}.png")
    content = (image / names[3]).read_bytes()
    (image / names[3]).write_bytes(content[: len(content) // 2])
    (image / names[4]).write_bytes(b"")
    (gt / f"{stems[5]}.png").write_bytes(b"junk")
    (gt / f"{stems[6]}.png").write_bytes(b"")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.open(image / names[7]).save(image / names[7], exif=exif)
    Image.open(image / names[8]).save(image / f"{stems[8]}.png")
    Image.fromarray((np.asarray(Image.open(gt / f"{stems[9]}.png").convert("L")) > 0).astype(np.uint8)).save(
        gt / f"{stems[9]}.png"
    )
    masks = [f"{stems[i]}.png" for i in (1, 5, 6, 9)]
    return [names[0], *names[2:5], names[7], *masks, f"{stems[8]}.png"]


def test_all_faults_are_named_in_one_error_and_nothing_is_written(tmp_path, capsys):
    raw = tmp_path / "raw"
    names = write_benchmark(raw, 14)
    (raw / "test.txt").write_text(names[13])
    wanted = plant_faults(raw, names)
    assert build.main(command(raw, tmp_path / "out")) == 1
    err = capsys.readouterr().err
    lines = err[err.index("error: ") :].strip().splitlines()
    assert "10 problem(s)" in lines[0]
    assert len(lines) == 11
    for name in wanted:
        assert sum(f"/{name}:" in line for line in lines) == 1, name
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--dataset=cuhk"], "needs --manual_dir"),
        (["--dataset=cuhk", "--manual_dir=/nowhere/at/all"], "no folder /nowhere/at/all"),
        (["--dataset=cuhk", "--teacher=scene"], "synthetic scenes only"),
        (["--dataset=cuhk", "--teacher=onnx:/nowhere.onnx"], "no teacher file"),
        (["--dataset=synthetic", "--teacher=magic"], "choose none, scene"),
        (["--dataset=synthetic", "--teacher=dir:x"], "use --teacher=scene"),
        (["--dataset=synthetic", "--train_scenes=0", "--test_scenes=0"], "no scenes"),
        (["--dataset=synthetic", "--num_shards=0"], "--num_shards: 0 is not in [1, 99999]"),
        (["--dataset=synthetic", "--seed=-1"], "--seed: -1 is not in [0, inf)"),
        (["--dataset=synthetic", "--train_scenes=-1"], "--train_scenes: -1 is not in [0, inf)"),
        (["--dataset=synthetic", "--size=63"], "--size: 63 is not in [64, 16384]"),
        (["--dataset=cuhk", "--teacher_std=1,0,1"], "--teacher_std: (1.0, 0.0, 1.0): 0.0 is not in (0, inf)"),
        (["--dataset=cuhk", "--teacher_mean=nan,0,0"], "--teacher_mean: (nan, 0.0, 0.0): nan is not in (-inf, inf)"),
        (["--dataset=cuhk", "--teacher_size=0x8"], "--teacher_size: (0, 8): 0 is not in [1, 16384]"),
        (["--dataset=synthetic", "--textures=/nowhere"], "no photographs"),
        (["--dataset=dut", "--describe"], "build it first"),
    ],
)
def test_mistakes_are_one_line(args, message, tmp_path, capsys):
    assert build.main([*args, f"--data_dir={tmp_path / 'out'}"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_without_a_data_dir_shards_go_where_tfds_keeps_datasets():
    args = flags.parser(None).parse_args(["--dataset=synthetic"])
    assert build.data_folder(args) == Path(constants.DATA_DIR)


def test_failing_teacher_leaves_no_dataset(tmp_path, capsys):
    raw = tmp_path / "raw"
    write_pair(raw, "a.jpg", 1)
    np.save(raw / "a.npy", np.full((4, 4), np.inf))
    args = ["--dataset=folder", f"--manual_dir={raw}", "--gt_white=blur", f"--data_dir={tmp_path / 'out'}"]
    assert build.main([*args, f"--teacher=dir:{raw}", "--teacher_polarity=near"]) == 1
    assert "a: the teacher" in capsys.readouterr().err
    assert not (tmp_path / "out" / "dbd" / "folder" / "1.0.0").exists()


def test_two_builds_at_once(raw, tmp_path, capsys):
    with build.sole_builder(tmp_path / "dbd" / "folder" / "1.0.0"):
        assert build.main(command(raw, tmp_path)) == 1
    assert "another build" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_build_starts_again_to_the_same_shards(raw, tmp_path):
    undisturbed = tmp_path / "whole"
    big = tmp_path / "raw"
    names = write_benchmark(big, 90)
    (big / "test.txt").write_text("\n".join(names[:20]))
    assert build.main(command(big, undisturbed)) == 0
    for attempt, pause in enumerate((0.0, 0.3)):
        data_dir = tmp_path / f"killed{attempt}"
        process = script(*command(big, data_dir), start_new_session=True)
        while not list(data_dir.glob("dbd/folder/incomplete.*")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(pause)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (data_dir / "dbd" / "folder" / "1.0.0").exists()
        assert build.main(command(big, data_dir)) == 0
        assert hashes(data_dir) == hashes(undisturbed)
        assert not list(data_dir.glob("dbd/folder/incomplete.*"))


@pytest.mark.slow
def test_beam_writes_the_same_bytes(raw, built, tmp_path):
    pytest.importorskip("apache_beam", reason="needs the optional extra: pip install 'jaxdbd[beam]'")
    teacher = [f"--teacher=dir:{raw / 'depth'}", "--teacher_polarity=near"]
    assert build.main(command(raw, tmp_path, *teacher, "--beam")) == 0
    assert hashes(tmp_path) == hashes(built)


def test_beam_missing(raw, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    assert build.main(command(raw, tmp_path, "--beam")) == 1
    assert "pip install 'jaxdbd[beam]'" in capsys.readouterr().err


def test_synthetic_with_scene_depth(tmp_path):
    args = ["--dataset=synthetic", "--teacher=scene", "--train_scenes=3", "--test_scenes=2", "--size=64"]
    assert build.main([*args, f"--data_dir={tmp_path}"]) == 0
    folder = tmp_path / "dbd" / "synthetic" / "1.0.0"
    source = tfds.builder_from_directory(folder).as_data_source("train")
    assert len(source) == 3
    assert source[0]["image"].shape == (64, 64, 3)
    assert source[0]["depth"].shape == (64, 64, 1)
    assert json.loads((folder / "metadata.json").read_text())["raw"]["seed"] == 0


@pytest.mark.slow
@pytest.mark.large
def test_real_cuhk_with_fastdepth(shared, tmp_path, capsys):
    teacher = f"--teacher=onnx:{shared / 'weights' / 'fastdepth.onnx'}"
    start = time.time()
    args = ["--dataset=cuhk", f"--manual_dir={shared / 'data' / 'cuhk'}", teacher, f"--data_dir={tmp_path}"]
    assert build.main(args) == 0
    assert time.time() - start < 180
    assert "604 train, 100 test" in capsys.readouterr().out
    figures = describe.statistics(tmp_path / "dbd" / "cuhk" / "1.0.0")
    assert figures["train"]["focus"].mean() == pytest.approx(0.340, abs=0.002)
    assert figures["test"]["auc"].mean() == pytest.approx(0.65, abs=0.02)
