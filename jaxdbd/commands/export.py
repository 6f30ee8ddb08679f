"""Files that run the network without this package: StableHLO for JAX on any platform, ONNX for everyone else.

Both take RGB bytes, uint8 [B, S, S, 3], and return what `jaxdbd.predict` does before it resizes to the photograph:
focus, depth and blur, as far as there are such heads, float32 [B, S, S]; blur as a share of S. B is free; the file
holds the weights and the normalization.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jaxdbd import weights
from jaxdbd.errors import UserError
from jaxdbd.inference import compiled, maps_of_bytes
from jaxdbd.machine.files import whole_file
from jaxdbd.machine.paths import as_path
from jaxdbd.network.model import DepthDistilledDBD

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
TOLERANCE = 1e-3  # on probability, nearness and shares of the side; the 8-bit map resolves 4e-3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxdbd export`."""
    parser.add_argument("--weights", default="lite", help="a bundled name, a .safetensors file or a training's folder")
    parser.add_argument("--out", type=as_path, required=True, help="FILE.onnx for ONNX, any other ending for StableHLO")
    parser.add_argument("--platforms", default="cpu,cuda,tpu", help="of StableHLO (cpu,cuda,tpu); ONNX runs on any")


def run(args: argparse.Namespace) -> None:
    """Writes the file, runs it, and keeps it only if it computes what `jaxdbd.predict` does."""
    model, variables = weights.load(args.weights)
    is_onnx = args.out.suffix.lower() == ".onnx"
    if is_onnx:
        # ONNX Runtime computes in float32, so the network that the file is compared with does too.
        model = model.clone(dtype=jnp.float32)
        content = to_onnx(model, variables, weights.read_metadata(args.weights))
    else:
        content = to_stablehlo(model, variables, args.platforms.split(","))
    # The file is checked as it lies on disk, before it gets its name.
    with whole_file(args.out) as unfinished:
        unfinished.write_bytes(content)
        with jax.default_matmul_precision("highest" if is_onnx else None):
            difference = check(model, variables, open_onnx(unfinished) if is_onnx else open_stablehlo(unfinished))
    side, outputs = model.size, ", ".join(model.heads())
    print(f"{args.out}: {len(content) / 1e6:.1f} MB, checked: at most {difference:.1e} from what predict computes")
    print(f"uint8 [B, {side}, {side}, 3] -> {outputs}, float32 [B, {side}, {side}]")


def to_stablehlo(model: DepthDistilledDBD, variables: weights.Variables, platforms: Sequence[str]) -> bytes:
    """The serialized `jax.export` of the network for all `platforms`, none of which need be present."""
    if unknown := sorted(set(platforms) - set(PLATFORMS)):
        raise UserError(f"--platforms: {', '.join(unknown)} not known; there are {', '.join(PLATFORMS)}")
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, model.size, model.size, 3), jnp.uint8)

    def outputs(images):
        return tuple(maps_of_bytes(model, variables, images))[: 3 if model.blur_head else 2]

    return bytes(jax.export.export(jax.jit(outputs), platforms=list(platforms))(images).serialize())


def to_onnx(model: DepthDistilledDBD, variables: weights.Variables, notes: weights.Metadata) -> bytes:
    """The network as an ONNX model that carries the weights' notes. Raises UserError without the `onnx` package."""
    try:
        import onnx

        from jaxdbd.weights.onnx_graph import build
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise UserError("export to ONNX needs one more package: pip install onnx") from error
    graph = build(model, variables)
    onnx.helper.set_model_props(
        graph, {name: str(getattr(notes, name)) for name in ("dataset", "license", "threshold")}
    )
    return graph.SerializeToString()


Run = Callable[[np.ndarray], Sequence[np.ndarray | None]]


def open_stablehlo(path: Path) -> Run:
    """The function in an exported file, on this machine's device."""
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    if jax.default_backend() not in [p.replace("cuda", "gpu").replace("rocm", "gpu") for p in exported.platforms]:
        raise UserError(f"--platforms: {jax.default_backend()} must be among them, for the file to be checked here")
    return jax.jit(exported.call)


def open_onnx(path: Path) -> Run:
    """The function in an ONNX file, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: [np.asarray(output) for output in session.run(None, {"image": images})]


def check(model: DepthDistilledDBD, variables: weights.Variables, run: Run) -> float:
    """The largest difference between `run` and the network on a few images. Raises RuntimeError above TOLERANCE."""
    images = sample_images(model.size)
    network = compiled(model)  # pyright: ignore[reportArgumentType]  # as in inference.py
    # One by one: a file must take any batch.
    expected = [network(variables, images[i : i + 1]) for i in range(len(images))]
    outputs = run(images)
    worst = 0.0
    for name, output in zip(model.heads(), [output for output in outputs if output is not None], strict=True):
        wanted, got = np.concatenate([getattr(row, name) for row in expected]), np.asarray(output)
        if got.shape != wanted.shape:
            raise RuntimeError(f"the exported {name} is {got.shape}, the network's {wanted.shape}")
        difference = float(np.abs(got - wanted).max())
        if not difference <= TOLERANCE:  # NaN included
            raise RuntimeError(f"the exported {name} differs from the network's by {difference:.2g}")
        worst = max(worst, difference)
    return worst


def sample_images(size: int) -> UInt8[np.ndarray, "3 {size} {size} 3"]:
    """Noise, coarse noise and a ramp: sharp everywhere, slightly blurred, and sharp nowhere."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (size // 16, size // 16, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    ramp = np.linspace(0, 255, size).astype(np.uint8)[:, None, None] + np.zeros((size, size, 3), np.uint8)
    return np.stack([rng.integers(0, 256, (size, size, 3), np.uint8), coarse, ramp])
