"""ONNX teachers as people export them: other types, several inputs and outputs, outputs that are no maps."""

import io

import numpy as np
import pytest
from fake_benchmark import photograph
from PIL import Image

from data import build, teachers
from data.teachers import Settings
from data.teachers.onnx_file import as_maps
from jaxdbd.errors import UserError

onnx = pytest.importorskip("onnx", reason="needs the optional extra: pip install 'jaxdbd[onnx]'")
FLOAT, FLOAT16, UINT8, DOUBLE, INT32 = (
    getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "UINT8", "DOUBLE", "INT32")
)
node = onnx.helper.make_node


def model(path, nodes, outputs, inputs=None, kind=FLOAT):
    """Writes a model of one input `x` [n, 3, 16, 16], or several `inputs`; `outputs` has the shape of each by name."""
    info = onnx.helper.make_tensor_value_info
    given = [info(name, kind, ["n", 3, 16, 16]) for name in inputs or ["x"]]
    wanted = [info(name, of, shape) for name, (of, shape) in outputs.items()]
    graph = onnx.helper.make_graph(nodes, "g", given, wanted)
    opset = [onnx.helper.make_opsetid("", 13)]
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())
    return path


def mean_of(source, target="y"):
    return node("ReduceMean", [source], [target], axes=[1])


MAP = ["n", 1, 16, 16]


def cast_to_float(name="f"):
    return node("Cast", ["x"], [name], to=FLOAT)


@pytest.fixture
def record():
    image = photograph(1, 16, 16)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return {"id": "a", "image": buffer.getvalue(), "key": "a"}


def depth_of(path, record, **settings):
    teacher = teachers.open_teacher(Settings(f"onnx:{path}", polarity="near", **settings))
    return teacher, teacher.raw([record, record, record])[0]


@pytest.mark.parametrize("kind", [FLOAT, FLOAT16, DOUBLE])
def test_floats_of_any_size_get_the_normalized_photograph(tmp_path, record, kind):
    path = model(tmp_path / "t.onnx", [mean_of("x")], {"y": (kind, MAP)}, kind=kind)
    teacher, depth = depth_of(path, record, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.25))
    expected = ((photograph(1, 16, 16) / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.4, 0.25]).mean(-1)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, expected, atol=2e-3 if kind == FLOAT16 else 1e-5)
    assert teacher.identity["std"] == [0.5, 0.4, 0.25]


def test_bytes_are_fed_as_they_are_unless_the_user_says_otherwise(tmp_path, record):
    nodes = [cast_to_float(), mean_of("f")]
    path = model(tmp_path / "t.onnx", nodes, {"y": (FLOAT, MAP)}, kind=UINT8)
    teacher, depth = depth_of(path, record)
    np.testing.assert_allclose(depth, photograph(1, 16, 16).mean(-1), atol=1e-4)
    assert teacher.identity["mean"] == [0, 0, 0]
    # A preset whose network takes floats says nothing of this one; the user's own numbers do, cut to what bytes hold.
    np.testing.assert_allclose(depth_of(path, record, preset="midas", size=(16, 16))[1], depth)
    halved = depth_of(path, record, mean=(0.5,) * 3, std=(1 / 255,) * 3)[1]
    expected = np.rint(photograph(1, 16, 16).astype(np.float64) - 127.5).clip(0, 255).mean(-1)
    np.testing.assert_allclose(halved, expected, atol=1.01)  # halves go either way


def test_an_output_is_chosen_by_name(tmp_path, record):
    nodes = [node("ReduceMean", ["x"], ["class"], axes=[2, 3], keepdims=0), mean_of("x", "depth")]
    outputs = {"class": (FLOAT, ["n", 3]), "depth": (FLOAT, MAP)}
    path = model(tmp_path / "t.onnx", nodes, outputs)
    line = r"its output class is float32 \[8, 3\], no map .*: name another with --teacher_output \(depth\)$"
    with pytest.raises(UserError, match=line):
        depth_of(path, record)
    teacher, depth = depth_of(path, record, output="depth", mean=(0.0,) * 3, std=(1.0,) * 3)
    np.testing.assert_allclose(depth, photograph(1, 16, 16).mean(-1) / 255, atol=1e-6)
    assert teacher.identity["output"] == "depth"  # another cache, and another dataset
    with pytest.raises(
        UserError, match=r"^--teacher_output=nearness: t.onnx has no such output; there are class, depth$"
    ):
        depth_of(path, record, output="nearness")


