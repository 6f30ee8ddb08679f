"""Crafted files in both of PyTorch's formats, honest and hostile; PyTorch itself is asked where it is installed."""

import io
import pickle
import resource
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxdbd.errors import UserError
from jaxdbd.weights.pth import read_numpy_pickle, read_pth, state_dict


class Raw(bytes):
    """Opcodes that stand in for a value."""


def op(value) -> bytes:
    """The opcodes that push `value`, without the final STOP."""
    match value:
        case Raw():
            return bytes(value)
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"I%d\n" % value
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(op, value)) + b"t"
        case dict():
            return b"}(" + b"".join(op(k) + op(v) for k, v in value.items()) + b"u"
    raise TypeError(type(value))


def named(module: str, name: str) -> Raw:
    return Raw(b"c%s\n%s\n" % (module.encode(), name.encode()))


def call(function: Raw, *args) -> Raw:
    return Raw(function + op(args) + b"R")


def stored(key: str, kind: str, count: int, *view) -> Raw:
    return Raw(op(("storage", named("torch", kind), key, "cpu", count, *view)) + b"Q")


def tensor(storage: Raw, shape: tuple, stride: tuple, offset: int = 0) -> Raw:
    hooks = call(named("collections", "OrderedDict"))
    return call(named("torch._utils", "_rebuild_tensor_v2"), storage, offset, shape, stride, False, hooks)


def pickled(value) -> bytes:
    return b"\x80\x02" + op(value) + b"."


def write_zip(path: Path, tree, storages: dict[str, bytes], byteorder: str | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", pickled(tree))
        if byteorder:
            archive.writestr("net/byteorder", byteorder)
        for key, data in storages.items():
            archive.writestr(f"net/data/{key}", data)
    return path


def write_stream(path: Path, tree, storages: dict[str, np.ndarray], little_endian: bool = True) -> Path:
    machine = {"protocol_version": 1001, "little_endian": little_endian}
    with path.open("wb") as file:
        for head in (0x1950A86A20F9469CFC6C, 1001, machine):
            pickle.dump(head, file, protocol=2)
        file.write(pickled(tree))
        pickle.dump(list(storages), file, protocol=2)
        for data in storages.values():
            file.write(struct.pack("<q", data.size) + data.tobytes())
    return path


MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)


def small(path: Path, zipped: bool, view: tuple = ()) -> Path:
    """Two tensors on one storage of six floats: the matrix, and its second column."""
    view = view if zipped else (Raw(b"N"),)  # the older format notes a storage's view: none
    storage = stored("0", "FloatStorage", 6, *view)
    tree = {"w": tensor(storage, (2, 3), (3, 1)), "column": tensor(storage, (2,), (3,), 1)}
    if zipped:
        return write_zip(path, tree, {"0": MATRIX.tobytes()})
    return write_stream(path, tree, {"0": MATRIX})


@pytest.mark.parametrize("zipped", [True, False])
def test_shared_storages_strides_and_offsets(tmp_path, zipped):
    got = read_pth(small(tmp_path / "a.pth", zipped))
    np.testing.assert_array_equal(got["w"], MATRIX)
    np.testing.assert_array_equal(got["column"], [1, 4])
    assert np.shares_memory(got["w"], got["column"])


