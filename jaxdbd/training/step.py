"""The training step: a pure function of state and batch."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float

from jaxdbd.network.model import DepthDistilledDBD, normalize
from jaxdbd.training.distillation import ADAPTERS, Params, feature_loss, without_adapters
from jaxdbd.training.vectors import PARAMETERS, STATISTICS, Layout, Vectors, to_tree, to_vectors
from jaxdbd.weights import Variables

Metrics = dict[str, Float[Array, ""] | Bool[Array, ""]]
REMAT = ("none", "blocks")  # what a backward pass computes again where there is no memory to keep it
BLOCK = "block"
FINITE = "finite"  # of the metrics: whether all others and the weights are


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes. There is no random key: augmentation draws its own, from seed and position."""

    step: Any  # int32; every field also holds shapes or shardings in its arrays' place
    params: Any  # vectors of the groups in `PARAMETERS`
    statistics: Any  # the vector of BatchNorm's
    opt_state: Any
    ema: Any  # params and statistics, by group, averaged over updates; or None


def create_state(variables: Variables, *, layout: Layout, tx: optax.GradientTransformation, ema: bool) -> TrainState:
    """The state before the first step, from a network's variables."""
    vectors = to_vectors(layout, variables)
    params = {group: vectors[group] for group in PARAMETERS if group in vectors}
    return TrainState(
        step=jnp.int32(0),
        params=params,
        statistics=vectors[STATISTICS],
        opt_state=tx.init(params),
        ema=vectors if ema else None,
    )


def evaluated(state: TrainState) -> Vectors:
    """What is evaluated and shipped: the average over updates where there is one."""
    return state.ema or {**state.params, STATISTICS: state.statistics}


def _is_encoder(module: nn.Module, method: str) -> bool:
    return module.name == "encoder" and method == "__call__"


def batch_loss(
    params: Params,
    batch_stats: Params,
    batch: Mapping[str, Array],
    *,
    model: DepthDistilledDBD,
    loss: Callable[..., tuple[Float[Array, ""], Metrics]],
    gamma: float,
    feature_weight: float = 0.0,
    remat: str = "none",
) -> tuple[Float[Array, ""], tuple[Metrics, Params]]:
    """The loss of a network in training mode; with its terms, and BatchNorm's running statistics after the batch.

    Args:
      params: of the network; and adapters, for which the batch must have the teacher's features.
      batch_stats: BatchNorm's running statistics.
      batch: of `input.batches`; without `depth`, nothing is distilled, and without `blur`, no blur is learned.
      model: the network.
      loss: `joint_loss` with its settings bound; called with (output, mask, depth, valid, blur, gamma=...).
      gamma: weight of the depth terms.
      feature_weight: weight of the feature terms, where there are adapters.
      remat: one of `REMAT`; "blocks" keeps less for the gradient, and computes it again.
    """

    def apply(params, batch_stats, images) -> Any:
        return model.apply(
            without_adapters({"params": params, "batch_stats": batch_stats}),
            images,
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=_is_encoder,
        )

    if remat == "blocks":
        apply = by_blocks(apply)
    output, updates = apply(params, batch_stats, normalize(batch["image"], model.encoder))
    mask = batch["mask"].astype(jnp.float32) / 255
    depth = batch["depth"].astype(jnp.float32) if "depth" in batch else None
    valid = batch["valid"].astype(jnp.float32) / 255 if "valid" in batch else None
    blur = batch["blur"].astype(jnp.float32) if "blur" in batch else None
    total, terms = loss(output, mask, depth, valid, blur, gamma=gamma)
    if ADAPTERS in params:
        taps = updates["intermediates"]["encoder"]["__call__"][0]
        terms["features"] = feature_loss(taps, params[ADAPTERS], batch).mean()
        total = terms["loss"] = total + feature_weight * terms["features"]
    return total, (terms, updates["batch_stats"])


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    loss: Callable[[Params, Params, dict[str, Array]], tuple[Float[Array, ""], tuple[Metrics, Params]]],
    layout: Layout,
    tx: optax.GradientTransformation,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    whole: NamedSharding | None = None,
) -> tuple[TrainState, Metrics]:
    """One step on a batch; returns the new state, and its metrics.

    These are the loss and its terms, the gradient's norm, and `FINITE`.

    Args:
      state: before the step.
      batch: what `loss` takes.
      loss: `batch_loss` with its settings bound.
      layout: of the state's vectors.
      tx: the optimizer, of vectors.
      ema_decay: of the averaged weights, where the state has some.
      accumulate: so many steps make one update, by their mean gradient; `tx` must be made for it too.
      whole: a copy on every device, where the state's vectors may be cut; None where nothing is.
    """
    # One collective per vector: XLA would start one for every array that is taken from, or put into, a vector in parts.
    gather = partial(jax.lax.with_sharding_constraint, shardings=whole) if whole else lambda vectors: vectors
    variables = to_tree(layout, gather({**state.params, STATISTICS: state.statistics}))
    gradients, (terms, batch_stats) = jax.grad(loss, has_aux=True)(variables["params"], variables["batch_stats"], batch)
    gradients = gather(to_vectors(layout, {"params": gradients}))
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    statistics = to_vectors(layout, {"batch_stats": batch_stats})
    step, ema = state.step + 1, state.ema
    if ema is not None:
        ema = _averaged(ema, {**params, **statistics}, step, ema_decay, accumulate)
    metrics = {**terms, "grad_norm": optax.global_norm(gradients)}
    made = [*metrics.values(), *params.values(), statistics[STATISTICS]]
    metrics[FINITE] = jnp.stack([jnp.isfinite(x).all() for x in made]).all()
    return TrainState(step, params, statistics[STATISTICS], opt_state, ema), metrics


def _averaged(ema: Vectors, now: Vectors, step: Array, decay: float, accumulate: int) -> Vectors:
    """The exponential average after `step` steps; it moves with every update, which takes `accumulate` of them."""
    # Early on, an average over all updates so far: the start would weigh too much otherwise.
    n = step // accumulate
    decay_now = jnp.where(step % accumulate == 0, jnp.minimum(decay, n / (n + 9)), 1.0)
    return jax.tree.map(lambda old, new: decay_now * old + (1 - decay_now) * new, ema, now)


# --- Rematerialization ---


def by_blocks(apply: Callable) -> Callable:
    """`apply`, a network as a function of arrays, that keeps for its gradient only what the network's blocks give.

    Blocks are the modules that the network or its encoder consist of: the levels of the decoder, the encoder's
    residuals, and of an encoder without such its taps.
    """

    def named(*arrays):
        with nn.intercept_methods(_name_block):
            return apply(*arrays)

    return jax.checkpoint(named, policy=jax.checkpoint_policies.save_only_these_names(BLOCK))


def _name_block(call: Callable, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext) -> Any:
    given, path = call(*args, **kwargs), context.module.path
    if context.method_name == "__call__" and len(path) <= (2 if path[:1] == ("encoder",) else 1):
        return jax.tree.map(lambda x: checkpoint_name(x, BLOCK), given)
    return given
