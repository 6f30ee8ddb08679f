"""What logging, checkpointing and input cost over the bare jitted step; wants a machine that does nothing else.

    python -m tools.measure_overhead --config.data_dir=DIR [--config=FILE] [--steps=40] [--rounds=3]
        [--config.field=value ...]

The bare step runs again and again on one batch that lies on the device, in turns with real trainings of as many steps,
which log four times and checkpoint once, half-way. What the checkpoint adds to the quarter after it is spread over as
many steps as lie between two checkpoints of the config.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from jaxdbd import sharding
from jaxdbd.machine.startup import exit_status, keep_memory
from jaxdbd.training.config import load_config
from jaxdbd.training.logs import read_metrics
from jaxdbd.training.loop import compile_steps, initial_variables, make_model, train

ROOT = Path(__file__).resolve().parents[1]


def bare_steps(config, steps: int):
    """A function that gives the seconds per step of so many steps on one batch."""
    mesh, model = sharding.make_mesh(), make_model(config)
    compiled = compile_steps(config, model, {}, steps, mesh)
    state = compiled.make_state(initial_variables(model, config.seed, config.encoder_init, ""))
    rng, b, s = np.random.default_rng(0), config.batch_size // config.accumulate, config.size
    batch = {
        "image": rng.integers(0, 256, (b, s, s, 3), dtype=np.uint8),
        "mask": rng.integers(0, 2, (b, s, s, 1), dtype=np.uint8) * np.uint8(255),
        "depth": rng.random((b, s, s, 1)).astype(np.float16),
    }
    batch = sharding.local_rows_to_devices(batch, mesh)
    state, _ = compiled.train(state, batch)

    def measure():
        nonlocal state
        jax.block_until_ready(state)
        start = time.perf_counter()
        for _ in range(steps):
            state, metrics = compiled.train(state, batch)
        jax.block_until_ready((state, metrics))
        return (time.perf_counter() - start) / steps

    return measure


def main() -> None:
    """Measures and prints both."""
    parser = argparse.ArgumentParser(
        description="What logging, checkpointing and input cost over the bare jitted step.", allow_abbrev=False
    )
    parser.add_argument("--config", default=str(ROOT / "configs/lite.py"))
    parser.add_argument("--steps", type=int, default=40, help="a multiple of 4")
    parser.add_argument("--rounds", type=int, default=3)
    args, overrides = parser.parse_known_args()
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
    config = load_config(args.config, overrides)
    between = min(config.checkpoint_every, config.eval_every)  # evaluations leave one too
    config.update(steps=args.steps, eval_split="", checkpoint_every=args.steps // 2, log_every=args.steps // 4)
    measure = bare_steps(config, args.steps)
    bare, logged, checkpoint = [measure()], [], []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            train(config, Path(folder))
            lines = read_metrics(Path(folder) / "metrics.jsonl")
        _, second, third, fourth = lines
        logged.append(config.batch_size * (1 / second["images_per_s"] + 1 / fourth["images_per_s"]) / 2)
        checkpoint.append(third["time"] - second["time"] - (third["step"] - second["step"]) * logged[-1])
        bare.append(measure())
    # Each training against the bare steps before and after it: machines slow down and recover.
    whole = [step + c / between for step, c in zip(logged, checkpoint, strict=True)]
    overheads = [100 * (2 * w / sum(around) - 1) for w, around in zip(whole, itertools.pairwise(bare), strict=True)]
    print("bare step, ms:", *(f"{1e3 * t:.0f}" for t in bare))
    print("with input and logging, ms:", *(f"{1e3 * t:.0f}" for t in logged))
    print(f"a checkpoint adds, ms, every {between} steps:", *(f"{1e3 * t:.0f}" for t in checkpoint))
    print("overhead, %:", *(f"{o:.1f}" for o in overheads), f"median {statistics.median(overheads):.1f}")


if __name__ == "__main__":
    keep_memory()  # as train.py does
    sys.exit(exit_status(main))
