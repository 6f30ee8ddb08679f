"""Exported files, run where this package cannot be imported; and the ONNX graph of every kind of network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from drawn_network import drawn
from PIL import Image

import jaxdbd
from jaxdbd import weights
from jaxdbd.__main__ import main
from jaxdbd.commands import export
from jaxdbd.errors import UserError
from jaxdbd.inference import compiled
from jaxdbd.network.model import DepthDistilledDBD

onnx = pytest.importorskip("onnx", reason="export to ONNX needs the onnx package")

from jaxdbd.weights import onnx_graph  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SIDE = 64


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> Path:
    model = DepthDistilledDBD("lite0", widths=(32, 32, 32, 16, 16), full_resolution=False, size=SIDE)
    path = tmp_path_factory.mktemp("weights") / "lite.safetensors"
    weights.save(path, model, drawn(model), dataset="none", license="for tests", threshold=0.4)
    return path


@pytest.fixture(scope="module")
def network(weights_file) -> tuple[DepthDistilledDBD, dict]:
    return jaxdbd.load(weights_file)


def photographs(n: int, height: int, width: int) -> np.ndarray:
    """Something with coarse and fine structure, uint8 [N, H, W, 3]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 5, 7, 3), np.uint8)
    large = [np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC)) for c in coarse]
    return (np.stack(large).astype(int) + rng.integers(-30, 31, (n, height, width, 3))).clip(0, 255).astype(np.uint8)


TEN = {  # what the documentation's ten lines leave behind, on ten photographs at once
    "dbd.onnx": "outputs = session.run(None, {'image': np.load('ten.npy')})",
    "dbd.stablehlo": "outputs = network.call(np.load('ten.npy'))",
}


BOTH = ["dbd.onnx", pytest.param("dbd.stablehlo", marks=pytest.mark.slow)]


@pytest.mark.slow
@pytest.mark.parametrize("name", BOTH)
def test_file_gives_predicts_maps_where_this_package_cannot_be_imported(network, weights_file, tmp_path, name, capsys):
    assert main(["export", f"--weights={weights_file}", f"--out={tmp_path / name}"]) == 0
    assert f"uint8 [B, {SIDE}, {SIDE}, 3]" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [name]

    ten, photo = photographs(10, SIDE, SIDE), photographs(1, 100, 140)[0]
    np.save(tmp_path / "ten.npy", ten)
    turned = Image.Exif()
    turned[0x0112] = 6  # as a phone held upright stores it
    Image.fromarray(photo).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photo.png", exif=turned)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if f'"{name}"' in block)
    assert len(block.splitlines()) <= 14
    # The photograph as PNG: between two JPEG decoders a level may differ.
    script = "import sys\nsys.modules['jaxdbd'] = None\n" + block.replace("photo.jpg", "photo.png")
    script += TEN[name] + "\nnp.save('maps.npy', np.stack([np.asarray(x) for x in outputs]))\n"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)

    maps = np.load(tmp_path / "maps.npy")
    expected = jaxdbd.predict(*network, list(ten))
    np.testing.assert_allclose(maps[0], [p.focus for p in expected], rtol=0, atol=1e-3)
    np.testing.assert_allclose(maps[1], [p.depth for p in expected], rtol=0, atol=1e-3)
    assert np.ptp(maps[0]) > 0.1
    assert np.ptp(maps[1]) > 0.1
    with Image.open(tmp_path / "focus.png") as picture:
        focus = np.asarray(picture).astype(float)
    assert np.abs(focus - jaxdbd.predict(*network, photo).focus * 255).max() <= 0.5 + 0.255


@pytest.mark.slow
def test_stablehlo_is_for_all_platforms_and_any_batch(network):
    exported = jax.export.deserialize(bytearray(export.to_stablehlo(*network, ["cpu", "cuda", "tpu"])))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert not jax.export.is_symbolic_dim(exported.in_avals[0].shape[1])
    assert jax.export.is_symbolic_dim(exported.in_avals[0].shape[0])
    assert len(exported.in_avals) == 1  # the weights are inside


