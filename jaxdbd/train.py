"""Training: state, step, and the loop that survives being stopped."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxdbd import checkpoint, sharding, weights
from jaxdbd.augment import Augmentation
from jaxdbd.errors import UserError
from jaxdbd.evaluate import ddff_scores, focus_predictor
from jaxdbd.input_pipeline import decode, open_split, training_batches
from jaxdbd.logs import RunLog
from jaxdbd.losses import DEPTH_LOSSES, FOCUS_LOSSES, joint_loss
from jaxdbd.model import DepthDistilledDBD, normalize
from jaxdbd.optimizer import make_optimizer, make_schedule
from jaxdbd.predict import predict_batch
from jaxdbd.viz import example_panel

Metrics = dict[str, Float[Array, ""]]


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes. There is no random key: augmentation draws its own, from seed and position."""

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any  # {"params", "batch_stats"} averaged over steps, or None


def create_state(variables: weights.Variables, tx: optax.GradientTransformation, ema: bool) -> TrainState:
    """The state before the first step, from a network's variables."""
    params, batch_stats = variables["params"], variables["batch_stats"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        ema={"params": params, "batch_stats": batch_stats} if ema else None,
    )


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    model: DepthDistilledDBD,
    tx: optax.GradientTransformation,
    gamma: optax.Schedule,
    focus_loss: str,
    depth_loss: str,
    side_weights: Sequence[float],
    freeze_encoder_norm: bool,
    ema_decay: float,
) -> tuple[TrainState, Metrics]:
    """One update on a batch of the input pipeline; returns the new state, and the loss, its terms and gradient norm."""
    images = normalize(batch["image"], model.encoder)
    mask = batch["mask"].astype(jnp.float32) / 255
    depth = batch["depth"].astype(jnp.float32) if "depth" in batch else None

    def loss(params):
        output, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            freeze_encoder_norm=freeze_encoder_norm,
            mutable=["batch_stats"],
        )
        total, terms = joint_loss(
            output,
            mask,
            depth,
            batch["weight"],
            focus_loss=focus_loss,
            depth_loss=depth_loss,
            gamma=gamma(state.step),
            side_weights=side_weights,
        )
        return total, (terms, updates["batch_stats"])

    grads, (terms, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        # Early on, an average over all steps so far: the start would weigh too much otherwise.
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        now = {"params": params, "batch_stats": batch_stats}
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, now)
    metrics = {**terms, "grad_norm": optax.global_norm(grads)}
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema), metrics


def evaluation_variables(state: TrainState) -> weights.Variables:
    """What is evaluated and shipped: the average over steps where there is one."""
    return state.ema or {"params": state.params, "batch_stats": state.batch_stats}


def make_model(config: ml_collections.ConfigDict) -> DepthDistilledDBD:
    """The network that a config describes."""
    fields = dict(config.model)
    if fields["widths"] is not None:
        fields["widths"] = tuple(fields["widths"])
    return DepthDistilledDBD(encoder=config.encoder, dtype=jnp.dtype(config.dtype), size=config.size, **fields)


