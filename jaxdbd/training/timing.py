"""Time, memory and arithmetic of a network, of a training step, or of the input pipeline, on made-up photographs."""

import io
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image

from jaxdbd import weights
from jaxdbd.inference import maps_of_bytes
from jaxdbd.input.augment import Augmentation
from jaxdbd.input.batches import Batch, Numbers, batches
from jaxdbd.input.placement import place
from jaxdbd.input.resident import longest_side
from jaxdbd.input.stream import make_stream
from jaxdbd.machine.parallel import most_resident
from jaxdbd.machine.profile import seconds_by_kind
from jaxdbd.network.encoders import ENCODERS
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.sharding import make_mesh
from jaxdbd.training.programs import compile_steps

ARCHS = {"lite": "lite0", **{name: name for name in ENCODERS}}
PHOTO = (427, 640)  # height and width of CUHK's median photograph
PHOTOGRAPHS = 64  # that are made up


def photographs(count: int) -> list[dict]:
    """Records as `open_split` gives them, of made-up photographs in CUHK's median size."""
    rng = np.random.default_rng(0)

    def encode(array, kind, **options):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, kind, **options)
        return buffer.getvalue()

    made = []
    for i in range(count):
        coarse = rng.integers(0, 256, (27, 40, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((PHOTO[1], PHOTO[0]), Image.Resampling.BICUBIC))
        mask = ((image[..., 0] > 127) * 255).astype(np.uint8)
        record = {"id": f"made_up{i}", "image": encode(image, "JPEG", quality=90), "mask": encode(mask, "PNG")}
        made.append({**record, "depth": rng.random((224, 224, 1)).astype(np.float16)})
    return made


def made_up_batches(size: int, batch_size: int, augmentation: Augmentation) -> Iterator[tuple[Batch, Numbers]]:
    """Endless batches of made-up photographs for the first device, as a training gets them."""
    placed = place([photographs(PHOTOGRAPHS)], longest_side(size), ["depth"], "auto")
    return batches(
        placed,
        make_stream([PHOTOGRAPHS], None, seed=0),
        first=0,
        size=size,
        augmentation=augmentation,
        batch_size=batch_size,
        mesh=make_mesh(jax.devices()[:1]),
        workers=0,
    )


def made_up_network(
    arch: str, size: int, dtype: str = "float32", depth_head: bool = True
) -> tuple[DepthDistilledDBD, weights.Variables]:
    """A network of `ARCHS` with its usual decoder, and random weights.

    Which numbers they are does not change the time, if they are not zero; these keep every activation finite.
    """
    encoder = ARCHS[arch]
    model = DepthDistilledDBD(
        encoder,
        full_resolution=not encoder.startswith("lite"),
        depth_head=depth_head,
        dtype=jnp.dtype(dtype),
        size=size,
    )
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda s: rng.uniform(0.01, 0.02, s.shape).astype(s.dtype), weights.shapes(model))
    return model, jax.device_put(drawn)


def seconds_per_call(call: Callable[[], Any], repeats: int) -> list[float]:
    """Times of `repeats` calls, each waited for, after one that is not counted."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return times


def matmul_flops_per_second(dtype: str) -> float:
    """What a 2048 x 2048 matrix product reaches here: the yardstick for everything else."""
    n = 2048
    a = jnp.ones((n, n), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * n**3 / statistics.median(seconds_per_call(lambda: product(a, a), 10))


def compile_timed(function: Callable, *arguments: Any) -> tuple[Any, float]:
    """The compiled program, and the seconds that tracing and compiling took."""
    start = time.perf_counter()
    program = function.lower(*arguments).compile()
    return program, time.perf_counter() - start


def peak_bytes(program: Any) -> int:
    """Arguments, results and temporaries of a compiled program, as XLA plans them."""
    plan = program.memory_analysis()
    return int(
        plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes - plan.alias_size_in_bytes
    )


def program_and_call(
    model: DepthDistilledDBD, variables: Any, mode: str, feed: Any, config: ml_collections.ConfigDict | None
) -> tuple[Any, float, Callable[[], Any]]:
    """A compiled program, its compile time, and a call that runs it once on a fresh or kept batch.

    The program is the network without a `config`, and a training step by it otherwise.
    """
    rows, _ = next(feed)
    if config is None:
        program, seconds = compile_timed(jax.jit(partial(maps_of_bytes, model)), variables, rows["image"])
        return program, seconds, lambda: program(variables, rows["image"])

    steps = compile_steps(config, model, {}, updates=1000, mesh=make_mesh(jax.devices()[:1]))
    state = steps.make_state(variables)
    program, seconds = compile_timed(steps.train, state, rows)

    def call():
        nonlocal state
        state, metrics = program(state, next(feed)[0] if mode == "loop" else rows)
        return metrics

    return program, seconds, call


def measure(
    model: DepthDistilledDBD,
    variables: Any,
    arch: str,
    mode: str,
    size: int,
    batch: int,
    repeats: int,
    config: ml_collections.ConfigDict | None = None,
    operations: bool = False,
) -> dict:
    """The figures of one setting; times are medians, the spread is the quartiles.

    `config` is that of a training, for every mode but fwd: its losses, optimizer and augmentation are taken. With
    `operations` also the milliseconds per image in each kind of operation.
    """
    augmentation = Augmentation(**config.augment) if config else Augmentation()
    feed = made_up_batches(size, batch, augmentation)
    figures = {"arch": arch, "size": size, "batch": batch, "mode": mode}
    if mode == "input":
        times = seconds_per_call(lambda: next(feed)[0]["image"], max(repeats, 200 // batch))
    else:
        program, compile_seconds, call = program_and_call(model, variables, mode, feed, config)
        times = seconds_per_call(call, repeats)
        cost = program.cost_analysis()
        flops = cost.get("flops", 0.0)
        rate = flops / statistics.median(times)
        figures |= {
            "dtype": str(jnp.dtype(model.dtype)),
            "compile_s": round(compile_seconds, 2),
            "gflop_per_image": round(flops / batch / 1e9, 3),
            "gb_moved_per_image": round(cost.get("bytes accessed", 0.0) / batch / 1e9, 3),
            "gflop_per_s": round(rate / 1e9, 1),
            "share_of_matmul": round(rate / matmul_flops_per_second(str(jnp.dtype(model.dtype))), 3),
            "program_mb": round(peak_bytes(program) / 1e6, 1),
        }
        if operations:
            seconds = seconds_by_kind(program, call, repeats)
            figures["ms_by_operation"] = {kind: round(s / batch * 1e3, 2) for kind, s in seconds.items()}
    median = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4)
    return figures | {
        "ms_per_image": round(median / batch * 1e3, 3),
        "ms_per_image_quartiles": [round(low / batch * 1e3, 3), round(high / batch * 1e3, 3)],
        "images_per_s": round(batch / median, 2),
        "peak_rss_mb": round(most_resident() / 1e6, 1),
        "device": jax.devices()[0].device_kind,
    }
