"""The authors' networks: names, layouts, and the numbers their released code computes."""

import argparse
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from odd_files import one_line, small_disk  # noqa: F401

from jaxdbd import weights
from jaxdbd.__main__ import main
from jaxdbd.commands import convert
from jaxdbd.errors import UserError
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.weights.torch_names import (
    LEAVES,
    decoder_names,
    encoder_names,
    from_torch,
    module_of,
    resnext_names,
    vgg_names,
)

PARAMETERS = {"vgg16": 19_436_634, "vgg19": 24_746_330, "resnext101": 84_468_186}  # the paper's three networks


def made_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of the reference network: the rule of the reference folder's README."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.array(1, np.int64)
    if name.endswith("running_mean"):
        value = rng.normal(0, 0.1, shape)
    elif name.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) >= 2:
        value = rng.normal(0, 1, shape) * np.sqrt(1.5 / np.prod(shape[1:]))
    elif name.endswith("weight"):
        value = rng.uniform(0.5, 1.0, shape)
    else:
        value = rng.normal(0, 0.05, shape)
    return value.astype(np.float32)


def official_shapes(shared, arch: str) -> dict[str, tuple[int, ...]]:
    lines = (shared / "reference" / f"official_{arch}_keys.txt").read_text().split("\n")
    pairs = [line.split() for line in lines if line]
    return {name: () if shape == "scalar" else tuple(map(int, shape.split("x"))) for name, shape in pairs}


def modules(arch: str) -> dict[str, Any]:
    return flatten_dict(weights.shapes(DepthDistilledDBD(encoder=arch)), sep="/")


def their_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """PyTorch's shape of a tensor of ours: OIHW, and a convolution unless it is one of the SRFB's dense layers."""
    *kernel, out = shape
    if not kernel or ".sk.fc" in name:
        return (out, *kernel)
    return (out, *kernel[2:], *kernel[:2]) if len(kernel) == 3 else (out, *kernel, 1, 1)


