"""Times a network in JAX, PyTorch, ONNX Runtime and OpenVINO, in turns, on the same cores: forward, or a training step.

    python -m tools.runtimes --arch lite vgg16 --batch 1 4 --rounds=3
    python -m tools.runtimes --mode=train --arch vgg16 --batch 4 --size=256

All run the graph that `jaxdbd export` writes to an .onnx file; PyTorch as `onnx2torch` reads it, in both of its memory
layouts, and compiled. A training step of PyTorch has BatchNorm on the batch, cross-entropy of the focus map plus L1 of
depth, and its fused AdamW. Ours is the step of `train.py` with configs/lite.py, which does more: it also has the losses
of every side output, clips the gradient and averages the weights. What is not installed is left out, and said so:

    pip install torch onnx2torch openvino onnxruntime onnx
"""

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx

from jaxdbd import weights
from jaxdbd.commands.benchmark import CONFIG
from jaxdbd.inference import compiled
from jaxdbd.input.augment import Augmentation
from jaxdbd.machine.parallel import cores
from jaxdbd.machine.startup import exit_status, keep_memory
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.scoring.report import print_rows
from jaxdbd.training.config import load_config
from jaxdbd.training.loop import initial_variables
from jaxdbd.training.timing import ARCHS, made_up_batches, made_up_network, program_and_call
from jaxdbd.weights.onnx_graph import build

Forward = Callable[[np.ndarray], np.ndarray]  # uint8 [B, S, S, 3] to the focus map [B, S, S]
Step = Callable[[], float]  # trains on one batch; returns the loss before it
CALLS = 3  # of one runtime before it is the next one's turn
TOLERANCE = 1e-3  # between the focus maps of two runtimes
SEED = 0
LEARNING_RATE = 1e-4


def our_forward(model: DepthDistilledDBD, variables: weights.Variables) -> Forward:
    """The compiled network that `jaxdbd predict` applies."""
    network = compiled(model)  # pyright: ignore[reportArgumentType]  # as in inference.py
    return lambda images: np.asarray(network(variables, images)[0])


def in_onnxruntime(graph: onnx.ModelProto) -> Forward:
    """ONNX Runtime on the CPU, all of its graph optimizations on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["focus"], {"image": images})[0])


def in_openvino(graph: onnx.ModelProto) -> Forward:
    """OpenVINO on the CPU, in float32, tuned for the time of one call."""
    import openvino  # pyright: ignore[reportMissingImports]

    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    network = core.compile_model(core.read_model(graph.SerializeToString()), "CPU", settings)
    return lambda images: network(images)[0]


def torch_network(graph: onnx.ModelProto, channels_last: bool):
    """A module of PyTorch that computes the graph, with feature maps in one of its two memory layouts."""
    import onnx2torch  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(cores())
    torch._dynamo.config.recompile_limit = 256  # onnx2torch has one function for all enlargements
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = onnx2torch.convert(graph).to(memory_format=layout)
    # The graph's first transposition leaves the photograph as it lies, which is channels last.
    first = next(m for name, m in network.named_modules() if name.startswith("Transpose"))
    first.register_forward_hook(lambda module, inputs, output: output.contiguous(memory_format=layout))
    return network


def torch_forward(graph: onnx.ModelProto, channels_last: bool, compile_it: bool) -> Forward:
    """PyTorch, as it is or compiled."""
    import torch  # pyright: ignore[reportMissingImports]

    network = torch_network(graph, channels_last).eval()
    run = torch.compile(network) if compile_it else network

    def forward(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            maps = run(torch.from_numpy(images))
        return (maps[0] if isinstance(maps, tuple | list) else maps).numpy()

    return forward


def forwards(model: DepthDistilledDBD, variables: weights.Variables) -> dict[str, Callable[[], Forward]]:
    """What makes each runtime's forward pass, by its name."""
    graph = build(model, variables)
    made: dict[str, Callable[[], Forward]] = {"JAX (ours)": lambda: our_forward(model, variables)}
    made |= {name: lambda flags=flags: torch_forward(graph, *flags) for name, flags in torch_forms().items()}
    if installed("onnxruntime"):
        made["ONNX Runtime"] = lambda: in_onnxruntime(graph)
    if installed("openvino"):
        made["OpenVINO"] = lambda: in_openvino(graph)
    return made


def torch_forms() -> dict[str, tuple[bool, bool]]:
    """Each way to run PyTorch: whether channels are last, and whether it is compiled. {} where it is not installed."""
    if not (installed("torch") and installed("onnx2torch")):
        return {}
    layouts, ways = {"first": False, "last": True}, {"": False, ", compiled": True}
    return {
        f"PyTorch, channels {layout}{how}": (last, compile_it)
        for layout, last in layouts.items()
        for how, compile_it in ways.items()
    }


def installed(package: str) -> bool:
    """Whether a package is there; says so if it is not."""
    there = importlib.util.find_spec(package) is not None
    if not there:
        print(f"{package} is not installed: left out", file=sys.stderr)
    return there