def test_onnx_carries_the_weights_notes(network, weights_file):
    model = onnx.load_from_string(export.to_onnx(*network, weights.read_metadata(weights_file)))
    assert {p.key: p.value for p in model.metadata_props} == {
        "dataset": "none",
        "license": "for tests",
        "threshold": "0.4",
    }
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


VARIANTS = {
    "lite2 ends at full size, no attention": {
        "encoder": "lite2",
        "widths": (24, 24, 24, 16, 16),
        "sab": False,
        "srfb_select": False,
    },
    "vgg16, parallel, no depth": {
        "encoder": "vgg16",
        "widths": (64, 64, 64, 64, 32),
        "depth_head": False,
        "srfb": "parallel",
    },
    "vgg19 as in the paper, no SRFB": {"encoder": "vgg19", "srfb": "none"},
    "resnext101 as released": {"encoder": "resnext101"},
    "crisp edges": {"encoder": "lite0", "full_resolution": False, "edge_radius": 0.05, "edge_slope": 2.5},
    "blur, and no depth": {"encoder": "lite0", "full_resolution": False, "depth_head": False, "blur_head": True},
}
LARGE = {"resnext101 as released"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [pytest.param(f, id=n, marks=[pytest.mark.large] * (n in LARGE)) for n, f in VARIANTS.items()]
)
def test_onnx_graph_of_other_networks(fields, tmp_path):
    model = DepthDistilledDBD(**fields, size=SIDE)
    variables = drawn(model)
    (tmp_path / "a.onnx").write_bytes(onnx_graph.build(model, variables).SerializeToString())
    run = export.open_onnx(tmp_path / "a.onnx")
    export.check(model, variables, run)
    compiled.cache_clear()  # hundreds of megabytes
    assert all(np.ptp(output) > 0.01 for output in run(export.sample_images(SIDE)))


def test_blur_is_the_third_output():
    model = DepthDistilledDBD("lite0", (8, 8, 8, 8, 8), full_resolution=False, srfb="none", blur_head=True, size=SIDE)
    variables = jax.device_put(drawn(model))
    assert model.heads() == ["focus", "depth", "blur"]
    graph = onnx_graph.build(model, variables).graph
    assert [output.name for output in graph.output] == model.heads()
    exported = jax.export.deserialize(bytearray(export.to_stablehlo(model, variables, ["cpu"])))
    assert [aval.shape[1:] for aval in exported.out_avals] == [(SIDE, SIDE)] * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", BOTH)
def test_file_that_differs_is_an_error_and_not_kept(weights_file, tmp_path, monkeypatch, name):
    def other(to_bytes):
        def changed(model, variables, *rest):
            params = variables["params"]
            bias = params["fuse_focus"] | {"bias": params["fuse_focus"]["bias"] + 0.02}
            return to_bytes(model, variables | {"params": params | {"fuse_focus": bias}}, *rest)

        return changed

    monkeypatch.setattr(export, "to_onnx", other(export.to_onnx))
    monkeypatch.setattr(export, "to_stablehlo", other(export.to_stablehlo))
    with pytest.raises(RuntimeError, match="focus differs"):
        main(["export", f"--weights={weights_file}", f"--out={tmp_path / name}"])
    assert not list(tmp_path.iterdir())


def test_nan_and_wrong_shapes_do_not_pass(network):
    def run(images):
        return np.full((3, SIDE, SIDE), np.nan, np.float32), None

    with pytest.raises(RuntimeError, match="differs"):
        export.check(*network, run)
    with pytest.raises(RuntimeError, match="is \\(1,"):
        export.check(*network, lambda images: [x[:1] for x in run(images) if x is not None])


def test_users_mistakes(network, weights_file, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="gpu not known"):
        export.to_stablehlo(*network, ["cpu", "gpu"])
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", f"--weights={weights_file}", f"--out={tmp_path / 'a.onnx'}"]) == 1
    assert "pip install onnx" in capsys.readouterr().err
    assert main(["export", f"--weights={tmp_path}", f"--out={tmp_path / 'a.stablehlo'}"]) == 1