def test_transposed_expanded_empty_and_scalar_tensors(tmp_path):
    storage = stored("0", "FloatStorage", 6)
    tree = {
        "transposed": tensor(storage, (3, 2), (1, 3)),
        "expanded": tensor(storage, (4, 2), (0, 1), 2),
        "empty": tensor(storage, (0, 3), (3, 1), 6),
        "scalar": tensor(storage, (), (), 5),
    }
    got = read_pth(write_zip(tmp_path / "a.pth", tree, {"0": MATRIX.tobytes()}))
    np.testing.assert_array_equal(got["transposed"], MATRIX.T)
    np.testing.assert_array_equal(got["expanded"], [[2, 3]] * 4)
    assert got["empty"].shape == (0, 3)
    assert got["scalar"].shape == ()
    assert got["scalar"] == 5


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("HalfStorage", np.float16),
        ("FloatStorage", np.float32),
        ("DoubleStorage", np.float64),
        ("BFloat16Storage", ml_dtypes.bfloat16),
        ("CharStorage", np.int8),
        ("ByteStorage", np.uint8),
        ("ShortStorage", np.int16),
        ("IntStorage", np.int32),
        ("LongStorage", np.int64),
        ("BoolStorage", np.bool_),
    ],
)
def test_every_dtype_in_both_formats_and_byte_orders(tmp_path, kind, dtype):
    values = np.array([0, 1, 2, 100]).astype(dtype)
    tree = {"t": tensor(stored("k", kind, 4), (4,), (1,))}
    swapped = values.view(f"u{values.itemsize}").byteswap().tobytes()
    for got in (
        read_pth(write_stream(tmp_path / "s.pth", tree, {"k": values})),
        read_pth(write_zip(tmp_path / "l.pth", tree, {"k": values.tobytes()})),
        read_pth(write_zip(tmp_path / "ll.pth", tree, {"k": values.tobytes()}, "little")),
        read_pth(write_zip(tmp_path / "b.pth", tree, {"k": swapped}, "big")),
    ):
        assert got["t"].dtype == dtype
        np.testing.assert_array_equal(got["t"], values)


def test_byte_orders_beyond_checking_are_refused(tmp_path):
    tree = {"t": tensor(stored("k", "FloatStorage", 6), (6,), (1,))}
    with pytest.raises(UserError, match="byte order"):
        read_pth(write_zip(tmp_path / "a.pth", tree, {"k": MATRIX.tobytes()}, "middle"))
    with pytest.raises(UserError, match="not marked little-endian"):
        read_pth(write_stream(tmp_path / "b.pth", tree, {"k": MATRIX}, little_endian=False))


def test_a_checkpoint_around_the_state_dict(tmp_path):
    scalar = call(
        named("numpy.core.multiarray", "scalar"),
        Raw(call(named("numpy", "dtype"), "f8", False, True) + op((3, "<", *[Raw(b"N")] * 3, -1, -1, 0)) + b"b"),
        call(named("_codecs", "encode"), np.float64(0.25).tobytes().decode("latin1"), "latin1"),
    )
    weight = tensor(stored("0", "FloatStorage", 6), (2, 3), (3, 1))
    parameter = call(named("torch._utils", "_rebuild_parameter"), weight, True, Raw(b"N"))
    tree = {"epoch": 3, "best": scalar, "state_dict": {"module.w": parameter, "module.note": "no tensor"}}
    got = read_pth(write_zip(tmp_path / "a.pth", tree, {"0": MATRIX.tobytes()}))
    assert list(got) == ["w"]
    np.testing.assert_array_equal(got["w"], MATRIX)


def test_state_dict_looks_where_checkpoints_keep_it():
    for key in ("state_dict", "model", "net"):
        assert list(state_dict({"epoch": 1, key: {"module.a": MATRIX}}, "f")) == ["a"]
    assert list(state_dict({"model": {"state_dict": {"a": MATRIX}}}, "f")) == ["a"]
    endless: dict = {}
    endless["model"] = endless
    for tree in (endless, {}, [MATRIX], {"a": 1}):
        with pytest.raises(UserError, match="no state dict"):
            state_dict(tree, "f")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model.", "module.", "module._orig_mod.", "model._orig_mod.", "net."])
def test_what_wraps_a_network_is_taken_off_its_names(prefix):
    assert list(state_dict({f"{prefix}fusion.bias": MATRIX, f"{prefix}model.w": MATRIX}, "f")) == [
        "fusion.bias",
        "model.w",
    ]
    assert list(state_dict({"encoder._orig_mod.w": MATRIX, "other": MATRIX}, "f")) == ["encoder.w", "other"]
    assert list(state_dict({"model.w": MATRIX, "loss.w": MATRIX}, "f")) == ["model.w", "loss.w"]


# --- Hostile files ---


