"""Compiles a training step for NVIDIA GPUs on a machine that has none, and counts what is in the program.

    python -m tools.for_cuda --config=configs/lite.py --config.dtype=bfloat16 --gpus 1x1 1x8 8x8 --batch=64

The compiler is in JAX's CUDA plugin, 4 GB; an environment of its own keeps it away from the one that trains:

    python3.11 -m venv DIR
    DIR/bin/pip install -r requirements-tested.txt -r tools/requirements-cuda.txt

Nothing runs, so nothing is timed but the compiler: in CPU seconds, which other programs on the machine do not change.
Where the device is, it also tries several algorithms of each convolution. `--device=cpu` compiles for one CPU instead.
"""

import argparse
import importlib.util
import json
import os
import re
import sys
import time
from collections import Counter
from functools import partial
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import topologies

from jaxdbd.errors import UserError
from jaxdbd.input.augment import Augmentation, augment
from jaxdbd.input.resident import GRID
from jaxdbd.input.views import Canvas
from jaxdbd.machine.files import write_whole
from jaxdbd.machine.paths import as_path
from jaxdbd.machine.startup import exit_status
from jaxdbd.scoring.report import print_rows
from jaxdbd.sharding import make_mesh
from jaxdbd.training.config import check_config, load_config
from jaxdbd.training.loop import make_model
from jaxdbd.training.programs import compile_steps

# Bytes per second, bytes and name, as NVIDIA's data sheets have them; the rest of a Hopper GPU is the same in both.
GPUS = {"h200": (4.8e12, 141e9, "NVIDIA H200"), "h100": (3.35e12, 80e9, "NVIDIA H100 80GB HBM3")}
HOPPER = """gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: {bandwidth:.0f} l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: {memory:.0f} shared_memory_per_block_optin: 232448 cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 13 patch: 0 }} device_description_str: "{name}"
"""
# Without a device there is nothing to try the algorithms of convolutions and products on.
COMPILER_OPTIONS = {"xla_gpu_autotune_level": 0}
UPDATES = 1000  # of the learning rate's schedule; the program holds it as a number
ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
CUDNN_KINDS = {
    "convForward": "forward",
    "convBiasActivationForward": "forward",
    "convForwardGraph": "forward",
    "convBackwardInput": "by_map",
    "convBackwardFilter": "by_kernel",
}


def devices_for(device: str, gpus: str) -> list:
    """Devices to compile for: of a key of `GPUS`, `gpus` are hosts x devices of each, such as 8x8; or this CPU.

    Raises UserError without the plugin that holds the compiler, or for something else than two numbers.
    """
    if device == "cpu":
        return jax.devices("cpu")[:1]
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", gpus):
        raise UserError(f"--gpus={gpus}: hosts x devices of each, such as 1x8")
    if not (importlib.util.find_spec("jax_plugins") and importlib.util.find_spec("jax_plugins.xla_cuda13")):
        raise UserError(f"--device={device}: JAX's CUDA plugin is missing; python -m tools.for_cuda --help says how")
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # the plugin would ask the driver for its version
    bandwidth, memory, name = GPUS[device]
    target = HOPPER.format(bandwidth=bandwidth, memory=memory, name=name)
    return topologies.get_topology_desc(platform="cuda", target_config=target, topology=f"1x{gpus}").devices


def batch_shapes(config: ml_collections.ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch with depth, as `input.batches` gives it."""
    side = config.size  # of photographs; it does not reach the batch

    def row(*shape: int, dtype: Any = np.uint8) -> Any:
        return jax.ShapeDtypeStruct((2, *shape), dtype)

    maps = {"depth": row(GRID, GRID, 1, dtype=np.float16)}
    canvases = Canvas(row(side, side, 3), row(side, side), row(side, side), row(2, dtype=np.int32), maps)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    views = jax.eval_shape(partial(augment, size=config.size, settings=Augmentation()), canvases, keys)
    return {name: jax.ShapeDtypeStruct((config.batch_size, *s.shape[1:]), s.dtype) for name, s in views.items()}


def lowered_step(config: ml_collections.ConfigDict, devices: list) -> Any:
    """The training step of a config on these devices, as StableHLO."""
    steps = compile_steps(config, make_model(config), {}, updates=UPDATES, mesh=make_mesh(devices))
    return steps.train.lower(steps.abstract_state, batch_shapes(config))


def count_operations(stablehlo: str) -> int:
    """StableHLO operations of a program that is not compiled."""
    return len(re.findall(r" = \"?stablehlo\.", stablehlo))


def payload(shapes: str) -> int:
    """Bytes of the arrays in the type of an instruction's result: (f32[8,4]{1,0}, bf16[2])."""
    found = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shapes)
    return sum(ITEM_BYTES[dtype] * int(np.prod([int(n) for n in size.split(",") if n])) for dtype, size in found)


