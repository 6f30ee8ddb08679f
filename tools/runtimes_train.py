"""Times a training step in JAX and in PyTorch, in turns, on the same cores.

    python -m tools.runtimes_train [--arch vgg16 ...] [--size=256] [--batch=4] [--rounds=5]

PyTorch trains the graph that `jaxdbd export` writes, as `onnx2torch` reads it, in both of its memory layouts, and
compiled: BatchNorm on the batch, cross-entropy of the focus map plus L1 of depth, and its fused AdamW. Ours is the step
of `train.py` under --config, which does more: it also has the losses of every side output, clips the gradient and
averages the weights. What is not installed is left out, and said so: pip install torch onnx2torch onnx
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import onnx

from jaxdbd.commands.benchmark import CONFIG
from jaxdbd.input.augment import Augmentation
from jaxdbd.input.pipeline import training_batches
from jaxdbd.machine.startup import exit_status, keep_memory
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.training.config import load_config
from jaxdbd.training.loop import initial_variables
from jaxdbd.training.timing import ARCHS, photographs, program_and_call
from jaxdbd.weights.onnx_graph import build
from tools.runtimes import CALLS, in_turns, print_times, torch_forms, torch_network

Step = Callable[[], float]  # trains on one batch; returns the loss before it
SEED = 0
LEARNING_RATE = 1e-4


def ours(model: DepthDistilledDBD, size: int, batch: int, config_file: str) -> Step:
    """The compiled step of a training under a config, from random weights."""
    config = load_config(config_file)
    augmentation = Augmentation(**config.augment)
    feed = training_batches([photographs(64)], size=size, batch_size=batch, seed=SEED, augmentation=augmentation)
    _, _, call = program_and_call(model, initial_variables(model, SEED, "", ""), "train", feed, config)
    return lambda: float(jax.device_get(call())["loss"])


def in_torch(graph: onnx.ModelProto, size: int, batch: int, channels_last: bool, compile_it: bool) -> Step:
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


def steps(arch: str, size: int, batch: int, config: str) -> dict[str, Step]:
    """The training step of each runtime, by its name."""
    encoder = ARCHS[arch]
    model = DepthDistilledDBD(encoder, full_resolution=not encoder.startswith("lite"), size=size)
    made = {"JAX (ours)": ours(model, size, batch, config)}
    graph = build(model, initial_variables(model, SEED, "", ""))
    made |= {name: in_torch(graph, size, batch, *flags) for name, flags in torch_forms().items()}
    return {name: partial(finite, name, step) for name, step in made.items()}


def finite(name: str, step: Step) -> float:
    """The loss of a step. Raises ValueError where it is not finite."""
    loss = step()
    if not np.isfinite(loss):
        raise ValueError(f"{name}: the loss is {loss}")
    return loss


def main() -> None:
    """Prints a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", choices=ARCHS, default=["vgg16"])
    parser.add_argument("--size", type=int, default=256, help="side of the square in pixels (256)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5, help=f"of {CALLS} steps each (5)")
    parser.add_argument("--config", default=str(CONFIG), help="whose losses and optimizer our step takes")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch's idle threads would keep the cores from the others
    for arch in args.arch:
        made = steps(arch, args.size, args.batch, args.config)
        in_turns(made, 1)  # compiles what is not yet compiled
        print_times(f"a training step of {arch}", in_turns(made, args.rounds), args.size, args.batch)


if __name__ == "__main__":
    keep_memory()
    sys.exit(exit_status(main))
