"""Training: state, step, and the loop that survives being stopped."""

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from jaxdbd import checkpoint, sharding, weights
from jaxdbd.augment import Augmentation
from jaxdbd.config import check_config
from jaxdbd.errors import UserError
from jaxdbd.evaluate import ddff_scores
from jaxdbd.input_pipeline import evaluation_batches, open_split, training_batches
from jaxdbd.logs import RunLog, device_memory
from jaxdbd.losses import joint_loss
from jaxdbd.model import DepthDistilledDBD, normalize
from jaxdbd.optimizer import make_optimizer, make_schedule
from jaxdbd.predict import Prediction, to_size
from jaxdbd.stopping import stop_notices
from jaxdbd.viz import example_panel

Metrics = dict[str, Float[Array, ""]]
Maps = Float[Array, "b s s"]

PANEL_ROWS = 8
PROFILE_AFTER, PROFILE_STEPS = 5, 5  # the first steps compile and fill buffers


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes. There is no random key: augmentation draws its own, from seed and position."""

    step: Any  # int32; every field also holds shapes or shardings in its arrays' place
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any  # {"params", "batch_stats"} averaged over updates, or None


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
    freeze_encoder_norm: bool = False,
    ema_decay: float = 0.0,
    accumulate: int = 1,
) -> tuple[TrainState, Metrics]:
    """One step on a batch of the input pipeline; returns the new state, and the loss, its terms and gradient norm.

    With `accumulate` (which `tx` must know of too) above 1, the last of so many steps makes the update.
    """
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
    step = state.step + 1
    ema = state.ema
    if ema is not None:
        # Early on, an average over all updates so far: the start would weigh too much otherwise.
        n = step // accumulate
        decay = jnp.where(step % accumulate == 0, jnp.minimum(ema_decay, n / (n + 9)), 1.0)
        now = {"params": params, "batch_stats": batch_stats}
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, now)
    metrics = {**terms, "grad_norm": optax.global_norm(grads)}
    return TrainState(step, params, batch_stats, opt_state, ema), metrics


def eval_step(
    variables: weights.Variables, images: UInt8[Array, "b s s 3"], *, model: DepthDistilledDBD
) -> tuple[Maps, Maps | None]:
    """Probability of being in focus, and nearness (None without a depth head), both in [0, 1]."""
    output = model.apply(variables, normalize(images, model.encoder))
    depth = None if output.depth is None else output.depth[..., 0].clip(0, 1)
    return jax.nn.sigmoid(output.focus[..., 0]), depth


def evaluation_variables(state: TrainState) -> weights.Variables:
    """What is evaluated and shipped: the average over updates where there is one."""
    return state.ema or {"params": state.params, "batch_stats": state.batch_stats}


def make_model(config: ml_collections.ConfigDict) -> DepthDistilledDBD:
    """The network that a config describes."""
    fields = dict(config.model)
    if fields["widths"] is not None:
        fields["widths"] = tuple(fields["widths"])
    return DepthDistilledDBD(encoder=config.encoder, dtype=jnp.dtype(config.dtype), size=config.size, **fields)


def initial_variables(model: DepthDistilledDBD, seed: int, encoder_init: str, init_from: str) -> weights.Variables:
    """Random variables from the seed, the encoder from `encoder_init`; or all of them from the file `init_from`."""
    if init_from:
        other, variables = weights.load(init_from)
        if jax.tree.map(jnp.shape, variables) != jax.tree.map(jnp.shape, weights.shapes(model)):
            raise UserError(f"config.init_from={init_from}: holds another network ({other.encoder}) than the config's")
    else:
        variables = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 32, 32, 3)))
        variables = weights.init_encoder(variables, model.encoder, encoder_init)
    return jax.device_get(variables)  # on the host, every process can hand them to a mesh of all


def check_finite(pending: tuple[int, Metrics, Sequence[str]] | None) -> dict[str, float]:
    """Waits for the metrics of a dispatched (step, metrics, image ids); stops the run where one is not finite."""
    if pending is None:
        return {}
    step, metrics, ids = pending
    metrics = {k: float(v) for k, v in metrics.items()}
    if not np.isfinite(list(metrics.values())).all():
        values = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        raise UserError(
            f"step {step}: not finite ({values}) on images {', '.join(ids)}; the last checkpoint is untouched: "
            "lower config.learning_rate, or set config.clip_norm, and start again"
        )
    return metrics


def evaluate(
    predict: Callable[[UInt8[np.ndarray, "b s s 3"]], tuple[Maps, Maps | None]],
    records: Sequence[dict],
    shown: Sequence[dict],
    size: int,
    batch_size: int,
) -> tuple[dict[str, float], UInt8[np.ndarray, "h w 3"]]:
    """Scores under protocol `ddff` of all `records`, and a panel of those `shown`; `predict` is a bound `eval_step`."""
    scores = ddff_scores(lambda images: predict(images)[0], records, size, batch_size)
    examples, predictions = [], []
    for batch, rows in evaluation_batches(shown, size=size, batch_size=batch_size):
        focus, depth = jax.device_get(predict(batch["image"]))
        for i, example in enumerate(rows):
            shape = example.mask.shape
            near = None if depth is None else to_size(depth[i], shape)
            predictions.append(Prediction(to_size(focus[i], shape), near))
        examples += rows
    return scores, example_panel(examples, predictions)


def compile_steps(
    config: ml_collections.ConfigDict, model: DepthDistilledDBD, schedule: optax.Schedule, mesh: Mesh, steps: int
) -> tuple[Callable, Any, Callable, Callable]:
    """(variables -> state, what a state looks like on the mesh, `train_step`, `eval_step`), jitted for the mesh."""
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
    step = partial(
        train_step,
        model=model,
        tx=tx,
        gamma=optax.linear_schedule(config.gamma, gamma_end, steps),
        focus_loss=config.focus_loss,
        depth_loss=config.depth_loss,
        side_weights=tuple(config.side_weights),
        freeze_encoder_norm=config.freeze_encoder_norm,
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
    )
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    return (
        jax.jit(make_state, out_shardings=placement),
        checkpoint.abstract(shapes, placement),
        jax.jit(step, donate_argnums=0, in_shardings=(placement, rows), out_shardings=(placement, whole)),
        jax.jit(partial(eval_step, model=model), in_shardings=(whole, rows), out_shardings=whole),
    )


def train(config: ml_collections.ConfigDict, workdir: Path, profile: bool = False) -> int:
    """Trains to the end of the config, from the newest checkpoint in `workdir` if there is one.

    Leaves `<workdir>/weights.safetensors`, `metrics.jsonl`, `tensorboard/`, `checkpoints/` and `config.json`.
    On SIGTERM, Ctrl-C or a preemption notice it saves and returns.

    Returns:
      The exit status: 0, or 130 after Ctrl-C.

    Raises:
      UserError: for a config that cannot be, a dataset that is not there, a checkpoint of another network, or a loss
        that is not finite.
    """
    check_config(config, jax.device_count())
    is_first = jax.process_index() == 0
    mesh = sharding.make_mesh()
    model = make_model(config)

    # Data
    records = open_split(config.dataset, config.train_split, config.data_dir)
    held_out = open_split(config.dataset, config.eval_split, config.data_dir) if config.eval_split else []
    shown = [held_out[i] for i in range(min(PANEL_ROWS, len(held_out)))]
    distils = config.model.depth_head and max(config.gamma, config.gamma_end or 0) > 0
    if distils and "depth" not in records[0]:
        raise UserError(f"{config.dataset} was built without a teacher: build it with one, or set --config.gamma=0")
    micro_batch = config.batch_size // config.accumulate
    eval_batch = -(-config.eval_batch_size // mesh.size) * mesh.size
    updates = config.steps or max(config.epochs * len(records) // config.batch_size, 1)
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

    # State: a checkpoint in the workdir comes before anything that the config says about a start.
    schedule = make_schedule(
        config.schedule, peak=config.learning_rate, steps=updates, warmup_steps=config.warmup_steps
    )
    make_state, abstract_state, step_fn, eval_fn = compile_steps(config, model, schedule, mesh, steps)
    gather = sharding.gather(mesh)
    workdir.mkdir(parents=True, exist_ok=True)
    saved_config = config.to_dict()
    manager = checkpoint.open_manager(workdir / "checkpoints", config.keep_checkpoints)
    state = checkpoint.restore(manager, abstract_state, data, saved_config)
    if state is None:
        state = make_state(initial_variables(model, config.seed, config.encoder_init, config.init_from))
    start, best = int(state.step), checkpoint.best_mae(manager)
    profiled = range(start + PROFILE_AFTER + 1, start + PROFILE_AFTER + PROFILE_STEPS + 1) if profile else range(0)
    if profiled and profiled[-1] > steps:
        raise UserError(f"--profile needs {PROFILE_AFTER + PROFILE_STEPS} steps, and {steps - start} are left")
    if is_first:
        (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")

    def predict(variables, images):
        return eval_fn(variables, sharding.all_rows_to_devices(images, mesh))

    def save_weights(variables, threshold):
        if is_first:
            path, dataset = workdir / "weights.safetensors", f"{config.dataset}:{config.train_split}"
            weights.save(path, model, variables, dataset=dataset, license=config.license, threshold=threshold)

    log = RunLog(workdir, steps, start, active=is_first)
    with stop_notices() as stop_notice, contextlib.closing(log), contextlib.closing(manager):
        if start:
            log.message(f"resumed at step {start} of {steps}")
        pending = None  # the last dispatched step: its number, metrics and image ids
        since, seen = time.time(), 0
        for step in range(start + 1, steps + 1):
            batch = next(data)
            ids = batch.pop("id")
            if not distils:
                batch.pop("depth", None)
            if profiled and step == profiled[0]:
                jax.profiler.start_trace(workdir / "profile")
            state, metrics = step_fn(state, sharding.local_rows_to_devices(batch, mesh))
            # Read one step late: the device works on this step while the host reads the one before.
            check_finite(pending)
            pending = step, metrics, ids
            seen += micro_batch
            log.advance(step)
            if step == start + 1:
                check_finite(pending)  # has waited for the compiler, which the rate below should not count
                since, seen = time.time(), 0
            if profiled and step == profiled[-1]:
                check_finite(pending)
                jax.profiler.stop_trace()
                log.message(f"a trace of {PROFILE_STEPS} steps is in {workdir / 'profile'}")

            last = step == steps
            stopped_by = stop_notice(step)
            evaluates = len(held_out) > 0 and (step % config.eval_every == 0 or last)
            saves = evaluates or step % config.checkpoint_every == 0 or last or stopped_by
            if step % config.log_every == 0 or last:
                values = check_finite(pending)
                values["learning_rate"] = float(schedule((step - 1) // config.accumulate))
                if seen:
                    values["images_per_s"] = seen / (time.time() - since)
                log.write(step, values | device_memory())
                since, seen = time.time(), 0
            if saves:
                check_finite(pending)  # nothing that is not finite reaches the disk
                paused = time.time()
                scores = None
                if evaluates:
                    variables = gather(evaluation_variables(state))
                    scores, panel = evaluate(partial(predict, variables), held_out, shown, config.size, eval_batch)
                    log.write(step, {f"eval/{k}": v for k, v in scores.items()})
                    log.image(step, "eval/panel", panel)
                    log.message(f"step {step}: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()) + " (ddff)")
                    if scores["mae"] < best:
                        best = scores["mae"]
                        save_weights(variables, scores["threshold"])
                elif not held_out:
                    save_weights(gather(evaluation_variables(state)), threshold=0.5)
                checkpoint.save(manager, step, state, data, saved_config, scores)
                since += time.time() - paused
            if stopped_by and not last:
                manager.wait_until_finished()
                log.message(f"stopped at step {step} of {steps}, saved; the same command goes on from here")
                return 130 if stopped_by == signal.SIGINT else 0
        manager.wait_until_finished()
    return 0
