"""A teacher's features: tensors of its graph, on a modest grid, cached, in shards; and what is said of wrong ones."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_benchmark import photograph
from fake_teacher import onnx_teacher
from test_teachers import record

from data import build, teachers
from data.teachers import Settings, onnx_file
from data.teachers import onnx_taps as features
from jaxdbd.errors import UserError

pytest.importorskip("onnx", reason="needs the optional extra: pip install 'jaxdbd[onnx]'")


def settings(path, *names, **more):
    plain = {"polarity": "near", "mean": (0.0,) * 3, "std": (1.0,) * 3}
    return Settings(f"onnx:{path}", features=names, **plain | more)


def blocks(image, side):
    """Means of a photograph's values in [0, 1] over square blocks."""
    h, w, c = image.shape
    return (image / 255).reshape(h // side, side, w // side, side, c).mean(axis=(1, 3))


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_features_are_the_tensors_and_depth_is_the_same_without_them(tmp_path, batch):
    path = onnx_teacher(tmp_path / "m.onnx", batch=batch)
    images = [photograph(i, 16, 16) for i in range(5)]
    records = [record(i, image=image) for i, image in enumerate(images)]
    teacher = teachers.open_teacher(settings(path, "eighth", "half"))
    assert teacher.feature_shapes() == {"features_8": (2, 2, 3), "features_2": (8, 8, 3)}
    assert teacher.identity["features"]["features_8"]["tensor"] == "eighth"
    depths = teachers.nearness(teacher, records, tmp_path / "cache")
    for image, maps in zip(images, teachers.feature_maps(teacher, records, tmp_path / "cache"), strict=True):
        assert {name: array.dtype.name for name, array in maps.items()} == dict.fromkeys(maps, "float16")
        np.testing.assert_allclose(maps["features_8"], blocks(image, 8), atol=1e-3)
        np.testing.assert_allclose(maps["features_2"], blocks(image, 2), atol=1e-3)
    plain = teachers.open_teacher(settings(path))
    assert "features" not in plain.identity
    assert teachers.feature_maps(plain, records, None) == [{}] * 5
    np.testing.assert_array_equal(teachers.nearness(plain, records, None), depths)


def test_the_teacher_runs_once_for_depth_and_features_and_never_for_what_is_cached(tmp_path, monkeypatch):
    path = onnx_teacher(tmp_path / "m.onnx")
    runs, run = [], onnx_file._run
    monkeypatch.setattr(onnx_file, "_run", lambda session, images, *rest: runs.append(1) or run(session, images, *rest))
    records = [record(i) for i in range(4)]
    first = teachers.open_teacher(settings(path, "half"))
    teachers.nearness(first, records[:2], tmp_path / "cache")
    before = teachers.feature_maps(first, records[:2], tmp_path / "cache")
    assert len(runs) == 1
    teachers.open_teacher.cache_clear()  # as another process
    again = teachers.open_teacher(settings(path, "half"))
    teachers.nearness(again, records[:2], tmp_path / "cache")
    after = teachers.feature_maps(again, records[:2], tmp_path / "cache")
    assert len(runs) == 1
    np.testing.assert_array_equal([m["features_2"] for m in before], [m["features_2"] for m in after])
    teachers.feature_maps(again, records, tmp_path / "cache")
    assert len(runs) == 2
    teachers.feature_maps(teachers.open_teacher(settings(path, "eighth")), records, tmp_path / "cache")
    assert len(runs) == 3  # other tensors are another teacher


def test_large_grids_are_averaged_over_blocks(monkeypatch):
    monkeypatch.setattr(features, "MOST_CELLS", 2)
    cells = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], [9.0, 10.0, 11.0, 12.0]])
    # Blocks of 2x2; of the third row, 1x2.
    expected = np.array([[3.5, 5.5], [9.5, 11.5]])
    np.testing.assert_allclose(features.pooled(np.stack([cells, 2 * cells])), np.stack([expected, 2 * expected], -1))
    np.testing.assert_allclose(features.pooled(cells[None, :2, :2])[..., 0], cells[:2, :2])


def test_wrong_tensors_are_one_line(tmp_path):
    path = onnx_teacher(tmp_path / "m.onnx")
    for names, message in [
        (("haIf",), r"no tensor 'haIf' in its graph; some that it has: half, .*eighth.*"),
        (("rows",), r"rows is float32 \[8, 3, 16\], not floats \[batch, channels, height, width\]"),
        (("half", "half_again"), "half and half_again are both at stride 2: leave out one"),
        (("half", "half"), "both at stride 2"),
        (("y",), "y has 16x16 cells for 16x16 pixels, not a stride of 2, 4, 8, 16, 32"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            teachers.open_teacher(settings(path, *names))
        assert "\n" not in str(caught.value)
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(UserError, match=r"text\.onnx: not an ONNX model"):
        teachers.open_teacher(settings(tmp_path / "text.onnx", "half"))
    bright = teachers.open_teacher(settings(path, "half", std=(1e-6,) * 3))
    with pytest.raises(UserError, match=r"photo3: the teacher's half has NaN, or values beyond float16"):
        teachers.feature_maps(bright, [record(3)], None)


def build_scenes(path, data_dir, *flags):
    scenes = ["--dataset=synthetic", "--size=64", "--train_scenes=3", "--test_scenes=1", f"--data_dir={data_dir}"]
    return build.main([*scenes, f"--teacher=onnx:{path}", "--teacher_polarity=near", *flags])


def test_built_into_the_shards_and_told(tmp_path, capsys):
    path = onnx_teacher(tmp_path / "m.onnx", side=32)
    assert build_scenes(path, tmp_path, "--teacher_features=half,eighth") == 0
    builder = tfds.builder_from_directory(tmp_path / "dbd" / "synthetic" / "1.0.0")
    assert builder.info.metadata["teacher"]["features"]["features_2"] == {"tensor": "half", "shape": [16, 16, 3]}
    records = list(builder.as_data_source("train"))
    assert len(records) == 3
    for each in records:
        half, eighth = each["features_2"], each["features_8"]
        assert (half.shape, eighth.shape, half.dtype.name) == ((16, 16, 3), (4, 4, 3), "float16")
        np.testing.assert_allclose(half.reshape(4, 4, 4, 4, 3).mean(axis=(1, 3)), eighth, atol=2e-2)
    capsys.readouterr()
    assert build_scenes(path, tmp_path, "--teacher_features=half,eighth") == 0
    assert "built already" in capsys.readouterr().out
    assert build_scenes(path, tmp_path) == 1
    assert "built with another teacher" in capsys.readouterr().err
    assert build_scenes(path, tmp_path, "--describe", f"--sheet={tmp_path / 'sheet.png'}") == 0
    assert "features_2: half, 16 x 16 x 3" in capsys.readouterr().out


def test_wrong_flags_are_one_line(tmp_path, capsys):
    path = onnx_teacher(tmp_path / "m.onnx", side=32)
    for flags, message in [
        (["--teacher_features=nowhere"], "no tensor 'nowhere' in its graph"),
        (["--teacher=scene", "--teacher_features=half"], "--teacher=scene has none"),
        (["--dataset=refocused", "--teacher_features=half"], "the teacher sees photographs before they blur"),
    ]:
        assert build_scenes(path, tmp_path, *flags) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
