"""Learning-rate schedule and optimiser."""

from typing import Any

import jax
import optax

from jaxdbd.errors import UserError


def make_schedule(kind: str, *, peak: float, steps: int, warmup_steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up to `peak`, then 'cosine' to zero, or 'poly' (1 - t)^0.9 as in D-DFFNet."""
    decay_steps = max(steps - warmup_steps, 1)
    if kind == "cosine":
        decay = optax.cosine_decay_schedule(peak, decay_steps)
    elif kind == "poly":
        decay = optax.polynomial_schedule(peak, 0.0, power=0.9, transition_steps=decay_steps)
    else:
        raise UserError(f"config.schedule: {kind!r} is not one of 'cosine', 'poly'")
    if not warmup_steps:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), decay], [warmup_steps])


def is_decayed(params: Any) -> Any:
    """Which parameters weight decay pulls on: convolution and dense kernels, not biases nor BatchNorm."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def is_encoder(params: Any) -> Any:
    """Which parameters belong to the encoder."""
    return {name: jax.tree.map(lambda _, name=name: name == "encoder", leaf) for name, leaf in params.items()}


def make_optimizer(
    kind: str,
    schedule: optax.Schedule,
    *,
    weight_decay: float,
    encoder_lr_factor: float,
    clip_norm: float,
    accumulate: int,
) -> optax.GradientTransformation:
    """'adamw', 'adam' or 'sgd' (momentum 0.9), behind clipping by the global norm (0: none).

    Weight decay is decoupled for 'adamw' and added to the gradient otherwise. `encoder_lr_factor` scales the learning
    rate of the encoder. With `accumulate` above 1, an update is made from the mean gradient of so many calls.
    """
    # There even where it is zero, so that a checkpoint fits whatever the value.
    decay = optax.add_decayed_weights(weight_decay, is_decayed)
    rules = {
        "adamw": [optax.scale_by_adam(), decay],
        "adam": [decay, optax.scale_by_adam()],
        "sgd": [decay, optax.trace(0.9)],
    }
    if kind not in rules:
        raise UserError(f"config.optimizer: {kind!r} is not one of {', '.join(map(repr, rules))}")
    tx = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        *rules[kind],
        optax.masked(optax.scale(encoder_lr_factor), is_encoder),
        optax.scale_by_learning_rate(schedule),
    )
    return optax.MultiSteps(tx, accumulate).gradient_transformation() if accumulate > 1 else tx
