"""What the network says of photographs: the function `jaxdbd.predict`, and the parts that every command shares."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import Any, NamedTuple, cast, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from jaxdbd.input.geometry import to_size, to_square
from jaxdbd.machine.compiling import inference_options
from jaxdbd.network.edges import crisp
from jaxdbd.network.model import DepthDistilledDBD, Output, normalize, restored
from jaxdbd.weights import Variables

SquareMaps = tuple[Float32[np.ndarray, "s s"], Float32[np.ndarray, "s s"] | None]

BLOCK = 16  # pixels of the network's map; divides every size it has


class Prediction(NamedTuple):
    """What is known of one photograph, at its own size."""

    focus: Float32[np.ndarray, "h w"]  # probability of being in focus
    depth: Float32[np.ndarray, "h w"] | None  # nearness in [0, 1], 1 = nearest; None without a depth head


@overload
def predict(model: DepthDistilledDBD, variables: Variables, image: UInt8[np.ndarray, "h w 3"]) -> Prediction: ...
@overload
def predict(
    model: DepthDistilledDBD, variables: Variables, image: Sequence[UInt8[np.ndarray, "_ _ 3"]]
) -> list[Prediction]: ...
def predict(
    model: DepthDistilledDBD,
    variables: Variables,
    image: UInt8[np.ndarray, "h w 3"] | Sequence[UInt8[np.ndarray, "_ _ 3"]],
) -> Prediction | list[Prediction]:
    """Focus and depth of an RGB photograph of any size, or a list of them for a list of photographs.

    Compiles on the first call, once for all sizes. A photograph gives the same result alone and in any list. Raises
    ValueError for anything but uint8 [h, w, 3].
    """
    images = [image] if isinstance(image, np.ndarray) else image
    squares = (to_square(image, model.size) for image in images)
    predictions = [
        Prediction(to_size(focus, image.shape[:2]), None if depth is None else to_size(depth, image.shape[:2]))
        for image, (focus, depth) in zip(images, predict_maps(model, variables, squares), strict=True)
    ]
    return predictions[0] if isinstance(image, np.ndarray) else predictions


def predict_maps(
    model: DepthDistilledDBD, variables: Variables, squares: Iterable[UInt8[np.ndarray, "s s 3"]]
) -> Iterator[SquareMaps]:
    """Focus and depth of each photograph resized to `model.size`, in order, at that size.

    The network always sees a batch of the same size, the last one padded: so it is compiled once, and what else is in
    a batch can change nothing. Squares are taken while the device works on the batch before.
    """
    # A module is a frozen dataclass, which can be hashed; flax's annotations do not say so.
    network, batch_size = compiled(model), batch_size_of(jax.default_backend())  # pyright: ignore[reportArgumentType]
    squares = iter(squares)
    batches = iter(lambda: list(islice(squares, batch_size)), [])

    def dispatch(rows):
        return network(variables, np.stack(rows + rows[-1:] * (batch_size - len(rows))))

    for rows, (focus, depth) in one_ahead(dispatch, batches):
        focus, depth = np.asarray(focus), None if depth is None else np.asarray(depth)
        for i in range(len(rows)):
            yield focus[i], None if depth is None else depth[i]


def one_ahead(dispatch: Callable[[Any], Any], items: Iterable) -> Iterator[tuple[Any, Any]]:
    """(item, dispatch(item)) of each item, in order; the next one is dispatched before the last is handed out.

    So the host prepares and reads results while the device works.
    """
    running = None
    for item in items:
        dispatched = item, dispatch(item)
        if running:
            yield running
        running = dispatched
    if running:
        yield running


def batch_size_of(platform: str) -> int:
    """Photographs per call of the network. A CPU is no faster per photograph with more; accelerators are."""
    return 1 if platform == "cpu" else 16


@lru_cache
def compiled(model: DepthDistilledDBD) -> Callable:
    """(variables, uint8 [B, S, S, 3]) -> probability and nearness, float32 [B, S, S]; one function per network."""
    return jax.jit(partial(probability_and_nearness, model), compiler_options=inference_options())


def probability_and_nearness(
    model: DepthDistilledDBD, variables: Variables, images: UInt8[Array, "b s1 s2 3"]
) -> tuple[Float[Array, "b s1 s2"], Float[Array, "b s1 s2"] | None]:
    """What a user gets of the network, from RGB bytes; nearness is None without a depth head."""
    return maps_of(model, variables, normalize(images, model.encoder))


def maps_of(
    model: DepthDistilledDBD, variables: Variables, normalized: Float[Array, "b s1 s2 3"]
) -> tuple[Float[Array, "b s1 s2"], Float[Array, "b s1 s2"] | None]:
    """`probability_and_nearness` from images that are normalized already."""
    output = cast(Output, model.apply(variables, normalized))  # a pair only with `mutable`
    depth = None if output.depth is None else stretched(output.depth[..., 0])
    logits = crisp(output.focus[..., 0], restored(normalized, model.encoder), model.edge_radius, model.edge_slope)
    return jax.nn.sigmoid(logits), depth


def raw(model: DepthDistilledDBD) -> DepthDistilledDBD:
    """The same network, of which `predict` gives the probability as it comes, with soft edges."""
    return model.clone(edge_radius=0.0, edge_slope=1.0)


def raw_threshold(threshold: float, slope: float) -> float:
    """What a threshold on probabilities is before their logits are multiplied by `slope`."""
    if not 0 < threshold < 1:
        return threshold
    odds = (threshold / (1 - threshold)) ** (1 / slope)
    return odds / (1 + odds)


def stretched(depth: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Each map stretched so that the least of its block means is 0 and the greatest is 1, and clipped to [0, 1].

    The network's depth is relative: losses that leave its scale and shift free determine neither. Blocks of 16 x 16
    pixels keep a single one from deciding. A constant map becomes 0.
    """
    b, h, w = depth.shape
    means = depth.reshape(b, h // BLOCK, BLOCK, w // BLOCK, BLOCK).mean(axis=(2, 4))
    low, high = (f(axis=(1, 2), keepdims=True) for f in (means.min, means.max))
    return ((depth - low) / jnp.maximum(high - low, 1e-6)).clip(0, 1)
