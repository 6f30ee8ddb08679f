"""What the network says of photographs: the function `jaxdbd.predict`, and the parts that every command shares."""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import Any, NamedTuple, cast, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from jaxdbd.input.geometry import to_size, to_square
from jaxdbd.network.edges import crisp
from jaxdbd.network.model import BLUR_SIDE, DepthDistilledDBD, Output, diameter, normalize, restored
from jaxdbd.weights import Variables

BLOCK = 16  # pixels of the network's map; divides every size it has
# On a CPU these compile in half the time of XLA's defaults, to programs that are as fast and give the same bits
# (docs/performance.md): each of a network's two hundred small loops is compiled by itself, and has little to improve.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}


class SquareMaps(NamedTuple):
    """What a user gets of the network for a square photograph [S, S], or for a batch of them [B, S, S]; float32."""

    focus: Any  # probability of being in focus
    depth: Any  # nearness in [0, 1], 1 = nearest; None without a depth head
    blur: Any  # diameter of the circle of confusion, a share of the square's side; None without a blur head


class FocusAndDepth(NamedTuple):
    """What is known of one photograph, at its own size."""

    focus: Float32[np.ndarray, "h w"]  # probability of being in focus
    depth: Float32[np.ndarray, "h w"] | None  # nearness in [0, 1], 1 = nearest; None without a depth head


class Prediction(FocusAndDepth):
    """A pair of focus and depth, with `blur` beside them, so that it unpacks into the two that every network has.

    `blur` is the diameter of the circle of confusion in pixels of the photograph, float32 [h, w]; None without a blur
    head.
    """

    blur: Float32[np.ndarray, "h w"] | None

    def __new__(
        cls,
        focus: Float32[np.ndarray, "h w"],
        depth: Float32[np.ndarray, "h w"] | None,
        blur: Float32[np.ndarray, "h w"] | None = None,
    ) -> "Prediction":
        """The maps of one photograph, all at its size."""
        prediction = super().__new__(cls, focus, depth)
        prediction.blur = blur
        return prediction


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
    """Focus, depth and blur of an RGB photograph of any size, or a list of them for a list of photographs.

    Compiles on the first call, once for all sizes. A photograph gives the same result alone and in any list. Raises
    ValueError for anything but uint8 [h, w, 3].
    """
    images = [image] if isinstance(image, np.ndarray) else image
    squares = (to_square(image, model.size) for image in images)
    predictions = [
        at_size(maps, image.shape[:2])
        for image, maps in zip(images, predict_maps(model, variables, squares), strict=True)
    ]
    return predictions[0] if isinstance(image, np.ndarray) else predictions


def at_size(maps: SquareMaps, size: tuple[int, int]) -> Prediction:
    """The maps of one square at the (height, width) of its photograph."""
    depth = None if maps.depth is None else to_size(maps.depth, size)
    return Prediction(to_size(maps.focus, size), depth, None if maps.blur is None else pixels_of_blur(maps.blur, size))


def pixels_of_blur(blur: Float32[np.ndarray, "s s"], size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """Diameters that are shares of a square's side, in pixels of the photograph of (height, width) that it shows.

    A square squashes a disk to an ellipse, which counts by the mean of its diameters that keeps its area.
    """
    blur = to_size(blur, size)
    blur *= np.float32(np.sqrt(size[0] * size[1]))
    return blur


def predict_maps(
    model: DepthDistilledDBD, variables: Variables, squares: Iterable[UInt8[np.ndarray, "s s 3"]]
) -> Iterator[SquareMaps]:
    """The maps of each photograph resized to `model.size`, in order, at that size.

    The network always sees a batch of the same size, the last one padded: so it is compiled once, and what else is in
    a batch can change nothing. Squares are taken while the device works on the batch before.
    """
    # A module is a frozen dataclass, which can be hashed; flax's annotations do not say so.
    network, batch_size = compiled(model), batch_size_of(jax.default_backend())  # pyright: ignore[reportArgumentType]
    squares = iter(squares)
    batches = iter(lambda: list(islice(squares, batch_size)), [])

    def dispatch(rows):
        return network(variables, np.stack(rows + rows[-1:] * (batch_size - len(rows))))

    for rows, maps in one_ahead(dispatch, batches):
        yield from rows_of(maps, len(rows))


def rows_of(maps: SquareMaps, count: int) -> Iterator[SquareMaps]:
    """The maps of each of the first `count` photographs of a batch, on the host; the rest is padding."""
    maps = jax.tree.map(np.asarray, maps)
    for i in range(count):
        yield jax.tree.map(operator.itemgetter(i), maps)


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
def inference_options() -> dict[str, bool | int]:
    """`compiler_options` of `jax.jit` for a network that is only applied; {} where XLA is to choose by itself."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=QUICK).lower().compile()
    except jax.errors.JaxRuntimeError as error:  # an XLA that does not know them
        if "No such compile option" not in str(error):
            raise
        return {}
    return QUICK


@lru_cache
def compiled(model: DepthDistilledDBD) -> Callable:
    """(variables, uint8 [B, S, S, 3]) -> SquareMaps [B, S, S]; one function per network."""
    return jax.jit(partial(maps_of_bytes, model), compiler_options=inference_options())


def maps_of_bytes(model: DepthDistilledDBD, variables: Variables, images: UInt8[Array, "b s s 3"]) -> SquareMaps:
    """What a user gets of the network, from RGB bytes."""
    return maps_of(model, variables, normalize(images, model.encoder))


def maps_of(model: DepthDistilledDBD, variables: Variables, normalized: Float[Array, "b s s 3"]) -> SquareMaps:
    """`maps_of_bytes` from images that are normalized already, of any side."""
    output = cast(Output, model.apply(variables, normalized))  # a pair only with `mutable`
    depth = None if output.depth is None else stretched(output.depth[..., 0])
    logits = crisp(output.focus[..., 0], restored(normalized, model.encoder), model.edge_radius, model.edge_slope)
    blur = None if output.blur is None else diameter(output.blur[..., 0]) * (BLUR_SIDE / normalized.shape[1])
    return SquareMaps(jax.nn.sigmoid(logits), depth, blur)


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
