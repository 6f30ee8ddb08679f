"""The training loop, which survives being stopped."""

import contextlib
import itertools
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from jaxdbd import sharding, weights
from jaxdbd.errors import UserError
from jaxdbd.machine.files import make_folder, write_whole
from jaxdbd.machine.paths import as_path
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.training import checkpoint
from jaxdbd.training.config import check_config, check_warmup
from jaxdbd.training.data import Data, batches_from, open_data
from jaxdbd.training.distillation import make_adapters, with_adapters, without_adapters
from jaxdbd.training.keeper import Keeper, evaluate, leave_finished
from jaxdbd.training.lock import sole_run
from jaxdbd.training.logs import RunLog, Spool
from jaxdbd.training.pending import Pending, check_finite, check_older, values_of
from jaxdbd.training.programs import Steps, compile_steps, compiled, learning_rate
from jaxdbd.training.speed import Speed, device_memory, peak_flops
from jaxdbd.training.step import TrainState, evaluated
from jaxdbd.training.stopping import stop_notices
from jaxdbd.training.vectors import to_tree

PROFILE_AFTER, PROFILE_STEPS = 5, 5  # the first steps compile and fill buffers


class Run(NamedTuple):
    """What a run needs to go from its first step to its last."""

    mesh: Mesh
    data: Data
    steps: Steps
    state: TrainState
    start: int  # the step that `state` stands at
    first: int  # the row that comes next
    last: int
    profiled: range  # steps that are traced
    profile_folder: Path


def make_model(config: ml_collections.ConfigDict) -> DepthDistilledDBD:
    """The network that a config describes."""
    fields = dict(config.model)
    if fields["widths"] is not None:
        fields["widths"] = tuple(fields["widths"])
    fields |= {"blur_head": config.blur_weight > 0}
    return DepthDistilledDBD(encoder=config.encoder, dtype=jnp.dtype(config.dtype), size=config.size, **fields)


def initial_variables(model: DepthDistilledDBD, seed: int, encoder_init: str, init_from: str) -> weights.Variables:
    """Random variables, the encoder from `encoder_init`; or all from `init_from`, whose blur head is as configured."""
    if init_from:
        other, variables = weights.load(init_from)
        if model.blur_head and not other.blur_head:
            variables = weights.add_blur_head(variables, weights.fresh_blur_head(variables))
        elif other.blur_head and not model.blur_head:
            variables = weights.without_blur_head(variables)
        if jax.tree.map(jnp.shape, variables) != jax.tree.map(jnp.shape, weights.shapes(model)):
            raise UserError(f"config.init_from={init_from}: holds another network ({other.encoder}) than the config's")
    else:
        variables = weights.init_encoder(weights.random_variables(model, seed), model.encoder, encoder_init)
    return jax.device_get(variables)  # on the host, every process can hand them to a mesh of all


