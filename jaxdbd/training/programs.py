"""The functions of a run, as programs for its devices."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import ml_collections
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from jaxtyping import Array, UInt8

from jaxdbd import sharding, weights
from jaxdbd.inference import SquareMaps, maps_of_bytes
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.training.checkpoint import abstract
from jaxdbd.training.distillation import Params, with_adapters
from jaxdbd.training.losses import joint_loss
from jaxdbd.training.optimizer import make_optimizer, make_schedule
from jaxdbd.training.speed import flops_of
from jaxdbd.training.step import Metrics, TrainState, batch_loss, create_state, train_step
from jaxdbd.training.vectors import Layout, make_layout

LONGEST_COMPILATION = 3600  # seconds, choice of ours


class Steps(NamedTuple):
    """The compiled functions of a run, for the whole mesh; but `predict` for this process's part of it."""

    layout: Layout  # of the state's vectors
    make_state: Callable[[weights.Variables], TrainState]
    abstract_state: TrainState  # shapes, dtypes and shardings of the state
    train: Callable[[TrainState, dict[str, Array]], tuple[TrainState, Metrics]]
    predict: Callable[[weights.Variables, UInt8[Array, "b s s 3"]], SquareMaps]


def learning_rate(config: ml_collections.ConfigDict, updates: int) -> optax.Schedule:
    """The learning rate by update."""
    return make_schedule(config.schedule, peak=config.learning_rate, steps=updates, warmup_steps=config.warmup_steps)


def compile_steps(
    config: ml_collections.ConfigDict, model: DepthDistilledDBD, adapters: Params, updates: int, mesh: Mesh
) -> Steps:
    """The functions of a run of so many updates, jitted for the mesh; of `adapters` the shapes count."""
    tx = make_optimizer(
        config.optimizer,
        learning_rate(config, updates),
        weight_decay=config.weight_decay,
        encoder_lr_factor=config.encoder_lr_factor,
        clip_norm=config.clip_norm,
        accumulate=config.accumulate,
    )
    variables = with_adapters(weights.shapes(model), adapters)
    layout = make_layout(variables)
    make_state = partial(create_state, layout=layout, tx=tx, ema=config.ema_decay > 0)
    shapes = jax.eval_shape(make_state, variables)
    placement = sharding.state_sharding(mesh, shapes, config.fsdp)
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    here = sharding.local_mesh(mesh)
    joint = partial(
        joint_loss,
        focus_loss=config.focus_loss,
        depth_loss=config.depth_loss,
        side_weights=tuple(config.side_weights),
        blur_weight=config.blur_weight,
    )
    loss = partial(
        batch_loss,
        model=model,
        loss=joint,
        gamma=config.gamma,
        feature_weight=config.feature_weight,
        remat=config.remat,
    )
    step = partial(
        train_step,
        loss=loss,
        layout=layout,
        tx=tx,
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
        whole=whole,
    )
    return Steps(
        layout,
        jax.jit(make_state, out_shardings=placement),
        abstract(shapes, placement),
        jax.jit(step, donate_argnums=0, in_shardings=(placement, rows), out_shardings=(placement, whole)),
        jax.jit(
            partial(maps_of_bytes, model),
            in_shardings=(sharding.replicated(here), sharding.batch_sharding(here)),
            out_shardings=sharding.replicated(here),
        ),
    )


def compiled(train: Any, state: TrainState, batch: dict[str, Array]) -> tuple[Callable, float]:
    """A jitted step as a program for these arguments, and the FLOP of one call of it, on all devices together.

    Returns when every process has its program.
    """
    lowered = train.lower(state, batch)
    program = lowered.compile()
    # A process may compile for minutes what another one reads from its cache, and when CPUs work together for the first
    # time they wait for each other for half a minute. Naming the processes makes this a barrier without such a limit.
    everyone = set(range(jax.process_count()))
    ocp.multihost.sync_global_processes("step compiled", timeout=LONGEST_COMPILATION, processes=everyone)
    return program, flops_of(lowered)