def test_whole_networks_and_trainers_checkpoints_say_how_to_get_at_the_tensors(tmp_path):
    for module, name, remedy in (
        ("torch.nn.modules.conv", "Conv2d", r"torch\.save\(model\.state_dict\(\), OUT\)"),
        ("__main__", "Net", r"torch\.save\(model\.state_dict\(\), OUT\)"),
        ("pytorch_lightning.callbacks", "ModelCheckpoint", r"\['state_dict'\], OUT\)"),
        ("argparse", "Namespace", r"\['state_dict'\], OUT\)"),
    ):
        path = write_zip(tmp_path / "a.pth", {"w": call(named(module, name))}, {})
        with pytest.raises(UserError, match=rf"asks for {module}\.{name}.*{remedy}") as caught:
            read_pth(path)
        assert "\n" not in str(caught.value)


def test_numbers_in_a_pickle_do_not_fill_the_memory(tmp_path):
    for bomb in (b"r\xff\xff\xff\x6f", b"\x96" + struct.pack("<Q", 1 << 33), b"\x8d" + struct.pack("<Q", 1 << 40)):
        path = tmp_path / "a.pth"
        path.write_bytes(b"\x80\x02N" + bomb + b".")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError):
            read_pth(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19  # kB


def test_a_file_that_unpacks_to_far_more_than_it_is(tmp_path):
    path = write_zip(tmp_path / "a.pth", {"w": tensor(stored("0", "FloatStorage", 6), (6,), (1,))}, {})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data/0", bytes(1 << 26))
    with pytest.raises(UserError, match="unpack to far more"):
        read_pth(path)


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("subprocess", "Popen"), ("torch", "load")],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_a_command_is_refused_and_runs_nothing(tmp_path, zipped, module, name):
    proof = tmp_path / "proof"
    tree = {"w": call(named(module, name), f"touch {proof}")}
    path = tmp_path / "a.pth"
    write_zip(path, tree, {}) if zipped else write_stream(path, tree, {})
    with pytest.raises(UserError, match=f"refused: it asks for {module}.{name}") as caught:
        read_pth(path)
    assert "\n" not in str(caught.value)
    assert not proof.exists()


def test_a_dotted_or_broken_name_is_refused_in_one_line(tmp_path):
    # Protocol 4 finds its global by two strings, which may hold anything.
    for module, name in (("torch._utils", "_rebuild_tensor_v2.__globals__"), ("collections", "OrderedDict\nx\x1b[2J")):
        path = write_zip(tmp_path / "a.pth", {"w": Raw(op(module) + op(name) + b"\x93")}, {})
        with pytest.raises(UserError, match="refused") as caught:
            read_pth(path)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "hostile",
    [
        Raw(named("collections", "OrderedDict") + b"}" + op((Raw(b"N"), {"__doc__": "x"})) + b"b"),
        Raw(named("torch._utils", "_rebuild_tensor_v2") + op((Raw(b"N"), {"_call": 1})) + b"b"),
        call(named("torch", "FloatStorage"), 3),
        call(named("numpy", "ndarray"), 3),
        call(named("numpy", "dtype"), "O", False, True),
        call(named("_codecs", "encode"), "x", "zlib"),
        Raw(op(("module", named("torch", "FloatStorage"), "0", "cpu", 6)) + b"Q"),
    ],
)
def test_admitted_names_cannot_be_misused(tmp_path, hostile):
    with pytest.raises(UserError, match="damaged"):
        read_pth(write_zip(tmp_path / "a.pth", {"w": hostile}, {}))
    # and nothing of it stays behind
    assert read_pth(small(tmp_path / "b.pth", True))["w"].shape == (2, 3)


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((7,), (1,), 0),
        ((6,), (1,), 1),
        ((2, 3), (4, 1), 0),
        ((1,), (1,), 6),
        ((2,), (-1,), 3),
        ((1,), (1,), -1),
        ((2**40,), (2**40,), 0),
        ((2, 3), (1,), 0),
        ((True,), (1,), 0),
        ((1,) * 70, (1,) * 70, 0),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_no_tensor_reaches_beyond_its_storage(tmp_path, zipped, shape, stride, offset):
    tree = {"w": tensor(stored("0", "FloatStorage", 6), shape, stride, offset)}
    path = tmp_path / "a.pth"
    write_zip(path, tree, {"0": MATRIX.tobytes()}) if zipped else write_stream(path, tree, {"0": MATRIX})
    with pytest.raises(UserError, match="damaged"):
        read_pth(path)