def initial_variables(model: DepthDistilledDBD, size: int, seed: int, encoder_init: str, init_from: str):
    """Random variables from the seed, the encoder from `encoder_init`; or all of them from the file `init_from`."""
    if init_from:
        other, variables = weights.load(init_from)
        if jax.tree.map(jnp.shape, variables) != jax.tree.map(jnp.shape, weights.shapes(model)):
            raise UserError(f"config.init_from={init_from}: holds another network ({other.encoder}) than the config's")
        return variables
    images = jnp.zeros((1, size, size, 3))
    variables = jax.jit(model.init)(jax.random.key(seed), images)
    return weights.init_encoder(variables, model.encoder, encoder_init)


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for values that would fail later, or silently do something else."""
    if config.size % 32:
        raise UserError(f"config.size: {config.size} is not a multiple of 32")
    if config.steps < 1 and config.epochs < 1:
        raise UserError(f"config.steps={config.steps}, config.epochs={config.epochs}: one of them must be positive")
    if config.focus_loss not in FOCUS_LOSSES:
        raise UserError(f"config.focus_loss: {config.focus_loss!r} is not one of {', '.join(FOCUS_LOSSES)}")
    if config.depth_loss not in DEPTH_LOSSES:
        raise UserError(f"config.depth_loss: {config.depth_loss!r} is not one of {', '.join(DEPTH_LOSSES)}")
    if len(config.side_weights) != 5:
        raise UserError(f"config.side_weights: five are needed, coarse to fine, not {len(config.side_weights)}")
    if config.batch_size % (jax.device_count() * config.accumulate):
        raise UserError(
            f"config.batch_size: {config.batch_size} is not a multiple of the {jax.device_count()} devices"
            f" x config.accumulate={config.accumulate}"
        )


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Within, SIGTERM and Ctrl-C only leave their number for the loop to find; a second Ctrl-C stops at once."""
    received = []

    def note(number, _frame):
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def check_finite(step: int, metrics: dict[str, float], ids: Sequence[str]) -> None:
    """Stops the run at a loss or gradient that is not finite."""
    if not all(np.isfinite(v) for v in metrics.values()):
        values = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        raise UserError(
            f"step {step}: not finite ({values}) on images {', '.join(ids)}; the last checkpoint is untouched: "
            "lower config.learning_rate, or set config.clip_norm, and start again"
        )


