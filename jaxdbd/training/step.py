"""The training step: a pure function of state and batch."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdbd.network.model import DepthDistilledDBD, normalize
from jaxdbd.training.distillation import ADAPTERS, feature_loss, without_adapters
from jaxdbd.weights import Variables

Metrics = dict[str, Float[Array, ""]]


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes. There is no random key: augmentation draws its own, from seed and position."""

    step: Any  # int32; every field also holds shapes or shardings in its arrays' place
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any  # {"params", "batch_stats"} averaged over updates, or None


def create_state(variables: Variables, tx: optax.GradientTransformation, ema: bool) -> TrainState:
    """The state before the first step, from a network's variables."""
    params, batch_stats = variables["params"], variables["batch_stats"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        ema={"params": params, "batch_stats": batch_stats} if ema else None,
    )


def evaluation_variables(state: TrainState) -> Variables:
    """What is evaluated and shipped: the average over updates where there is one, without the adapters."""
    return without_adapters(state.ema or {"params": state.params, "batch_stats": state.batch_stats})


def _is_encoder(module: nn.Module, method: str) -> bool:
    return module.name == "encoder" and method == "__call__"


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    model: DepthDistilledDBD,
    tx: optax.GradientTransformation,
    loss: Callable[..., tuple[Float[Array, ""], Metrics]],
    gamma: float,
    feature_weight: float = 0.0,
    ema_decay: float = 0.0,
    accumulate: int = 1,
) -> tuple[TrainState, Metrics]:
    """One step on a batch; returns the new state, and the loss, its terms and gradient norm.

    Args:
      state: before the step.
      batch: of `input.batches`; without `depth`, nothing is distilled.
      model: the network.
      tx: the optimizer.
      loss: `joint_loss` with its settings bound; called with (output, mask, depth, valid, gamma=...).
      gamma: weight of the depth terms.
      feature_weight: weight of the feature terms; above 0, the state has adapters and the batch the teacher's features.
      ema_decay: of the averaged weights, where the state has some.
      accumulate: so many steps make one update, by their mean gradient; `tx` must be made for it too.
    """
    images = normalize(batch["image"], model.encoder)
    mask = batch["mask"].astype(jnp.float32) / 255
    depth = batch["depth"].astype(jnp.float32) if "depth" in batch else None
    valid = batch["valid"].astype(jnp.float32) / 255 if "valid" in batch else None

    def loss_of(params):
        output, updates = model.apply(
            without_adapters({"params": params, "batch_stats": state.batch_stats}),
            images,
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=_is_encoder,
        )
        total, terms = loss(output, mask, depth, valid, gamma=gamma)
        if ADAPTERS in params:
            taps: Any = updates["intermediates"]["encoder"]["__call__"][0]
            terms["features"] = feature_loss(taps, params[ADAPTERS], batch).mean()
            total = terms["loss"] = total + feature_weight * terms["features"]
        return total, (terms, updates["batch_stats"])

    grads, (terms, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step, ema = state.step + 1, state.ema
    if ema is not None:
        ema = _averaged(ema, {"params": params, "batch_stats": batch_stats}, step, ema_decay, accumulate)
    metrics = {**terms, "grad_norm": optax.global_norm(grads)}
    return TrainState(step, params, batch_stats, opt_state, ema), metrics


def _averaged(ema: Variables, now: Variables, step: Array, decay: float, accumulate: int) -> Variables:
    """The exponential average after `step` steps; it moves with every update, which takes `accumulate` of them."""
    # Early on, an average over all updates so far: the start would weigh too much otherwise.
    n = step // accumulate
    decay_now = jnp.where(step % accumulate == 0, jnp.minimum(decay, n / (n + 9)), 1.0)
    return jax.tree.map(lambda old, new: decay_now * old + (1 - decay_now) * new, ema, now)