def test_storages_of_another_size_than_stated(tmp_path):
    for count in (5, 7, 2**40):
        tree = {"w": tensor(stored("0", "FloatStorage", count), (2, 3), (3, 1))}
        with pytest.raises(UserError, match="damaged"):
            read_pth(write_zip(tmp_path / "a.pth", tree, {"0": MATRIX.tobytes()}))
        with pytest.raises(UserError, match="damaged"):
            read_pth(write_stream(tmp_path / "b.pth", tree, {"0": MATRIX}))
    tree = {
        "a": tensor(stored("0", "FloatStorage", 6), (6,), (1,)),
        "b": tensor(stored("0", "IntStorage", 6), (6,), (1,)),
    }
    with pytest.raises(UserError, match="two types"):
        read_pth(write_zip(tmp_path / "a.pth", tree, {"0": MATRIX.tobytes()}))


def test_files_that_are_not_checkpoints(tmp_path):
    path = tmp_path / "a.pth"
    with pytest.raises(UserError, match="no such file"):
        read_pth(path)
    with pytest.raises(UserError, match="no such file"):
        read_pth(tmp_path)
    buffer = io.BytesIO()
    np.savez(buffer, a=MATRIX)
    for content, message in (
        (b"", "empty"),
        (b"a text\n", "not a PyTorch file"),
        (b"<!DOCTYPE html><html>404</html>", "not a PyTorch file"),
        (buffer.getvalue(), "no data.pkl"),
        (pickle.dumps({"a": 1}), "no magic number"),
        (pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(7), "unknown version"),
        (b"PK\x03\x04", "damaged"),
        (b"\x80", "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            read_pth(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_and_corrupted_files_never_fail_otherwise(tmp_path, zipped):
    whole = small(tmp_path / "a.pth", zipped).read_bytes()
    path = tmp_path / "b.pth"
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError):
            read_pth(path)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(600):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_pth(path)
            outcomes.add("read")
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


# --- NumPy's pickles ---


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_numpy_pickles(tmp_path, protocol):
    path = tmp_path / "a.ckpt"
    tree = {"a": {"b": MATRIX, "f": np.asfortranarray(MATRIX), "big": MATRIX.astype(">f4"), "n": 3}}
    path.write_bytes(pickle.dumps(tree, protocol=protocol))
    got = read_numpy_pickle(path)["a"]
    for name in ("b", "f", "big"):
        np.testing.assert_array_equal(got[name], MATRIX)
    assert got["n"] == 3
    path.write_bytes(pickle.dumps({"a": np.array([print])}, protocol=protocol))
    with pytest.raises(UserError, match="not a numeric dtype"):
        read_numpy_pickle(path)


# --- PyTorch itself ---


@pytest.mark.parametrize("zipped", [True, False])
def test_agrees_with_pytorch(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, which is the normal case")
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(2, 3))
    tensors = dict(net.state_dict())
    tensors |= {"base": base, "view": base[1:, ::2], "transposed": base.T, "expanded": base[0].expand(3, 6)}
    tensors |= {str(dtype): base.to(dtype) for dtype in (torch.float16, torch.float64, torch.bfloat16, torch.int16)}
    tensors |= {str(dtype): (base > 0).to(dtype) for dtype in (torch.bool, torch.uint8, torch.int8, torch.int32)}
    tensors["parameter"] = torch.nn.Parameter(base)
    tensors["empty"] = torch.zeros(0, 3)
    path = tmp_path / "a.pth"
    checkpoint = {"epoch": 1, "best": np.float64(0.5), "state_dict": tensors, "optimizer": {"state": [(base * 2,)]}}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    got = read_pth(path)
    assert got.keys() == tensors.keys()
    for name, value in tensors.items():
        expected = value.detach()
        assert got[name].shape == tuple(expected.shape)
        assert str(got[name].dtype) == str(expected.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(got[name].astype(np.float64), expected.double().numpy())