def in_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each call: the median over all of its calls, a few of one after a few of the other."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(CALLS):
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def print_times(title: str, seconds: dict[str, float], size: int, batch: int) -> None:
    """A table of what a call on a batch takes in each runtime, ours first."""
    best = next(iter(seconds.values()))
    rows = [[name, f"{1e3 * each / batch:.1f}", f"{each / best:.2f}"] for name, each in seconds.items()]
    print_rows(
        f"{title}, {size} pixels, batch {batch}, {cores()} cores", ["runtime", "ms per image", "over ours"], rows
    )


def agreeing(made: dict[str, Callable[[], Forward]], images: np.ndarray) -> dict[str, Forward]:
    """Each forward pass, called once; one that does not give our map, or cannot run, is told of and left out."""
    alike: dict[str, Forward] = {}
    expected = None
    for name, make in made.items():
        try:
            forward = make()
            focus = forward(images)
        except Exception as error:  # another runtime's, of whatever kind: the rest are still timed
            if expected is None:
                raise
            print(f"{name} does not run here: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        expected = focus if expected is None else expected
        difference = float(np.abs(focus - expected).max())
        if not difference <= TOLERANCE:
            print(f"{name} gives another map, by {difference:.2g}: left out", file=sys.stderr)
            continue
        alike[name] = forward
    return alike


def our_step(model: DepthDistilledDBD, size: int, batch: int) -> Step:
    """The compiled step of a training with configs/lite.py, from random weights."""
    config = load_config(str(CONFIG))
    feed = made_up_batches(size, batch, Augmentation(**config.augment))
    _, _, call = program_and_call(model, initial_variables(model, SEED, "", ""), "train", feed, config)
    return lambda: float(jax.device_get(call())["loss"])


def torch_step(graph: onnx.ModelProto, size: int, batch: int, channels_last: bool, compile_it: bool) -> Step:
    """PyTorch on made-up photographs, masks and depth."""
    import torch  # pyright: ignore[reportMissingImports]

    network = torch_network(graph, channels_last).train()
    run = torch.compile(network) if compile_it else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, fused=True)
    rng = np.random.default_rng(SEED)
    images = torch.from_numpy(rng.integers(0, 256, (batch, size, size, 3), np.uint8))
    mask = torch.from_numpy(rng.integers(0, 2, (batch, size, size)).astype(np.float32))
    depth = torch.from_numpy(rng.random((batch, size, size), np.float32))

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        focus, nearness = run(images)
        loss = torch.nn.functional.binary_cross_entropy(focus, mask) + (nearness - depth).abs().mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def steps(arch: str, size: int, batch: int) -> dict[str, Step]:
    """The training step of each runtime, by its name."""
    encoder = ARCHS[arch]
    model = DepthDistilledDBD(encoder, full_resolution=not encoder.startswith("lite"), size=size)
    made = {"JAX (ours)": our_step(model, size, batch)}
    graph = build(model, initial_variables(model, SEED, "", ""))
    made |= {name: torch_step(graph, size, batch, *flags) for name, flags in torch_forms().items()}
    return {name: partial(finite, name, step) for name, step in made.items()}


def finite(name: str, step: Step) -> float:
    """The loss of a step. Raises ValueError where it is not finite."""
    loss = step()
    if not np.isfinite(loss):
        raise ValueError(f"{name}: the loss is {loss}")
    return loss


def time_forward(arch: str, size: int, batches: list[int], rounds: int) -> None:
    """Prints a table for each batch size."""
    model, variables = made_up_network(arch, size, depth_head=False)
    made = forwards(model.clone(dtype=jnp.float32), variables)
    for batch in batches:
        images = np.random.default_rng(SEED).integers(0, 256, (batch, size, size, 3), np.uint8)
        calls = {runtime: partial(forward, images) for runtime, forward in agreeing(made, images).items()}
        print_times(arch, in_turns(calls, rounds), size, batch)


def time_steps(arch: str, size: int, batches: list[int], rounds: int) -> None:
    """Prints a table for each batch size."""
    for batch in batches:
        made = steps(arch, size, batch)
        in_turns(made, 1)  # compiles what is not yet compiled
        print_times(f"a training step of {arch}", in_turns(made, rounds), size, batch)


def main() -> None:
    """Prints a table for each network and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=["fwd", "train"], default="fwd")
    parser.add_argument("--arch", nargs="+", choices=ARCHS, default=["lite"])
    parser.add_argument("--size", type=int, default=320, help="side of the square in pixels (320)")
    parser.add_argument("--batch", type=int, nargs="+", default=[4])
    parser.add_argument("--rounds", type=int, default=5, help=f"of {CALLS} calls each (5)")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch's idle threads would keep the cores from the others
    for arch in args.arch:
        (time_steps if args.mode == "train" else time_forward)(arch, args.size, args.batch, args.rounds)


if __name__ == "__main__":
    keep_memory()
    sys.exit(exit_status(main))
