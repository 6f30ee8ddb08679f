"""Evaluation of a network: against `score` on the maps it writes, on several devices, with a padded batch and TTA."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from drawn_network import drawn
from PIL import Image

from jaxdbd import weights
from jaxdbd.__main__ import main
from jaxdbd.commands import evaluate
from jaxdbd.inference import SquareMaps
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.scoring.maps import SCALES, focus_maps, focus_predictor, quick_scores
from jaxdbd.sharding import make_mesh

SIZE = 64


def png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "png")
    return buffer.getvalue()


def make_records(n: int) -> list[dict]:
    """Photographs of different sizes, sharp noise on a flat ground, as an opened split holds them."""
    records = []
    for i in range(n):
        rng = np.random.default_rng(i)
        h, w = 40 + 7 * i, 90 - 5 * i
        mask = np.zeros((h, w), np.uint8)
        mask[h // 4 : h // 2 + i, w // 5 : w // 2 + 2 * i] = 255
        photo = np.where(mask[..., None] > 0, rng.integers(0, 256, (h, w, 3)), 120).astype(np.uint8)
        records.append({"id": f"photo{i}", "image": png(photo), "mask": png(mask)})
    return records


def mesh_of(n: int) -> jax.sharding.Mesh:
    return make_mesh(jax.devices()[:n])


def brightness(images: np.ndarray) -> SquareMaps:
    """A stand-in for a network of one head: its map is easy to work out."""
    return SquareMaps(images.mean(axis=-1).astype(np.float32) / 255, None, None)


@pytest.fixture(scope="module")
def network() -> tuple[DepthDistilledDBD, dict]:
    model = DepthDistilledDBD("tiny", full_resolution=False, blur_head=True, srfb="none", sab=False, size=SIZE)
    return model, drawn(model)


@pytest.fixture(scope="module")
def weights_file(network, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("workdir") / "weights.safetensors"
    weights.save(path, *network, dataset="none", license="none")
    return path


@pytest.fixture
def built(monkeypatch) -> list[dict]:
    """Five records in place of a dataset built on disk."""
    records = make_records(5)
    monkeypatch.setattr(evaluate, "open_split", lambda dataset, split, data_dir, cache_dir: records)
    return records


def test_quick_scores_are_those_of_the_maps_at_mask_resolution():
    records = make_records(3)
    found = quick_scores(brightness, records, SIZE, 2)
    maes, fs, both, either = [], [], 0, 0
    for record in records:
        photo = Image.open(io.BytesIO(record["image"])).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        mask = np.asarray(Image.open(io.BytesIO(record["mask"]))) > 0
        p = Image.fromarray(np.asarray(photo).mean(axis=-1).astype(np.float32) / 255)
        p = np.asarray(p.resize(mask.shape[::-1], Image.Resampling.BILINEAR))
        hits, called, blurred = (~mask & (p < 0.5)).sum(), (p < 0.5).sum(), (~mask).sum()
        maes.append(np.abs(p - mask).mean())
        precision, recall = hits / called, hits / blurred
        fs.append(1.3 * precision * recall / (0.3 * precision + recall))
        both, either = both + hits, either + called + blurred - hits
    assert found["mae"] == pytest.approx(np.mean(maes), abs=1e-4)  # 8-bit rounding
    assert found["f"] == pytest.approx(np.mean(fs), abs=5e-3)  # pixels that round across one half
    assert found["iou"] == pytest.approx(both / either, abs=5e-3)


def test_quick_scores_tell_how_well_blur_is_told_where_the_records_know_it():
    records = make_records(3)
    records[0]["blur"] = np.full((20, 40, 1), 0.02, np.float16)

    def flat(images):
        # In a photograph of 40 x 90 pixels a share of the square's side is .67 of one of the longer side.
        blur = np.full(images.shape[:3], 0.04, np.float32)
        return SquareMaps(np.zeros_like(blur), None, blur)

    found = quick_scores(flat, records, SIZE, 2)
    assert found["blur/log2_error"] == pytest.approx(np.log2(0.04 * (40 / 90) ** 0.5 / 0.02), abs=2e-3)
    assert (found["blur/within_factor"], found["blur/spearman"], found["blur/agreement"]) == (1, 0, 1)
    assert {name for name in quick_scores(flat, records[1:], SIZE, 2) if "blur" in name} == {"blur/agreement"}


def test_padded_last_batch_changes_nothing():
    records = make_records(5)
    maps = [[focus for _, focus, _ in focus_maps(brightness, records, SIZE, b)] for b in (1, 2, 5, 8)]
    for other in maps[1:]:
        for a, b in zip(maps[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_flip_averages_the_mirror_image(network):
    model, variables = network
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    plain = focus_predictor(model, mesh_of(1))
    flipped = focus_predictor(model, mesh_of(1), ("flip",))
    seen, mirrored = plain(variables, images), plain(variables, np.ascontiguousarray(images[:, :, ::-1]))
    for one, other, both in zip(*(maps[:2] for maps in (seen, mirrored, flipped(variables, images))), strict=True):
        expected = (one + other[:, :, ::-1]) / 2
        assert expected.std() > 0.005  # a flat map would prove nothing
        assert np.abs(expected - one).max() > 1e-3
        np.testing.assert_allclose(both, expected, atol=1e-4)


@pytest.mark.slow
def test_scales_average_three_sizes(network):
    model, variables = network
    images = np.full((1, SIZE, SIZE, 3), 90, np.uint8)
    p = focus_predictor(model, mesh_of(1), ("scales",))(variables, images).focus
    sizes = [round(SIZE * s / 32) * 32 for s in SCALES]
    plain = focus_predictor(model, mesh_of(1))
    maps = [plain(variables, np.full((1, s, s, 3), 90, np.uint8)).focus for s in sizes]
    expected = np.mean([jax.image.resize(m, (1, SIZE, SIZE), "linear") for m in maps], axis=0)
    np.testing.assert_allclose(p, expected, atol=1e-5)


@pytest.mark.slow
def test_report_is_whole_and_score_gives_the_same_from_the_maps(built, weights_file, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [f"--weights={weights_file.parent}", "--dataset=dbd/folder", f"--out={out}", "--tta=flip", "--batch_size=2"]
    assert main(["evaluate", *flags]) == 0
    printed = capsys.readouterr().out
    assert "TTA: flip" in printed
    assert "ddff" in printed
    results = json.loads((out / "results.json").read_text())
    assert (results["n"], results["dataset"], results["tta"]) == (5, "dbd/folder", "flip")
    assert 0 <= results["blur"]["agreement"] <= 1
    assert len(list(csv.DictReader((out / "per_image.csv").open()))) == 5
    assert {line.split(",")[0] for line in (out / "results.csv").read_text().splitlines()[1:]} >= {"ddff", "dd", "max"}
    markdown = (out / "report.md").read_text()
    assert "TTA: flip" in markdown
    assert f"| ddff | MAE ↓ | {results['ddff']['mae']:.4f} |" in markdown
    for name in ("pr.png", "worst.png", "best.png"):
        assert f"({name})" in markdown
        assert Image.open(out / name).size[0] > 300

    for record in built:
        (tmp_path / "gt").mkdir(exist_ok=True)
        (tmp_path / "gt" / f"{record['id']}.png").write_bytes(record["mask"])
    flags = [f"--pred={out}/maps", f"--gt={tmp_path}/gt", "--gt_white=focus", f"--json={tmp_path}/score.json"]
    assert main(["score", *flags]) == 0
    again = json.loads((tmp_path / "score.json").read_text())
    for section in ("ddff", "dd", "adaptive", "max", "threshold_free"):
        assert again[section] == pytest.approx(results[section], abs=1e-12)


def test_users_mistakes_are_one_line(built, weights_file, capsys):
    assert main(["evaluate", f"--weights={weights_file}", "--dataset=dbd/folder", "--tta=rotate"]) == 1
    assert main(["evaluate", "--weights=nowhere", "--dataset=dbd/folder"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(line.startswith("error: ") for line in errors)


EIGHT_DEVICES = """
import sys, json, jax
from functools import partial
sys.path[:0] = ["tests", "tests/commands"]
from test_evaluate import make_records, mesh_of, SIZE
from jaxdbd import weights
from jaxdbd.scoring.maps import focus_predictor, quick_scores
from jaxdbd.sharding import replicated
model, variables = weights.load(sys.argv[1])
assert jax.device_count() == 8
for devices in (1, 8):
    mesh = mesh_of(devices)
    variables = jax.device_put(variables, replicated(mesh))
    predict = partial(focus_predictor(model, mesh), variables)
    print(json.dumps(quick_scores(predict, make_records(5), SIZE, 8)))
"""


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one(weights_file):
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", EIGHT_DEVICES, str(weights_file)]
    out = subprocess.run(command, env=env, cwd=tiny.ROOT, capture_output=True, text=True, check=True).stdout
    one, eight = map(json.loads, out.splitlines())
    assert one == pytest.approx(eight, abs=1e-6)
