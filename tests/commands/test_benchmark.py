"""The benchmark command, and a guard against slow programs that counts instead of timing."""

import json

import jax
import jax.numpy as jnp
import pytest

from configs import lite
from jaxdbd import DepthDistilledDBD, weights
from jaxdbd.__main__ import main
from jaxdbd.commands import benchmark
from jaxdbd.training import timing
from jaxdbd.training.config import load_config


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    """A network that compiles in seconds stands for each arch."""
    monkeypatch.setattr(
        timing,
        "DepthDistilledDBD",
        lambda encoder, **kw: DepthDistilledDBD(encoder, widths=(8,) * 5, srfb="none", **kw),
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fwd", "input"])
def test_figures_are_consistent_with_each_other(mode, tmp_path, capsys):
    out = tmp_path / "b.json"
    flags = ["--arch=vgg16", f"--mode={mode}", "--size=32", "--batch", "2", "--repeats=3", f"--json={out}"]
    assert main(["benchmark", *flags]) == 0
    row = json.loads(out.read_text())
    assert {k: row[k] for k in ("arch", "size", "batch", "mode")} == {
        "arch": "vgg16",
        "size": 32,
        "batch": 2,
        "mode": mode,
    }
    assert row["images_per_s"] == pytest.approx(1000 / row["ms_per_image"], rel=0.01)
    low, high = row["ms_per_image_quartiles"]
    assert low <= row["ms_per_image"] <= high
    assert "vgg16" in capsys.readouterr().out
    if mode == "fwd":
        assert row["gflop_per_s"] == pytest.approx(row["gflop_per_image"] * row["images_per_s"], rel=0.05)
        # XLA's count for the whole network at 32 pixels, most of it VGG16's convolutions, one of them Winograd's.
        assert row["gflop_per_image"] == pytest.approx(0.464, rel=0.02)


@pytest.mark.slow
def test_time_by_operation_covers_the_program(tmp_path, capsys):
    out = tmp_path / "b.json"
    flags = ["--arch=vgg16", "--size=64", "--batch", "2", "--repeats=3", "--operations", f"--json={out}"]
    assert main(["benchmark", *flags]) == 0
    spent = json.loads(out.read_text())["ms_by_operation"]
    assert min(spent["convolution"], spent["dot"]) > 0
    # VGG16 is convolutions: as XLA has them, as matrix products, and the sums around Winograd's.
    assert spent["convolution"] + spent["dot"] + spent["elementwise"] > 0.7 * sum(spent.values())
    assert "by operation" in capsys.readouterr().out


def test_the_input_is_augmented_as_in_the_lite_config():
    assert load_config(str(benchmark.CONFIG)).to_dict() == lite.get_config().to_dict()


def test_operations_of_the_input_pipeline_are_a_users_mistake(capsys):
    assert main(["benchmark", "--mode=input", "--operations"]) == 1
    assert "--operations" in capsys.readouterr().err


def lowered(encoder, full_resolution, size, train, platform="cpu"):
    """The network's forward or training pass as StableHLO for a platform, not compiled."""
    model = DepthDistilledDBD(encoder, full_resolution=full_resolution)
    images = jnp.zeros((1, size, size, 3))

    def forward(variables, images):
        out, updates = model.apply(variables, images, train=train, mutable=["batch_stats"])
        return out.focus.sum(), updates

    function = jax.grad(forward, has_aux=True) if train else forward
    return jax.jit(function).trace(weights.shapes(model), images).lower(lowering_platforms=(platform,))


@pytest.mark.parametrize(
    ("encoder", "full_resolution", "gmac"),
    # By XLA's count of products that are not with padding, less what Winograd saves (winograd.py); without it 39.3
    # and 47.5 for VGG. As the paper's code computes it: 44.9, 53.4, 70.1.
    [
        ("vgg16", True, 26.03),
        ("vgg19", True, 29.72),
        pytest.param("resnext101", True, 46.20, marks=pytest.mark.slow),
        ("lite0", False, 1.2),
    ],
)
def test_forward_costs_no_more_arithmetic_than_it_did(encoder, full_resolution, gmac):
    size = 256 if encoder == "lite0" else 320
    flops = lowered(encoder, full_resolution, size, train=False).cost_analysis()["flops"]
    assert flops / 2e9 == pytest.approx(gmac, rel=0.01)


@pytest.mark.parametrize(
    ("encoder", "full_resolution", "gmac"),
    # Counted likewise, at 256 pixels. Winograd's gradients save VGG16 19.8 of 66.8.
    [("vgg16", True, 46.92), ("lite0", False, 3.59)],
)
def test_a_training_pass_costs_no_more_arithmetic_than_it_did(encoder, full_resolution, gmac):
    flops = lowered(encoder, full_resolution, 256, train=True).cost_analysis()["flops"]
    assert flops / 2e9 == pytest.approx(gmac, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["lite0", "vgg16"])
def test_no_operation_that_a_cpu_is_slow_at(encoder):
    text = lowered(encoder, encoder == "vgg16", 64, train=True).as_text()
    # Grouped convolutions, and max-pool's gradient: 30 and 20 times slower there than what convolutions.py has instead.
    assert "stablehlo.convolution" in text
    assert "feature_group_count = 1 " in text
    assert not [
        line for line in text.splitlines() if "feature_group_count" in line and "feature_group_count = 1 " not in line
    ]
    assert "select_and_scatter" not in text
    assert "reduce_window" not in text
