"""Endings of names: letter case decides nothing."""

import shutil

import numpy as np
import pytest
from odd_files import brightness, half, ramp, save, tiny_weights

from jaxdbd import weights
from jaxdbd.__main__ import main
from jaxdbd.weights import read_tensors


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".ONNX", ".Onnx"])
def test_export_writes_onnx_under_any_case(tmp_path, ending):
    onnx = pytest.importorskip("onnx", reason="needs the optional extra: pip install 'jaxdbd[onnx]'")
    out = tmp_path / f"x{ending}"
    assert main(["export", f"--weights={tiny_weights(tmp_path)}", f"--out={out}"]) == 0
    assert onnx.load(out).graph.input[0].name == "image"


def test_weights_and_their_folder(tmp_path):
    path = tiny_weights(tmp_path)
    shutil.copy(path, tmp_path / "W.SafeTensors")
    assert weights.find(tmp_path / "W.SafeTensors") == tmp_path / "W.SafeTensors"
    assert weights.read_metadata(tmp_path / "W.SafeTensors").threshold == 0.5
    np.savez(tmp_path / "a.npz", w=np.zeros(3))
    shutil.copy(tmp_path / "a.npz", tmp_path / "A.NPZ")
    assert list(read_tensors(tmp_path / "A.NPZ")) == ["w"]


def test_convert_takes_any_case(tmp_path, capsys):
    for name, message in (("x.SAFETENSORS", "nowhere.pth: no such file"), ("x.bin", "must end in .safetensors")):
        assert main(["convert", "nowhere.pth", "--arch=vgg16", f"--out={tmp_path / name}"]) == 1
        assert message in capsys.readouterr().err


def test_photographs_maps_and_masks(tmp_path, monkeypatch):
    path = brightness(monkeypatch, tmp_path)
    for name in ("a.JPG", "b.Png", "c.TIFF", "d.JPE"):
        save(tmp_path / "in" / name, ramp(), format="JPEG" if name.startswith("d") else None)
    assert main(["predict", str(tmp_path / "in"), f"--out={tmp_path / 'out'}", f"--weights={path}"]) == 0
    assert {found.name for found in (tmp_path / "out").iterdir()} == {"a.png", "b.png", "c.png", "d.png"}
    save(tmp_path / "gt" / "A.PNG", half())
    save(tmp_path / "pred" / "a.png", half())
    assert main(["score", f"--pred={tmp_path / 'pred'}", f"--gt={tmp_path / 'gt'}", "--gt_white=focus"]) == 0