def train(config: ml_collections.ConfigDict, workdir: Path, profile: bool = False) -> None:
    """Trains to the end of the config, from the newest checkpoint in `workdir` if there is one.

    Leaves `<workdir>/weights.safetensors`, `metrics.jsonl`, `tensorboard/`, `checkpoints/` and `config.json`.
    On SIGTERM, Ctrl-C or a preemption notice it saves and exits.

    Raises:
      UserError: for a config that cannot be, a dataset that is not there, a checkpoint of another network, or a loss
        that is not finite.
    """
    check_config(config)
    workdir.mkdir(parents=True, exist_ok=True)
    is_first = jax.process_index() == 0
    mesh = sharding.make_mesh()
    model = make_model(config)

    records = open_split(config.dataset, config.train_split, config.data_dir)
    held_out = open_split(config.dataset, config.eval_split, config.data_dir) if config.eval_split else None
    shown = [decode(held_out[i]) for i in range(min(8, len(held_out)))] if held_out is not None else []
    distils = config.gamma > 0 and config.model.depth_head
    if distils and "depth" not in records[0]:
        raise UserError(f"{config.dataset} was built without a teacher: build it with one, or set --config.gamma=0")
    micro_batch = config.batch_size // config.accumulate
    updates = config.steps or config.epochs * len(records) // config.batch_size
    steps = updates * config.accumulate
    data = training_batches(
        records,
        size=config.size,
        batch_size=micro_batch // jax.process_count(),
        seed=config.seed,
        augmentation=Augmentation(**config.augment),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )

    schedule = make_schedule(
        config.schedule, peak=config.learning_rate, steps=updates, warmup_steps=config.warmup_steps
    )
    tx = make_optimizer(
        config.optimizer,
        schedule,
        weight_decay=config.weight_decay,
        encoder_lr_factor=config.encoder_lr_factor,
        clip_norm=config.clip_norm,
        accumulate=config.accumulate,
    )
    make_state = partial(create_state, tx=tx, ema=config.ema_decay > 0)
    shapes = jax.eval_shape(make_state, weights.shapes(model))
    placement = sharding.state_sharding(mesh, shapes, config.fsdp)
    gamma_end = config.gamma if config.gamma_end is None else config.gamma_end
    step_fn = jax.jit(
        partial(
            train_step,
            model=model,
            tx=tx,
            gamma=optax.linear_schedule(config.gamma, gamma_end, steps),
            focus_loss=config.focus_loss,
            depth_loss=config.depth_loss,
            side_weights=tuple(config.side_weights),
            freeze_encoder_norm=config.freeze_encoder_norm,
            ema_decay=config.ema_decay,
        ),
        donate_argnums=0,
        in_shardings=(placement, sharding.batch_sharding(mesh)),
        out_shardings=(placement, None),
    )
    predict = focus_predictor(model, mesh)

    # Resume: a checkpoint in the workdir comes before anything the config says about a start.
    saved_config = config.to_dict()
    manager = checkpoint.open_manager(workdir / "checkpoints", config.keep_checkpoints)
    state = checkpoint.restore(manager, checkpoint.abstract(shapes, placement), data, saved_config)
    if state is None:
        variables = initial_variables(model, config.size, config.seed, config.encoder_init, config.init_from)
        state = jax.jit(make_state, out_shardings=placement)(variables)
    start = int(state.step)
    best_step = manager.best_step()
    best = manager.metrics(best_step)["mae"] if best_step is not None else float("inf")
    if is_first:
        (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")
    log = RunLog(workdir, steps, start, is_first)
    if start:
        log.message(f"resumed at step {start} of {steps}")

    def save_weights():
        variables = evaluation_variables(state)
        if config.fsdp:
            variables = jax.jit(lambda v: v, out_shardings=sharding.replicated(mesh))(variables)
        if is_first:
            weights.save(
                workdir / "weights.safetensors",
                model,
                variables,
                dataset=f"{config.dataset}:{config.train_split}",
                license=config.license,
                size=config.size,
            )

    pending = None  # the last dispatched step: its number, metrics and image ids
    since, seen = time.time(), 0

    def settle():
        """Waits for the last dispatched step, and stops the run if it went wrong."""
        nonlocal pending
        if pending is None:
            return {}
        number, device_metrics, ids = pending
        pending = None
        metrics = {k: float(v) for k, v in device_metrics.items()}
        check_finite(number, metrics, ids)
        return metrics

    with stop_signals() as stopped, contextlib.closing(log), contextlib.closing(manager):
        for step in range(start + 1, steps + 1):
            batch = next(data)
            ids = batch.pop("id")
            if not distils:
                batch.pop("depth", None)
            if profile and step == start + 5:
                jax.profiler.start_trace(workdir / "profile")
            state, metrics = step_fn(state, sharding.to_devices(batch, mesh))
            # Read one step late: the device works on this step while the host reads the one before.
            settle()
            pending = step, metrics, ids
            seen += micro_batch
            if profile and step == start + 10:
                settle()
                jax.profiler.stop_trace()
                log.message(f"a trace of five steps is in {workdir / 'profile'}")
            log.advance(step)

            last = step == steps
            if step % config.log_every == 0 or last:
                values = settle()
                rate = seen / (time.time() - since)
                updates_done = step // config.accumulate
                extra = {"learning_rate": schedule(updates_done), "images_per_s": rate, **memory_in_use()}
                log.write(step, values | {k: float(v) for k, v in extra.items()})
                since, seen = time.time(), 0
            scores = None
            if held_out is not None and (step % config.eval_every == 0 or last):
                settle()
                paused = time.time()
                scores = ddff_scores(
                    partial(predict, evaluation_variables(state)), held_out, config.size, config.eval_batch_size
                )
                log.write(step, {f"eval/{k}": v for k, v in scores.items()})
                predictions = predict_batch(model, evaluation_variables(state), [e.image for e in shown])
                log.image(step, "eval/panel", example_panel(shown, predictions))
                log.message(f"step {step}: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()) + " (ddff)")
                if scores["mae"] < best:
                    best = scores["mae"]
                    save_weights()
                since += time.time() - paused
            number = stopped()
            preempted = manager.reached_preemption(step)
            if scores or step % config.checkpoint_every == 0 or last or number or preempted:
                settle()
                checkpoint.save(manager, state, data, saved_config, scores)
            if (number or preempted) and not last:
                manager.wait_until_finished()
                log.message(f"stopped at step {step} of {steps}, saved; the same command goes on from here")
                sys.exit(130 if number == signal.SIGINT else 0)
        if held_out is None:
            save_weights()
        manager.wait_until_finished()


def memory_in_use() -> dict[str, float]:
    """Peak bytes in use on the first device, where the platform tells."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return {"device_peak_bytes": float(stats["peak_bytes_in_use"])} if "peak_bytes_in_use" in stats else {}
