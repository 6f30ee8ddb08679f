"""What a file's arrays may hold: numbers of any type, no NaN; and the same bytes for the same weights."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from drawn_network import drawn
from flax.traverse_util import flatten_dict, unflatten_dict
from odd_files import one_line, ramp, save, tiny_weights

from jaxdbd import weights
from jaxdbd.__main__ import main
from jaxdbd.commands.convert import from_official
from jaxdbd.errors import UserError
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.training.loop import initial_variables

TINY = DepthDistilledDBD("lite0", widths=(8,) * 5, full_resolution=False, srfb="none", sab=False, size=64)
NOTES = {"dataset": "dbd/cuhk", "license": "research only"}


def rewritten(path, change):
    """The weights file with `change` applied to its arrays, as a foreign program might write them."""
    with safetensors.safe_open(path, "numpy") as file:
        notes = file.metadata()
    arrays = change(safetensors.numpy.load_file(path))
    path.write_bytes(safetensors.numpy.save(arrays, notes))
    return path


def with_value(value, name="params/fuse_focus/bias"):
    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name].flat[0] = value
        return arrays

    return change


@pytest.fixture(params=[np.nan, np.inf])
def bad(tmp_path, request):
    return rewritten(tiny_weights(tmp_path), with_value(request.param))


def test_weights_with_nan_are_one_line(bad):
    with pytest.raises(
        UserError, match=r"1 of its \d+ arrays cannot be used, params/fuse_focus/bias holds NaN"
    ) as caught:
        weights.load(bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["predict", "export", "evaluate", "benchmark", "app"])
def test_every_command_refuses_weights_with_nan(command, bad, tmp_path, capsys):
    if command == "app":
        pytest.importorskip("nicegui", reason="needs nicegui: pip install 'jaxdbd[app]'")
    save(tmp_path / "in" / "a.png", ramp())
    flags = {
        "predict": [str(tmp_path / "in"), f"--out={tmp_path / 'out'}"],
        "export": [f"--out={tmp_path / 'x.onnx'}"],
        "evaluate": ["--dataset=dbd/cuhk"],
    }
    assert main([command, f"--weights={bad}", *flags.get(command, [])]) == 1
    one_line(capsys.readouterr().err, "holds NaN or infinity", str(bad))


def test_a_training_starts_from_no_nan(bad):
    with pytest.raises(UserError, match="holds NaN or infinity"):
        initial_variables(TINY, 0, "", str(bad))
    rewritten(bad, with_value(np.nan, "params/encoder/stem/conv/kernel"))
    with pytest.raises(UserError, match="holds NaN or infinity"):
        weights.init_encoder(drawn(TINY), "lite0", str(bad))


def test_nothing_with_nan_is_saved(tmp_path):
    variables = unflatten_dict(with_value(np.nan)(flatten_dict(drawn(TINY), sep="/")), sep="/")
    with pytest.raises(UserError, match="holds NaN"):
        weights.save(tmp_path / "w.safetensors", TINY, variables, **NOTES)
    large = unflatten_dict(with_value(1e6)(flatten_dict(drawn(TINY), sep="/")), sep="/")
    with pytest.raises(UserError, match="holds NaN or infinity"):  # float16 ends at 65504
        weights.save(tmp_path / "w.safetensors", TINY, large, dtype=np.float16, **NOTES)
    assert not list(tmp_path.iterdir())


def test_convert_names_the_tensor_with_nan():
    from jaxdbd.weights.torch_names import from_torch

    flat = {"params/a/conv/kernel": np.zeros((1, 1, 2, 3)), "params/b/conv/bias": np.zeros(3)}
    tensors = {"x.weight": np.full((3, 2, 1, 1), np.nan, np.float32), "y.bias": np.zeros(3, "V2")}
    names = {"a/conv": ("x",), "b/conv": ("y",)}
    with pytest.raises(UserError, match=r"F: .*: x.weight holds NaN or infinity; y.bias is of type \|V2$"):
        from_torch(flat, tensors, names, "F")
    with pytest.raises(UserError, match="is missing"):
        from_official("vgg16", {}, "F")


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_weights_of_other_types_are_read_as_float32(tmp_path, dtype):
    path = tiny_weights(tmp_path)
    before = safetensors.numpy.load_file(path)
    rewritten(path, lambda arrays: {name: array.astype(dtype) for name, array in arrays.items()})
    _, variables = weights.load(path)
    for name, array in flatten_dict(variables, sep="/").items():
        assert np.asarray(array).dtype == np.float32
        np.testing.assert_array_equal(array, before[name].astype(dtype).astype(np.float32))
    encoder = weights.init_encoder(jax.tree.map(np.zeros_like, drawn(TINY)), "lite0", str(path))["params"]["encoder"]
    np.testing.assert_array_equal(
        encoder["stem"]["conv"]["kernel"], variables["params"]["encoder"]["stem"]["conv"]["kernel"]
    )


def test_the_same_weights_are_the_same_bytes(tmp_path):
    variables = drawn(TINY)
    turned = {kind: dict(reversed(list(tree.items()))) for kind, tree in reversed(list(variables.items()))}
    files = []
    for i, given in enumerate([variables, turned] * 4):
        weights.save(tmp_path / f"{i}", TINY, given, threshold=0.4, **NOTES | {"license": '©, "free" \\ to\nuse'})
        files.append((tmp_path / f"{i}").read_bytes())
    assert len(set(files)) == 1
    length = int.from_bytes(files[0][:8], "little")
    header = json.loads(files[0][8 : 8 + length])
    assert list(header["__metadata__"]) == ["config", "dataset", "license", "threshold"]
    names = [name for name in header if name != "__metadata__"]
    assert names == sorted(names)
    assert length % 8 == 0
    # The library itself reads it, and finds what was saved.
    (tmp_path / "w.safetensors").write_bytes(files[0])
    assert weights.read_metadata(tmp_path / "w.safetensors").license == '©, "free" \\ to\nuse'
    model, loaded = weights.load(tmp_path / "w.safetensors")
    assert model == dataclasses.replace(TINY)
    for name, array in flatten_dict(variables, sep="/").items():
        np.testing.assert_array_equal(flatten_dict(loaded, sep="/")[name], array)
