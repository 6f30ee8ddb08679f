"""What `tools.for_cuda` counts in a program, and what it says without the compiler for GPUs."""

import importlib.util

import jax
import pytest
import tiny

from jaxdbd.errors import UserError
from jaxdbd.input.augment import Augmentation
from jaxdbd.training.timing import made_up_batches
from tools.for_cuda import batch_shapes, compiled_figures, count_collectives, count_convolutions, devices_for

HLO = """ENTRY %main (a: f32[4,8]) -> f32[4,3] {
  %cudnn-conv.1 = (bf16[8,64,64,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", backend_config={"a":1}
  %cudnn-conv-bw.2 = (bf16[8,64,64,32]{3,2,1,0}, u8[0]{0}) custom-call(%dy, %k), feature_group_count=32, \
custom_call_target="__cudnn$convBackwardInput"
  %cudnn-conv-bw.3 = (bf16[3,3,64,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %dy), feature_group_count=1, \
custom_call_target="__cudnn$convBackwardFilter"
  %cublas.4 = (bf16[8,32]{1,0}, s8[0]{0}) custom-call(%x, %k), custom_call_target="__cublas$gemm"
  %all-reduce-start = (f32[1000]{0}, bf16[3,5]{1,0}, f32[]) all-reduce-start(%a, %b, %c), replica_groups={{0,1}}
  %all-reduce-done = (f32[1000]{0}, bf16[3,5]{1,0}, f32[]) all-reduce-done(%all-reduce-start)
  %all-gather-start.1 = (f32[100]{0}, f32[800]{0}) all-gather-start(f32[100]{0} %a), dimensions={0}
  %all-gather-done.1 = f32[800]{0} all-gather-done(%all-gather-start.1)
  ROOT %reduce-scatter.2 = f32[100]{0} reduce-scatter(%g), dimensions={0}
}
"""


def test_calls_of_cudnn_are_counted_by_kind():
    assert count_convolutions(HLO) == {"by_kernel": 1, "forward": 1, "grouped_by_map": 1}


def test_collectives_are_counted_once_with_the_bytes_of_their_results():
    assert count_collectives(HLO) == {
        "all-reduce": {"count": 1, "bytes": 4 * 1000 + 2 * 15 + 4},
        "all-gather": {"count": 1, "bytes": 4 * 800},
        "reduce-scatter": {"count": 1, "bytes": 4 * 100},
    }


@pytest.mark.slow
def test_a_batch_has_the_shapes_of_the_input():
    config = tiny.get_config()
    rows, _ = next(made_up_batches(config.size, config.batch_size, Augmentation()))
    shapes = {name: (a.shape, a.dtype) for name, a in batch_shapes(config).items()}
    assert shapes == {name: (a.shape, a.dtype) for name, a in rows.items()}


@pytest.mark.slow
def test_the_step_of_a_small_network_on_a_cpu():
    config = tiny.get_config()
    config.size, config.model.widths = 32, (8, 8, 8, 8, 8)
    figures = compiled_figures(config, "cpu", "1x1")
    assert 500 < figures["stablehlo"] < 10_000
    assert figures["fusions"] > 10
    assert figures["temporary_mb"] >= 0
    assert figures["cudnn"] == figures["collectives"] == {}  # nothing of a GPU, and nobody to speak to


def test_arrangements_that_are_none_are_a_users_mistake():
    with pytest.raises(UserError, match="--gpus=8: hosts x devices"):
        devices_for("h200", "8")


@pytest.mark.skipif(bool(importlib.util.find_spec("jax_plugins")), reason="a plugin of JAX is installed")
def test_without_the_compiler_the_error_says_where_it_comes_from():
    with pytest.raises(UserError, match="plugin is missing"):
        devices_for("h200", "1x8")
    assert devices_for("cpu", "1x1") == jax.devices()[:1]