def count_convolutions(hlo: str) -> dict[str, int]:
    """Calls of cuDNN by what they compute: forward, by_map, by_kernel (gradients), each with and without groups."""
    counts = Counter()
    for line in hlo.splitlines():
        if call := re.search(r'custom_call_target="__cudnn\$(\w+)"', line):
            groups = re.search(r"feature_group_count=(\d+)", line)
            kind = CUDNN_KINDS.get(call[1], call[1])
            counts[f"grouped_{kind}" if groups and int(groups[1]) > 1 else kind] += 1
    return dict(sorted(counts.items()))


def count_collectives(hlo: str) -> dict[str, dict[str, int]]:
    """Collectives of a compiled program by kind: how many, and the bytes of their results on one device."""
    counts = {}
    for line in hlo.splitlines():
        found = re.match(r"\s+(?:ROOT )?%?\S+ = (.+?) ([a-z-]+?)(-start)?\(", line)
        if not found or found[2] not in COLLECTIVES:
            continue
        size = payload(found[1])
        if found[3] and found[2] != "all-reduce":  # its type holds the operands, too
            size -= payload(line[found.end() :].split("), ")[0])
        kind = counts.setdefault(found[2], {"count": 0, "bytes": 0})
        kind["count"] += 1
        kind["bytes"] += size
    return counts


def compiled_figures(config: ml_collections.ConfigDict, device: str, gpus: str) -> dict[str, Any]:
    """What the program of a config's training step holds, and the CPU seconds that it took to make it."""
    devices = devices_for(device, gpus)
    check_config(config, len(devices))
    start = time.process_time()
    lowered = lowered_step(config, devices)
    traced = time.process_time()
    program = lowered.compile(compiler_options={} if device == "cpu" else COMPILER_OPTIONS)
    compiled = time.process_time()
    hlo, plan = program.as_text(), program.memory_analysis()
    return {
        "device": device,
        "gpus": gpus,
        "fsdp": config.fsdp,
        "batch": config.batch_size // len(devices),
        "stablehlo": count_operations(lowered.as_text()),
        "trace_s": round(traced - start, 1),
        "compile_s": round(compiled - traced, 1),
        "temporary_mb": round(plan.temp_size_in_bytes / 1e6),
        "arguments_mb": round(plan.argument_size_in_bytes / 1e6),
        "fusions": len(re.findall(r" fusion\(", hlo)),
        "cudnn": count_convolutions(hlo),
        "collectives": count_collectives(hlo),
    }


def cells(figures: dict[str, Any]) -> list[str]:
    """A row of the table."""

    def joined(counts: dict[str, Any]) -> str:
        return ", ".join(f"{kind} {count}" for kind, count in counts.items()) or "none"

    sent = {kind: f"{c['count']} ({c['bytes'] / 1e6:.1f} MB)" for kind, c in figures["collectives"].items()}
    names = ("device", "gpus", "fsdp", "batch", "stablehlo", "trace_s", "compile_s", "temporary_mb", "fusions")
    return [*(str(figures[name]) for name in names), joined(figures["cudnn"]), joined(sent)]


TITLES = ["device", "hosts x GPUs", "fsdp", "batch of each", "StableHLO", "trace s", "compile s", "temporary MB"]
TITLES += ["fusions", "cuDNN", "collectives"]


def run() -> None:
    """Compiles for each arrangement of GPUs, prints a row as soon as it is known, and then the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, metavar="FILE[:RUN]", help="--config.FIELD=VALUE sets a field")
    parser.add_argument("--device", choices=[*GPUS, "cpu"], default="h200", help="compiled for (h200)")
    parser.add_argument("--gpus", nargs="+", default=["1x1"], help="hosts x GPUs of each; several in turn (1x1)")
    parser.add_argument("--batch", type=int, default=16, help="images of each device (16)")
    parser.add_argument("--json", type=as_path, help="write the figures here")
    args, overrides = parser.parse_known_args()
    rows = []
    for gpus in args.gpus:
        config = load_config(args.config, overrides)
        config.batch_size = args.batch * len(devices_for(args.device, gpus))
        rows.append(compiled_figures(config, args.device, gpus))
        print(json.dumps(rows[-1]), flush=True)
    print_rows(f"{args.config} {' '.join(overrides)}", TITLES, [cells(row) for row in rows])
    if args.json:
        write_whole(args.json, json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(exit_status(run))