@pytest.fixture(scope="module")
def vgg16_official() -> dict[str, np.ndarray]:
    """A state dict of the authors' VGG16: names by the tables (checked below against the authors' lists)."""
    flat = modules("vgg16")
    names = decoder_names() | {
        f"encoder/{o}": (f"pretrained_net.{t}",) for o, (t,) in vgg_names((2, 2, 3, 3, 3)).items()
    }
    tensors = {}
    for path, leaf in flat.items():
        *kernel, out = leaf.shape
        for prefix in names[module_of(path)]:
            name = f"{prefix}.{LEAVES[path.rpartition('/')[2]]}"
            shape = their_shape(name, (*kernel, out // len(names[module_of(path)])))
            tensors[name] = made_weight(name, shape)
    return tensors


# --- Names ---


def test_vgg_names_count_every_layer():
    indices = [int(prefix.removeprefix("features.")) for (prefix,) in vgg_names((2, 2, 3, 3, 3)).values()]
    assert indices == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    indices = [int(prefix.removeprefix("features.")) for (prefix,) in vgg_names((2, 2, 4, 4, 4)).values()]
    assert indices == [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]


def test_resnext_names_in_both_dialects():
    authors = encoder_names("resnext101", set(), {"pretrained_net.layer0.0.weight": np.zeros(1)}, "f")
    zoo = resnext_names()
    for ours, theirs, torchvision in (
        ("stem/conv", "pretrained_net.layer0.0", "conv1"),
        ("stage1_1/reduce/conv", "pretrained_net.layer1.1.0.0.0.0.0", "layer1.0.conv1"),
        ("stage1_3/expand/bn", "pretrained_net.layer1.1.2.0.0.2", "layer1.2.bn3"),
        ("stage1_1/shortcut/conv", "pretrained_net.layer1.1.0.0.1.0", "layer1.0.downsample.0"),
        ("stage3_23/grouped/conv", "pretrained_net.layer3.22.0.0.0.3", "layer3.22.conv2"),
        ("stage4_1/shortcut/bn", "pretrained_net.layer4.0.0.1.1", "layer4.0.downsample.1"),
    ):
        assert authors[ours] == (theirs,)
        assert zoo[ours] == (torchvision,)


@pytest.mark.parametrize("arch", convert.ARCHS)
def test_every_official_tensor_finds_its_place(shared, arch):
    tensors = {name: np.zeros(shape, np.float32) for name, shape in official_shapes(shared, arch).items()}
    model, variables, left = convert.from_official(arch, tensors, "f")
    assert {name.rpartition(".")[2] for name in left} == {"num_batches_tracked"}
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[arch]
    shapes = jax.tree.map(lambda leaf: leaf.shape, weights.shapes(model))
    assert jax.tree.map(lambda leaf: leaf.shape, variables) == shapes


def test_layouts():
    flat = {
        "params/conv/kernel": jax.ShapeDtypeStruct((3, 1, 2, 4), jnp.float32),
        "params/dense/kernel": jax.ShapeDtypeStruct((2, 4), jnp.float32),
        "params/pair/bias": jax.ShapeDtypeStruct((2,), jnp.float32),
        "batch_stats/bn/var": jax.ShapeDtypeStruct((4,), jnp.float32),
        "params/other/kernel": jax.ShapeDtypeStruct((1,), jnp.float32),
    }
    rng = np.random.default_rng(0)
    tensors = {
        "c.weight": rng.normal(size=(4, 2, 3, 1)),
        "d.weight": rng.normal(size=(4, 2)),
        "p.0.bias": np.array([1.0]),
        "p.1.bias": np.array([2.0]),
        "b.running_var": np.arange(4.0),
        "fc.weight": np.zeros(3),
    }
    names = {"conv": ("c",), "dense": ("d",), "pair": ("p.0", "p.1"), "bn": ("b",)}
    got, used = from_torch(flat, tensors, names, "f")
    assert used == tensors.keys() - {"fc.weight"}
    assert got.keys() == flat.keys() - {"params/other/kernel"}
    assert got["params/conv/kernel"][2, 0, 1, 3] == np.float32(tensors["c.weight"][3, 1, 2, 0])
    assert got["params/dense/kernel"][1, 3] == np.float32(tensors["d.weight"][3, 1])
    np.testing.assert_array_equal(got["params/pair/bias"], [1, 2])
    np.testing.assert_array_equal(got["batch_stats/bn/var"], np.arange(4))
    assert {a.dtype for a in got.values()} == {np.dtype(np.float32)}


# --- The command ---


def run(src, arch, out):
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    return convert.run(parser.parse_args([str(src), f"--arch={arch}", f"--out={out}"]))


def test_convert_save_and_load(tmp_path, vgg16_official, capsys):
    extra = {"module.classifier.0.weight": np.zeros((2, 2), np.float32)}
    safetensors.numpy.save_file(
        {f"module.{k}": v for k, v in vgg16_official.items()} | extra, tmp_path / "a.safetensors"
    )
    np.savez(tmp_path / "a.npz", **vgg16_official)
    _, expected, _ = convert.from_official("vgg16", vgg16_official, "f")
    expected = flatten_dict(expected, sep="/")
    for source in ("a.safetensors", "a.npz"):
        run(tmp_path / source, "vgg16", tmp_path / "out.safetensors")
        model, variables = weights.load(tmp_path / "out.safetensors")
        assert model == DepthDistilledDBD(encoder="vgg16")
        for name, leaf in flatten_dict(variables, sep="/").items():
            np.testing.assert_array_equal(leaf, expected[name])
        printed = capsys.readouterr().out
        assert "19,436,634 parameters" in printed
        assert ("1 tensors that this network does not have: classifier.0.weight" in printed) == (
            source == "a.safetensors"
        )
    notes = weights.read_metadata(tmp_path / "out.safetensors")
    assert "a.npz" in notes.license


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model."])
def test_names_that_a_trainer_wrapped(tmp_path, vgg16_official, prefix):
    _, expected, _ = convert.from_official("vgg16", vgg16_official, "f")
    np.savez(tmp_path / "a.npz", **{f"{prefix}{name}": array for name, array in vgg16_official.items()})
    run(tmp_path / "a.npz", "vgg16", tmp_path / "out.safetensors")
    _, variables = weights.load(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(
        variables["params"]["fuse_focus"]["kernel"], expected["params"]["fuse_focus"]["kernel"]
    )


def test_a_full_disk_is_one_line(tmp_path, vgg16_official, small_disk, capsys):  # noqa: F811
    np.savez(tmp_path / "a.npz", **vgg16_official)
    out = small_disk / "out.safetensors"
    assert main(["convert", str(tmp_path / "a.npz"), "--arch=vgg16", f"--out={out}"]) == 1
    one_line(capsys.readouterr().err, f"{out}: cannot be written: No space left on device")
    assert not list(small_disk.iterdir())


def test_missing_and_misshapen_tensors_are_listed(tmp_path, vgg16_official):
    broken = {k: v for k, v in vgg16_official.items() if k != "fusion.bias"}
    broken["deconv1.sk.fc.weight"] = np.zeros((8, 128), np.float32)
    np.savez(tmp_path / "a.npz", **broken)
    with pytest.raises(UserError) as caught:
        run(tmp_path / "a.npz", "vgg16", tmp_path / "out.safetensors")
    message = str(caught.value)
    assert "fusion.bias is missing" in message
    assert "deconv1.sk.fc.weight is 8x128, not 32x128" in message
    assert message.count(";") == 1
    assert "\n" not in message
    with pytest.raises(UserError, match=r"features.16.weight is missing.* and \d+ more$") as caught:
        run(tmp_path / "a.npz", "vgg19", tmp_path / "out.safetensors")
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "out.safetensors").exists()
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        run(tmp_path / "a.npz", "vgg16", tmp_path / "out.npz")


# --- Encoders from the model zoos ---


def encoder_leaves(variables) -> dict[str, np.ndarray]:
    return {k: v for k, v in flatten_dict(variables, sep="/").items() if "/encoder/" in k}


def test_encoder_from_torchvision_and_from_the_authors(tmp_path, vgg16_official):
    _, expected, _ = convert.from_official("vgg16", vgg16_official, "f")
    before = unflatten_dict({k: np.zeros(leaf.shape, np.float32) for k, leaf in modules("vgg16").items()}, sep="/")
    zoo = {k.removeprefix("pretrained_net."): v for k, v in vgg16_official.items() if k.startswith("pretrained_net.")}
    np.savez(tmp_path / "zoo.npz", **zoo, **{"classifier.6.bias": np.zeros(1000)})
    np.savez(tmp_path / "authors.npz", **vgg16_official)
    for name in ("zoo.npz", "authors.npz"):
        after = weights.init_encoder(before, "vgg16", str(tmp_path / name))
        for path, leaf in encoder_leaves(after).items():
            np.testing.assert_array_equal(leaf, encoder_leaves(expected)[path])
        assert not after["params"]["level1"]["reduce"]["conv"]["kernel"].any()
    np.savez(tmp_path / "bn.npz", **zoo, **{"features.1.running_mean": np.zeros(64)})
    with pytest.raises(UserError, match="this VGG has BatchNorm"):
        weights.init_encoder(before, "vgg16", str(tmp_path / "bn.npz"))


@pytest.mark.slow
def test_encoder_from_a_torchvision_resnext(tmp_path):
    flat = {k: np.zeros(leaf.shape, np.float32) for k, leaf in modules("resnext101").items()}
    names = resnext_names()
    tensors = {"fc.weight": np.zeros((1000, 2048), np.float32)}
    for path, leaf in flat.items():
        if "/encoder/" in path:
            (prefix,) = names[module_of(path).removeprefix("encoder/")]
            name = f"{prefix}.{LEAVES[path.rpartition('/')[2]]}"
            tensors[name] = np.full(their_shape(name, leaf.shape), len(tensors), np.float32)
    # timm's resnext101_32x4d has 44,177,704 parameters, its classifier 2,049,000 of them.
    stored = [a.size for name, a in tensors.items() if "running" not in name and name != "fc.weight"]
    assert sum(stored) == 44_177_704 - 2_049_000
    np.savez(tmp_path / "zoo.npz", **tensors)
    after = weights.init_encoder(unflatten_dict(flat, sep="/"), "resnext101", str(tmp_path / "zoo.npz"))
    values = [float(leaf.reshape(-1)[0]) for leaf in encoder_leaves(after).values()]
    assert sorted(values) == list(range(1, len(tensors)))
    tensors["layer1.0.conv2.weight"] = np.zeros((256, 8, 3, 3), np.float32)  # the 32x8d
    np.savez(tmp_path / "zoo.npz", **tensors)
    with pytest.raises(UserError, match=r"layer1\.0\.conv2\.weight is 256x8x3x3, not 128x4x3x3"):
        weights.init_encoder(unflatten_dict(flat, sep="/"), "resnext101", str(tmp_path / "zoo.npz"))


# --- The numbers of the authors' released code ---


@pytest.fixture(scope="module")
def reference(shared):
    """The reference outputs, and the converted VGG19 made by the reference's rule."""
    tensors = {name: made_weight(name, shape) for name, shape in official_shapes(shared, "vgg19").items()}
    model, variables, _ = convert.from_official("vgg19", tensors, "f")
    with np.load(shared / "reference" / "official_vgg19.npz") as file:
        return dict(file), model, variables


def distance(ours, theirs) -> float:
    """Relative L2."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def train_loss(params, batch_stats, model, images):
    output, state = model.apply(
        {"params": params, "batch_stats": batch_stats}, images, train=True, mutable=["batch_stats"]
    )
    loss = sum(
        optax.sigmoid_binary_cross_entropy(s, jnp.full_like(s, 0.3)).mean() for s in (output.focus, *output.side_focus)
    )
    loss += sum(jnp.square(d - 0.5).mean() for d in (output.depth, *output.side_depth))
    return loss, state["batch_stats"]


def in_their_names(tree) -> dict[str, np.ndarray]:
    """Leaves of a VGG19's variables under the authors' names and in PyTorch's layout."""
    names = decoder_names() | {
        f"encoder/{o}": (f"pretrained_net.{t}",) for o, (t,) in vgg_names((2, 2, 4, 4, 4)).items()
    }
    back = {}
    for path, leaf in flatten_dict(tree, sep="/").items():
        array = np.asarray(leaf)
        array = array.transpose({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim])
        theirs = names[module_of(path)]
        for prefix, part in zip(theirs, np.split(array, len(theirs)), strict=True):
            back[f"{prefix}.{LEAVES[path.rpartition('/')[2]]}"] = part
    return back


@pytest.mark.slow
def test_evaluation_outputs(reference):
    file, model, variables = reference
    images = jnp.asarray(file["input_nchw"].transpose(0, 2, 3, 1))
    output = jax.jit(lambda v, x: model.apply(v, x))(variables, images)
    for theirs, ours in (("blur", (output.focus, *output.side_focus)), ("depth", (output.depth, *output.side_depth))):
        for i, each in enumerate(ours):
            assert distance(each.transpose(0, 3, 1, 2), file[f"{theirs}_{i}"]) < 1e-4, f"{theirs}_{i}"


@pytest.mark.slow
def test_training_step(reference):
    file, model, variables = reference
    images = jnp.asarray(file["input_nchw"].transpose(0, 2, 3, 1))
    step = jax.jit(jax.value_and_grad(train_loss, has_aux=True), static_argnums=2)
    (loss, batch_stats), grads = step(variables["params"], variables["batch_stats"], model, images)
    np.testing.assert_allclose(loss, file["train_loss"], rtol=1e-5)
    back = in_their_names({"params": grads, "batch_stats": batch_stats})
    for name, theirs in file.items():
        kind, _, tensor = name.partition("/")
        if kind == "stat":
            assert distance(back[tensor], theirs) < 1e-4, name
        if kind == "grad":
            # Where a ReLU's input is within rounding of zero, float32 decides the gradient by chance: PyTorch's own
            # float32 gradients lie up to 5e-3 from its float64 ones here, which the next test meets to 1e-5.
            ours = back[tensor][: len(theirs)].reshape(theirs.shape)
            assert distance(ours, theirs) < 3e-2, name


# PyTorch 2.13 in float64 on the same network and input: each gradient's L2 norm, and its inner product with
# default_rng(0).normal(size=shape); the first 8 output channels of features.19.
FLOAT64_LOSS = 11.184180427631665
FLOAT64_GRADIENTS = {
    "fusion.weight": (0.16826522, 0.0406359657),
    "fusiond.bias": (0.814745304, -0.102438107),
    "classifier1.sides.0.weight": (6.51695412, -11.0307656),
    "classifier3.sides.1.weight": (3.25684494, -5.37155213),
    "sideatt1.conv1.weight": (1.72290301, -1.03009422),
    "sideatt4.conv2.weight": (0.25076429, -0.126802257),
    "deconv5.sk.convs.2.0.weight": (1.75071982, -1.80148897),
    "deconv3.sk.fc.weight": (1.75261875, 2.67900228),
    "deconv3.sk.fcs.2.weight": (0.424042689, 0.86350699),
    "deconv1.sk.convs.0.1.weight": (1.55088854, -0.492236098),
    "pretrained_net.features.0.weight": (17.745565, -14.5871507),
    "pretrained_net.features.19.weight": (27.0935434, -17.483377),
}


@pytest.mark.slow
def test_gradients_in_float64(reference):
    file, model, variables = reference
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        images = jnp.asarray(file["input_nchw"].transpose(0, 2, 3, 1), jnp.float64)
        step = jax.jit(jax.value_and_grad(train_loss, has_aux=True), static_argnums=2)
        (loss, _), grads = step(double["params"], double["batch_stats"], model.clone(dtype=jnp.float64), images)
        back = in_their_names({"params": grads})
        np.testing.assert_allclose(float(loss), FLOAT64_LOSS, rtol=1e-6)
    for name, (norm, projection) in FLOAT64_GRADIENTS.items():
        shape = file[f"grad/{name}"].shape
        ours = back[name][: shape[0]].reshape(shape)
        np.testing.assert_allclose(np.linalg.norm(ours), norm, rtol=1e-5, err_msg=name)
        inner = np.sum(ours * np.random.default_rng(0).normal(size=shape))
        np.testing.assert_allclose(inner, projection, atol=1e-5 * norm * np.sqrt(ours.size), err_msg=name)
        # and the reference's float32 gradient is this one, up to what rounding decides
        assert distance(ours, file[f"grad/{name}"]) < 1e-2, name
