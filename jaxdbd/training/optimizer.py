"""Learning-rate schedule and optimizer."""

from collections.abc import Callable

import optax

from jaxdbd.training.vectors import Vectors

# (peak, steps) -> the learning rate after warm-up.
SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "cosine": optax.cosine_decay_schedule,
    # (1 - t)^0.9, as in D-DFFNet.
    "poly": lambda peak, steps: optax.polynomial_schedule(peak, 0.0, power=0.9, transition_steps=steps),
}
# decay of weights -> the update's direction. Decay is decoupled for adamw, and added to the gradient otherwise.
OPTIMIZERS: dict[str, Callable[[optax.GradientTransformation], list[optax.GradientTransformation]]] = {
    "adamw": lambda decay: [optax.scale_by_adam(), decay],
    "adam": lambda decay: [decay, optax.scale_by_adam()],
    "sgd": lambda decay: [decay, optax.trace(0.9)],
}


def make_schedule(kind: str, *, peak: float, steps: int, warmup_steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up to `peak`, then down to zero by a key of `SCHEDULES`."""
    decay = SCHEDULES[kind](peak, max(steps - warmup_steps, 1))
    if not warmup_steps:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), decay], [warmup_steps])


def is_decayed(params: Vectors) -> dict[str, bool]:
    """Which vectors weight decay pulls on: convolution and dense kernels, not biases nor BatchNorm."""
    return {group: group.endswith("_kernels") for group in params}


def is_encoder(params: Vectors) -> dict[str, bool]:
    """Which vectors belong to the encoder."""
    return {group: group.startswith("encoder_") for group in params}


def make_optimizer(
    kind: str,
    schedule: optax.Schedule,
    *,
    weight_decay: float,
    encoder_lr_factor: float,
    clip_norm: float,
    accumulate: int,
) -> optax.GradientTransformation:
    """The optimizer `kind`, a key of `OPTIMIZERS`, of vectors by group, behind clipping by the global norm (0: none).

    `encoder_lr_factor` scales the learning rate of the encoder. With `accumulate` above 1, an update is made from the
    mean gradient of so many calls.
    """
    # There even where it is zero, so that a checkpoint fits whatever the value.
    decay = optax.add_decayed_weights(weight_decay, is_decayed)
    tx = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        *OPTIMIZERS[kind](decay),
        optax.masked(optax.scale(encoder_lr_factor), is_encoder),
        optax.scale_by_learning_rate(schedule),
    )
    return optax.MultiSteps(tx, accumulate).gradient_transformation() if accumulate > 1 else tx
