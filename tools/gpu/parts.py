"""What `tools.on_gpu` measures, a function each, run as a process of its own.

    python -m tools.gpu.parts NAME --out=DIR [--tiny]

A part imports what it needs, so that one without its packages leaves the others alone. It prints a line as soon as it
knows one. `--tiny` are sizes for a test on a CPU.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array_record", "ml_collections")
PACKAGES += ("tensorflow-datasets", "numpy", "torch", "beartype", "pytest")
# Exact comparisons, which need no more precision than float32 has: convolutions' forms, derivatives, losses, the input.
TESTS = ("network/test_convolutions.py", "network/test_bilinear.py", "training/test_losses.py", "input/test_augment.py")
# (mode, dtype, batch), what tells most first: the time limit may cut the rest.
SETTINGS = [
    ("train", "bfloat16", 64),
    ("fwd", "bfloat16", 64),
    ("train", "float32", 16),
    ("fwd", "bfloat16", 1),
    ("train", "bfloat16", 16),
    ("fwd", "float32", 16),
]
CONFIGS = {"lite": "lite", "vgg16": "default", "resnext101": "default"}  # files of configs/
SIZES = {"lite": 256, "vgg16": 320, "resnext101": 320}
TRAINING_SECONDS = 75  # from the first line of train.py on, the compiler included


def say(line: str) -> None:
    """A line of the report, at once."""
    print(line, flush=True)


def need(*modules: str) -> None:
    """Raises ModuleNotFoundError for the first that is missing: of what another process will import."""
    for name in modules:
        if not importlib.util.find_spec(name):
            raise ModuleNotFoundError(name=name)


def versions(out: Path, tiny: bool) -> None:
    """Versions of what counts, and the device."""
    import jax

    say(f"Python {platform.python_version()}, {platform.platform()}")
    for package in PACKAGES:
        try:
            say(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            say(f"{package} is not installed")
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit", 0)
    say(f"JAX runs on {jax.device_count()} x {device.device_kind}, {memory / 1e9:.1f} GB for it")
    if shutil.which("nvidia-smi"):
        subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])


def tests(out: Path, tiny: bool) -> None:
    """Tests of what a GPU computes in another way, in full float32."""
    need("beartype", "jaxtyping", "ml_collections", "grain")
    import jax
    import pytest

    jax.config.update("jax_default_matmul_precision", "highest")
    files = [str(ROOT / "tests" / name) for name in (("machine/test_profile.py",) if tiny else TESTS)]
    status = pytest.main(["-m", "not slow", "--durations=0", "-p", "no:cacheprovider", *files])
    if status:
        sys.exit(f"pytest ended with {status!r}")


def network(arch: str, out: Path, tiny: bool) -> None:
    """Forward and step times of one network, or, with `tiny`, of that of the tests."""
    if tiny:
        sys.path.append(str(ROOT / "tests"))
        arch = importlib.import_module("tiny").NAME  # before `timing` reads what encoders there are
    from jaxdbd.machine.startup import keep_compiled_programs
    from jaxdbd.training.config import load_config
    from jaxdbd.training.timing import made_up_network, measure

    keep_compiled_programs()
    settings = [("fwd", "float32", 2)] if tiny else SETTINGS
    size, repeats = (32, 2) if tiny else (SIZES[arch], 20)
    for mode, dtype, batch in settings:
        config = load_config(str(ROOT / "configs" / f"{CONFIGS[arch]}.py")) if mode == "train" else None
        if config:
            # The augmentation that is not part of the step need not be compiled in full for its one batch.
            config.augment = load_config(str(ROOT / "configs" / "default.py")).augment
        model, variables = made_up_network(arch, size, dtype)
        row = measure(model, variables, arch, mode, size, batch, repeats, config)
        say(
            f"{arch} {mode} {size} pixels {dtype} batch {batch}: {row['ms_per_image']} ms per image,"
            f" {row['images_per_s']} images/s, {row['share_of_matmul']} of a matrix product's rate,"
            f" {row['program_mb']} MB, compiled in {row['compile_s']} s"
        )


def depthwise(out: Path, tiny: bool) -> None:
    """Both forms of every depthwise convolution of the lite network, with their gradients."""
    import jax
    import jax.numpy as jnp

    from jaxdbd.network import convolutions, plain
    from jaxdbd.network.bilinear import Form, Forms, bilinear
    from jaxdbd.network.grouped import SHIFTED_CUDA
    from jaxdbd.training.timing import seconds_per_call

    batch, dtype = (2, jnp.float32) if tiny else (64, jnp.bfloat16)
    forms = {"grouped": Form(plain.grouped_depthwise), "shifted": SHIFTED_CUDA}
    sums = dict.fromkeys(forms, 0.0)

    def both(form: Form, stride: int, x: Any, kernel: Any, dy: Any) -> Any:
        convolve = partial(bilinear, Forms("timed", default=form))
        y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, stride), x, kernel)
        return y, pull(dy)

    for side, channels, k, stride, count in depthwise_layers(64 if tiny else SIZES["lite"])[: 2 if tiny else None]:
        x, kernel = jnp.ones((batch, side, side, channels), dtype), jnp.ones((k, k, 1, channels), dtype)
        dy = jax.eval_shape(partial(convolutions.depthwise_conv, stride=stride), x, kernel)
        dy = jnp.ones(dy.shape, dy.dtype)
        line = f"depthwise {k}x{k} stride {stride}, {side}x{side}x{channels}, batch {batch}, {count} of them:"
        for name, form in forms.items():
            step = jax.jit(partial(both, form, stride))
            ms = 1e3 * statistics.median(seconds_per_call(partial(step, x, kernel, dy), 3 if tiny else 20))
            sums[name] += count * ms
            line += f" {name} {ms:.3f} ms"
        say(line)
    say("all of them: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in sums.items()))


def depthwise_layers(size: int) -> list[tuple[int, int, int, int, int]]:
    """Side, channels, kernel, stride and count of each kind of depthwise convolution in lite0 at `size` pixels."""
    from jaxdbd.network.encoders import EFFICIENTNET_STAGES

    side, width, layers = size // 2, 32, {}
    for expansion, k, stride, channels, repeats in EFFICIENTNET_STAGES:
        for i in range(repeats):
            layer = (side, expansion * width, k, stride if i == 0 else 1)
            layers[layer] = layers.get(layer, 0) + 1
            side, width = (side // stride if i == 0 else side), channels
    return [(*layer, count) for layer, count in layers.items()]


def input_rate(out: Path, tiny: bool) -> None:
    """Images per second of the input pipeline alone, on made-up photographs that lie where they fit."""
    from jaxdbd.input.augment import Augmentation
    from jaxdbd.training.config import load_config
    from jaxdbd.training.timing import made_up_batches, seconds_per_call

    for name in ("default",) if tiny else ("default", "lite"):
        config = load_config(str(ROOT / "configs" / f"{name}.py"))
        size, batch = (32, 2) if tiny else (config.size, 64)
        feed = made_up_batches(size, batch, Augmentation(**config.augment))
        seconds = statistics.median(seconds_per_call(lambda feed=feed: next(feed)[0]["image"], 3 if tiny else 20))
        say(f"input of configs/{name}.py, {size} pixels, batch {batch}: {batch / seconds:.0f} images/s")


def training(out: Path, tiny: bool) -> None:
    """Real training on rendered scenes, with a profile; its log has the share of time that it waited for input."""
    need("array_record", "cv2", "grain", "ml_collections", "safetensors", "tensorboardX", "tensorflow_datasets", "tqdm")
    data, workdir = out / "data", out / "training"
    scenes = ["--train_scenes=8", "--test_scenes=2", "--size=64"] if tiny else ["--train_scenes=256"]
    build = ["data/build.py", "--dataset=synthetic", "--teacher=scene", f"--data_dir={data}", *scenes]
    subprocess.run([sys.executable, *build], cwd=ROOT, check=True)
    fields = {"data_dir": data, "eval_split": ""}
    if tiny:
        script = ["tests/tiny.py"]
        fields |= {f"augment.{name}": 0.0 for name in ("sharp", "blurred", "refocused", "pasted", "noise", "jpeg")}
    else:
        script = ["train.py", "--config=configs/lite.py"]
        fields |= {"dataset": "dbd/synthetic", "train_split": "train", "encoder_init": "", "epochs": 100_000}
        fields |= {"batch_size": 64, "dtype": "bfloat16"}
    flags = [f"--workdir={workdir}", "--profile", *(f"--config.{name}={value}" for name, value in fields.items())]
    run = subprocess.Popen([sys.executable, *script, *flags], cwd=ROOT)
    try:
        status = run.wait(None if tiny else TRAINING_SECONDS)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGTERM)  # it saves and ends
        status = run.wait()
    if status:
        sys.exit(f"train.py ended with {status}")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rates = [row["images_per_s"] for row in rows if "images_per_s" in row]
    rate = statistics.median(rates[len(rates) // 2 :])
    say(f"training: step {rows[-1]['step']}, loss {rows[-1]['loss']:.3f}, {rate:.0f} images/s, the later half's median")
    say(f"its log ends with {json.dumps(rows[-1])}")
    say(f"a profile of five steps is in {workdir / 'profile'}")


def in_pytorch(out: Path, tiny: bool) -> None:
    """The paper's network with VGG16 in PyTorch: eager and compiled, channels last."""
    import torch  # pyright: ignore[reportMissingImports]

    from tools.gpu.pytorch import timed

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = [(2, 32)] if tiny else [(64, SIZES["vgg16"]), (16, SIZES["vgg16"])]
    for batch, size in sizes:
        for dtype in ("float32",) if tiny else ("bfloat16", "float32"):
            for compiled in (False,) if tiny else (False, True):
                for mode in ("train", "fwd"):
                    ms = 1e3 * timed(mode, dtype, batch, size, compiled, device, repeats=2 if tiny else 10)
                    how = "compiled" if compiled else "eager"
                    say(
                        f"PyTorch {how} vgg16 {mode} {size} pixels {dtype} batch {batch}: {ms / batch:.3f} ms per image"
                    )


PARTS: dict[str, Callable[[Path, bool], None]] = {
    "versions": versions,
    "tests": tests,
    **{arch: partial(network, arch) for arch in SIZES},
    "pytorch": in_pytorch,
    "depthwise": depthwise,
    "input": input_rate,
    "training": training,
}


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    try:
        PARTS[args.part](args.out.absolute(), args.tiny)
    except ModuleNotFoundError as missing:
        say(f"{args.part}: left out, as {missing.name} is not installed")


if __name__ == "__main__":
    main()