def make_keeper(
    config: ml_collections.ConfigDict,
    workdir: epath.Path,
    model: DepthDistilledDBD,
    run: Run,
    manager: ocp.CheckpointManager,
    log: RunLog,
) -> Keeper:
    """A `Keeper` that goes on from the best of the checkpoints in `manager`."""
    mesh, gather = sharding.local_mesh(run.mesh), sharding.gather(run.mesh)
    batch_size = -(-config.eval_batch_size // mesh.size) * mesh.size
    held_out = run.data.held_out

    def variables_of(state):
        vectors = jax.device_get(gather(evaluated(state)))
        return without_adapters(to_tree(run.steps.layout, vectors))

    def evaluate_all(variables):
        placed = jax.device_put(variables, sharding.replicated(mesh))

        def predict(images):
            return run.steps.predict(placed, sharding.all_rows_to_devices(images, mesh))

        return evaluate(predict, held_out, config.size, batch_size)

    def save_weights(variables, threshold):
        if jax.process_index() == 0:
            path, dataset = workdir / "weights.safetensors", f"{config.dataset}:{config.train_split}"
            weights.save(path, model, variables, dataset=dataset, license=config.license, threshold=threshold)

    def save_checkpoint(step, state, scores):
        rows = run.first + (step - run.start) * (config.batch_size // config.accumulate)
        layout, origin = run.steps.layout, run.data.provenance
        checkpoint.save(manager, step, state, rows, layout, config.to_dict(), scores, origin)

    return Keeper(
        best=checkpoint.best_mae(manager, run.data.provenance.evaluated),
        variables_of=variables_of,
        evaluate=evaluate_all if len(held_out) else None,
        save_weights=save_weights,
        save_checkpoint=save_checkpoint,
        log=log,
    )


def profiled_steps(profile: bool, start: int, last: int) -> range:
    """The steps to trace, none without `profile`. Raises UserError where too few are left."""
    if not profile:
        return range(0)
    if last - start < PROFILE_AFTER + PROFILE_STEPS:
        raise UserError(f"--profile needs {PROFILE_AFTER + PROFILE_STEPS} steps, and {last - start} are left")
    return range(start + PROFILE_AFTER + 1, start + PROFILE_AFTER + PROFILE_STEPS + 1)


def train(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, profile: bool = False, accepts_rebuilt: bool = False
) -> int:
    """Trains to the end of the config, from the newest checkpoint in `workdir` if there is one, alone in it.

    Leaves `<workdir>/weights.safetensors`, `metrics.jsonl`, `tensorboard/`, `checkpoints/` and `config.json`; `workdir`
    is a local folder, or one in a store that all processes reach.
    On SIGTERM, Ctrl-C, a hang-up or a preemption notice it saves and returns. Of a run that has ended it says so, and
    writes the weights if they are missing. A dataset that was built anew since is an error, or with `accepts_rebuilt` a
    warning.

    Returns:
      The exit status: 0, or 130 after Ctrl-C.

    Raises:
      UserError: for a config that cannot be, a workdir that another run writes to, a dataset that is not there, a
        checkpoint of another network, or a loss that is not finite.
    """
    check_config(config, jax.device_count())
    with sole_run(workdir):
        return _train(config, as_path(workdir), profile, accepts_rebuilt)


def _train(config: ml_collections.ConfigDict, workdir: epath.Path, profile: bool, accepts_rebuilt: bool) -> int:
    spool = Spool(workdir, config.cache_dir)
    mesh, model = sharding.make_mesh(), make_model(config)
    data = open_data(config)
    check_warmup(config.warmup_steps, data.updates)
    last = data.updates * config.accumulate
    adapters = make_adapters(data.features, config.encoder, config.seed)
    steps = compile_steps(config, model, adapters, data.updates, mesh)
    make_folder(spool.folder)
    origin = data.provenance
    manager = checkpoint.open_manager(workdir / "checkpoints", config.keep_checkpoints, origin.evaluated)
    # A checkpoint in the workdir comes before anything that the config says about a start.
    restored = checkpoint.restore(
        manager, steps.abstract_state, steps.layout, config.to_dict(), origin.shards, accepts_rebuilt
    )
    state, first = restored or (None, 0)
    if state is None:
        variables = initial_variables(model, config.seed, config.encoder_init, config.init_from)
        state = steps.make_state(with_adapters(variables, jax.device_get(adapters)))
    start = int(state.step)
    profiled = profiled_steps(profile and start < last, start, last)
    run = Run(mesh, data, steps, state, start, first, last, profiled, spool.folder / "profile")
    if start >= last:
        with contextlib.closing(spool), checkpoint.closing(manager):
            keeper = make_keeper(config, workdir, model, run, manager, RunLog(spool, last, start, active=False))
            path = workdir / "weights.safetensors"
            leave_finished(keeper, manager, state, steps.abstract_state, last, origin.evaluated, path)
        return 0
    if jax.process_index() == 0:
        write_whole(spool.folder / "config.json", config.to_json_best_effort(indent=2) + "\n")

    log = RunLog(spool, last, start, active=jax.process_index() == 0)
    closing = contextlib.closing
    with stop_notices() as stop_notice, closing(spool), closing(log), checkpoint.closing(manager):
        if start:
            log.message(f"resumed at step {start} of {last}")
        keeper = make_keeper(config, workdir, model, run, manager, log)
        step, stopped_by = run_steps(config, run, keeper, stop_notice)
        checkpoint.wait(manager)
        if step < last:
            log.message(f"stopped at step {step} of {last}, saved; the same command goes on from here")
    return 130 if stopped_by == signal.SIGINT and step < last else 0


def run_steps(
    config: ml_collections.ConfigDict, run: Run, keeper: Keeper, stop_notice: Callable[[int], int]
) -> tuple[int, int]:
    """Takes the steps of a run, to its last or until told to stop; returns the last step taken, and the signal or 0."""
    state, log, schedule = run.state, keeper.log, learning_rate(config, run.data.updates)
    feed = batches_from(run.data, run.first, config, run.mesh)
    first = next(feed)
    train_step, flops = compiled(run.steps.train, state, first[0])
    speed = Speed(flops, peak_flops(device.device_kind for device in run.mesh.devices.flat))
    fed = speed.waited_for(itertools.chain([first], feed))
    pending: list[Pending] = []
    stopped_by = 0
    for step in range(run.start + 1, run.last + 1):
        batch, numbers = next(fed)
        if step in run.profiled[:1]:
            check_finite(pending)  # waits for the steps before
            jax.profiler.start_trace(run.profile_folder)
        state, metrics = train_step(state, batch)
        pending.append(Pending(step, metrics, partial(map, run.data.placed.ids, numbers)))
        check_older(pending)
        speed.count(config.batch_size // config.accumulate)
        log.advance(step)
        if step in run.profiled[-1:]:
            check_finite(pending)
            jax.profiler.stop_trace()
            log.message(f"a trace of {PROFILE_STEPS} steps is in {run.profile_folder}")

        stopped_by = stop_notice(step)
        evaluates = keeper.evaluate is not None and (step % config.eval_every == 0 or step == run.last)
        logs = step % config.log_every == 0 or step == run.last
        keeps = evaluates or stopped_by or step % config.checkpoint_every == 0 or step == run.last
        if logs or keeps:
            check_finite(pending)  # nothing that is not finite reaches the disk
            pending = pending[-1:]
        if logs:
            values = values_of(pending[-1])
            values["learning_rate"] = np.asarray(schedule((step - 1) // config.accumulate)).item()
            log.write(step, values | speed.values() | device_memory())
            speed.restart()
        if keeps:
            with speed.paused():
                keeper.keep(step, state, evaluates)
        if stopped_by:
            break
    return step, stopped_by