def test_features_go_with_a_chosen_output(tmp_path, record):
    half = node("AveragePool", ["x"], ["half"], kernel_shape=[2, 2], strides=[2, 2])
    nodes = [half, node("ReduceMean", ["x"], ["class"], axes=[2, 3], keepdims=0), mean_of("x", "depth")]
    path = model(tmp_path / "t.onnx", nodes, {"class": (FLOAT, ["n", 3]), "depth": (FLOAT, MAP)})
    teacher, depth = depth_of(path, record, output="depth", features=("half",))
    assert depth.shape == (16, 16)
    (maps,) = teachers.feature_maps(teacher, [record], None)
    assert maps["features_2"].shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("build_it", "message"),
    [
        (
            lambda path: model(path, [node("Add", ["x", "k"], ["s"]), mean_of("s")], {"y": (FLOAT, MAP)}, ["x", "k"]),
            r"it has 2 inputs \(x, k\); a teacher takes a photograph and no more$",
        ),
        (
            lambda path: model(path, [node("Slice", ["x"], ["y"])], {"y": (FLOAT, MAP)}),
            "not a model ONNX Runtime can open",
        ),
        (
            lambda path: model(path, [cast_to_float(), mean_of("f")], {"y": (FLOAT, MAP)}, kind=INT32),
            r"its input is a tensor\(int32\); what can be fed is tensor\(float\), ",
        ),
        (
            lambda path: model(path, [node("Identity", ["x"], ["y"])], {"y": (FLOAT, ["n", 3, 16, 16])}),
            r"its output y is float32 \[8, 3, 16, 16\], no map of one value for each pixel: take another network$",
        ),
        (
            lambda path: model(path, [node("ReduceMean", ["x"], ["y"])], {"y": (FLOAT, [1, 1, 1, 1])}),
            r"its output y is float32 \[1, 1, 1, 1\], no map",
        ),
        (
            lambda path: model(
                path, [node("IsNaN", ["x"], ["b"]), mean_of("x")], {"b": (onnx.TensorProto.BOOL, ["n", 3, 16, 16])}
            ),
            r"its output b is bool \[8, 3, 16, 16\], no map",
        ),
    ],
    ids=["two inputs", "cannot be opened", "integers", "three channels", "one number", "truth values"],
)
def test_what_is_no_teacher_is_one_line(tmp_path, build_it, message):
    with pytest.raises(UserError, match=message) as caught:
        teachers.open_teacher(Settings(f"onnx:{build_it(tmp_path / 't.onnx')}", polarity="near"))
    assert "\n" not in str(caught.value)


def test_maps_in_every_layout():
    for shape in ((2, 1, 3, 4), (2, 3, 4, 1), (2, 3, 4)):
        assert as_maps(np.zeros(shape, np.float16), 2).shape == (2, 3, 4)
    assert as_maps(np.zeros((3, 4), np.uint8), 1).shape == (1, 3, 4)
    for odd in (np.zeros((3, 4)), np.zeros((2, 2, 3, 4)), np.zeros((1, 3, 4)), np.zeros((2, 3, 4), bool), [1], "a"):
        assert as_maps(odd, 2) is None


def test_the_flag_reaches_the_teacher(tmp_path, capsys):
    nodes = [node("ReduceMean", ["x"], ["class"], axes=[2, 3], keepdims=0), mean_of("x", "depth")]
    path = model(tmp_path / "t.onnx", nodes, {"class": (FLOAT, ["n", 3]), "depth": (FLOAT, MAP)})
    flags = ["--dataset=synthetic", "--train_scenes=2", "--test_scenes=0", "--size=64", "--teacher_polarity=near"]
    flags += [f"--teacher=onnx:{path}", f"--data_dir={tmp_path / 'd'}"]
    assert build.main(flags) == 1
    assert "name another with --teacher_output (depth)" in capsys.readouterr().err
    assert build.main([*flags, "--teacher_output=depth"]) == 0
    assert build.main(["--dataset=synthetic", "--teacher=scene", "--teacher_output=depth"]) == 1
    assert "--teacher_output is one of an ONNX file: --teacher=scene has none" in capsys.readouterr().err
