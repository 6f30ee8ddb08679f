"""Training as users start it: stopped in every way and resumed, on other devices and processes, and the step itself."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import tiny
from drawn_network import drawn
from ports import free_port
from readme import commands_for_several_devices
from training.test_hangup import hangups_end_programs  # noqa: F401, used by every test
from two_layers import TwoLayers, two_layers

from data import build
from jaxdbd import weights
from jaxdbd.errors import UserError
from jaxdbd.inference import maps_of_bytes
from jaxdbd.input.records import open_split
from jaxdbd.input.stream import make_stream, photographs_of
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.training import loop
from jaxdbd.training.data import batches_from
from jaxdbd.training.logs import read_metrics
from jaxdbd.training.loop import make_model, train
from jaxdbd.training.losses import joint_loss
from jaxdbd.training.optimizer import make_optimizer
from jaxdbd.training.step import batch_loss, create_state, train_step
from jaxdbd.training.vectors import make_layout

STEPS = 20


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """Rendered scenes of 64 pixels, built as a user builds them."""
    folder = tmp_path_factory.mktemp("data")
    flags = ["--dataset=synthetic", "--teacher=scene", "--size=64", "--train_scenes=24", "--test_scenes=6"]
    assert build.main([*flags, f"--data_dir={folder}"]) == 0
    save_start(folder)
    return folder


def save_start(folder: Path) -> None:
    """Writes the weights that runs start from: initializers take longer to compile than the steps."""
    model = make_model(tiny.get_config())
    weights.save(folder / "start.safetensors", model, drawn(model), dataset="none", license="none")


def start(data_dir: Path, workdir: Path, *flags: str, devices: int = 1) -> subprocess.Popen:
    """train.py with the tiny network, in a process of its own with so many CPU devices."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    data = [f"--config.data_dir={data_dir}", f"--config.init_from={data_dir / 'start.safetensors'}"]
    command = [sys.executable, tiny.__file__, f"--workdir={workdir}", *data, *flags]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*processes: subprocess.Popen, status: int = 0) -> str:
    """Waits; returns what the first wrote to stderr."""
    written = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), written[0]
    return written[0]


def start_two(data_dir: Path, workdir: Path, *flags: str) -> list[subprocess.Popen]:
    """Two processes with two devices each that train together, by the README's command but for batch and port."""
    port = f"--coordinator=localhost:{free_port()}"
    by_hand = commands_for_several_devices()[-1]
    assert by_hand[-1] == "--process_id=0"
    printed = [port if "--coordinator" in flag else flag for flag in by_hand[:-1]]
    return [
        start(data_dir, workdir, *printed, f"--process_id={i}", "--config.batch_size=8", *flags, devices=2)
        for i in range(2)
    ]


def wait_for_step(workdir: Path, step: int, process: subprocess.Popen) -> None:
    """Until the log has reached `step`."""
    while not any(line["step"] >= step for line in read_metrics(workdir / "metrics.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def losses(workdir: Path) -> np.ndarray:
    """The loss of every step; fails where one is missing or there twice."""
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return np.array([line["loss"] for line in lines])


def assert_close(a: Path, b: Path, rtol: float) -> None:
    """Losses within `rtol`; Adam hides the gradient's scale from them, so its norm is compared as well.

    That only roughly: rounding turns ReLUs over, which moved the norm by up to 1 %. A sum in a mean's place doubles it.
    """
    np.testing.assert_allclose(losses(a), losses(b), rtol=rtol)
    norms = [[line["grad_norm"] for line in read_metrics(d / "metrics.jsonl") if "loss" in line] for d in (a, b)]
    np.testing.assert_allclose(*norms, rtol=5e-2)


def final_state(workdir: Path) -> dict:
    """The arrays of the last checkpoint."""
    return ocp.StandardCheckpointer().restore(workdir.absolute() / "checkpoints" / str(STEPS) / "state")


def assert_identical(a: Path, b: Path) -> None:
    jax.tree.map(np.testing.assert_array_equal, final_state(a), final_state(b))
    ours, theirs = (weights.read_tensors(folder / "weights.safetensors") for folder in (a, b))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    np.testing.assert_array_equal(losses(a), losses(b))


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory) -> Path:
    """The workdir of a run on one device that nothing happened to, but that five of its steps were traced."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(start(data_dir, workdir, "--profile"))
    return workdir


@pytest.mark.slow
def test_leaves_what_it_promises(undisturbed):
    names = {p.name for p in undisturbed.iterdir()}
    assert names == {"checkpoints", "config.json", "metrics.jsonl", "profile", "tensorboard", "weights.safetensors"}
    assert list((undisturbed / "profile").rglob("*.xplane.pb"))
    lines = read_metrics(undisturbed / "metrics.jsonl")
    terms = {"step", "of", "time", "loss", "bce", "soft_iou", "depth", "grad_norm", "learning_rate"}
    assert set(lines[1]) == terms | {"images_per_s", "tflop_per_s", "waiting_for_input"}  # no peak of a CPU is known
    assert 0 < lines[1]["waiting_for_input"] < 1
    scores = [line for line in lines if "eval/mae" in line]
    assert [line["step"] for line in scores] == [10, 20]
    # The two newest, and the best where it is not among them.
    best = min(scores, key=lambda line: line["eval/mae"])["step"]
    assert {int(p.name) for p in (undisturbed / "checkpoints").iterdir()} == {16, 20, best}


@pytest.mark.slow
def test_starts_from_the_weights_that_the_config_names(data_dir, undisturbed):
    """From which Adam moves a parameter by a learning rate a step."""
    _, before = weights.load(data_dir / "start.safetensors")
    _, after = weights.load(undisturbed)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-4), after["params"], before["params"])


@pytest.mark.slow
def test_killed_and_stopped_ends_bit_identical(data_dir, undisturbed, tmp_path):
    # Killed before and after the first evaluation; in between and after, told to stop in every way.
    stops = [
        (signal.SIGKILL, random.randint(1, 5)),
        (signal.SIGTERM, 6),
        (signal.SIGHUP, 8),
        (signal.SIGKILL, random.randint(11, 13)),
        (signal.SIGINT, 14),
    ]
    for number, earliest in stops:
        logged = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
        step = max([earliest, *(n + 1 for n in logged)])  # beyond what the process before has logged
        process = start(data_dir, tmp_path)
        wait_for_step(tmp_path, step, process)
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.communicate()
            continue
        message = finish(process, status=130 if number == signal.SIGINT else 0)
        assert "saved; the same command goes on from here" in message
        saved = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
        assert step <= saved < STEPS
    finish(start(data_dir, tmp_path))
    assert_identical(tmp_path, undisturbed)


@pytest.mark.slow
def test_eight_devices_train_as_one_and_with_fsdp(data_dir, undisturbed, tmp_path):
    finish(start(data_dir, tmp_path / "replicated", devices=8))
    assert_close(tmp_path / "replicated", undisturbed, rtol=1e-4)
    finish(start(data_dir, tmp_path / "fsdp", "--config.fsdp=true", devices=8))
    assert_close(tmp_path / "fsdp", tmp_path / "replicated", rtol=1e-5)
    # Whoever reads the weights need not know how they were trained.
    ours, theirs = (weights.read_tensors(tmp_path / n / "weights.safetensors") for n in ("fsdp", "replicated"))
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5, err_msg=name)


def tiny_config(data_dir: Path, **fields):
    config = tiny.get_config()
    config.data_dir, config.init_from = str(data_dir), str(data_dir / "start.safetensors")
    config.update(fields)
    return config


@pytest.fixture
def small_network(monkeypatch):
    """Trainings in this process are of two layers, from random weights."""
    monkeypatch.setattr(loop, "make_model", two_layers)


@pytest.mark.slow
def test_not_finite_stops_and_leaves_the_checkpoint(data_dir, small_network, tmp_path):
    config = tiny_config(data_dir, steps=2, checkpoint_every=2, warmup_steps=1, eval_split="", init_from="")
    assert train(config, tmp_path) == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.joinpath("checkpoints").rglob("*")}
    config.update(steps=6, checkpoint_every=100, learning_rate=1e30, clip_norm=0.0)
    ids = {record["id"].decode() for record in open_split("dbd/synthetic", "train", str(data_dir))}
    with pytest.raises(UserError, match=r"step (3|4|5|6): not finite \(.*bce .*loss .*\) on images ") as caught:
        train(config, tmp_path)
    named = str(caught.value).partition("on images ")[2].partition(";")[0].split(", ")
    assert len(named) == 8
    assert set(named) <= ids
    after = {p: p.stat().st_mtime_ns for p in tmp_path.joinpath("checkpoints").rglob("*")}
    assert after == before


@pytest.mark.slow
def test_a_finished_run_says_so_and_leaves_the_weights_if_they_are_missing(data_dir, undisturbed, tmp_path, capsys):
    run, weights_file = tmp_path / "run", tmp_path / "run" / "weights.safetensors"
    shutil.copytree(undisturbed, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert train(tiny_config(data_dir), run) == 0
    assert capsys.readouterr().err == f"step {STEPS} of {STEPS} is done: nothing is left to train\n"
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before

    weights_file.unlink()
    assert train(tiny_config(data_dir, steps=7), run, profile=True) == 0  # fewer than are done
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"step {STEPS} of 7 is done: nothing is left to train; wrote {weights_file}"
    # Those that the run itself had left, the best by validation; and nothing else is another.
    ours, theirs = (weights.read_tensors(d / "weights.safetensors") for d in (run, undisturbed))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert weights.read_metadata(run) == weights.read_metadata(undisturbed)
    after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert {p for p in before | after if before.get(p) != after.get(p)} <= {weights_file}


@pytest.mark.slow
def test_with_another_batch_size_every_row_is_seen_once(data_dir, small_network, tmp_path, monkeypatch, capsys):
    seen = []

    def recorded(*args):
        for batch, numbers in batches_from(*args):
            seen.extend(numbers)
            yield batch, numbers

    monkeypatch.setattr(loop, "batches_from", recorded)
    for steps, batch_size in ((2, 8), (6, 4)):  # rows 0 to 15, and on to 31
        config = tiny_config(data_dir, steps=steps, batch_size=batch_size, warmup_steps=1, eval_split="", init_from="")
        assert train(config, tmp_path) == 0
    assert "batch_size has changed since checkpoint 2: 8 -> 4; the rows go on" in capsys.readouterr().err
    stream = make_stream([24], None, config.seed)
    assert seen == photographs_of(stream, np.arange(32)).tolist()


def test_wrong_configs_are_one_line(data_dir, tmp_path):
    for fields, message in (
        ({"train_split": "nonsense"}, "nonsense"),
        ({"dataset": "dbd/nowhere"}, "dbd/nowhere is not built"),
        ({"init_from": "nowhere.safetensors"}, "no weights at nowhere.safetensors"),
        ({"feature_weight": 1.0}, "built without a teacher's features: build it with --teacher_features, or set"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            train(tiny_config(data_dir, **fields), tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="--profile needs 10 steps"):
        train(tiny_config(data_dir, steps=9), tmp_path, profile=True)
    config = tiny_config(data_dir)
    config.model.sab = False
    with pytest.raises(UserError, match=r"config\.init_from=.*another network"):
        train(config, tmp_path)


def random_batch(n: int, size: int = 32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8),
        "mask": rng.integers(0, 2, (n, size, size, 1), dtype=np.uint8) * np.uint8(255),
        "depth": rng.random((n, size, size, 1)).astype(np.float16),
    }


def make_step(model: DepthDistilledDBD, **fields):
    joint = partial(joint_loss, focus_loss="bce+iou", depth_loss="l1", side_weights=(1.0,) * 5)
    return partial(train_step, loss=partial(batch_loss, model=model, loss=joint, gamma=0.1), **fields)


@pytest.fixture(scope="module")
def frozen():
    """A network whose images do not see each other: its variables, and by `accumulate` how to start and take a step."""
    model = TwoLayers(encoder="tiny")
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    layout, functions = make_layout(variables), {}
    for accumulate in (1, 4):
        tx = make_optimizer(
            "adamw",
            optax.constant_schedule(1e-3),
            weight_decay=1e-4,
            encoder_lr_factor=0.5,
            clip_norm=1.0,
            accumulate=accumulate,
        )
        start = jax.jit(partial(create_state, layout=layout, tx=tx, ema=True))
        step = make_step(model, layout=layout, tx=tx, ema_decay=0.9, accumulate=accumulate)
        functions[accumulate] = start, jax.jit(step)
    return variables, functions


@pytest.mark.slow
def test_accumulation_equals_the_large_batch(frozen):
    variables, functions = frozen
    batch = random_batch(8)
    states = {}
    for accumulate, (start, step) in functions.items():
        state = start(variables)
        rows = 8 // accumulate
        for _ in range(2):
            for i in range(accumulate):
                state, _ = step(state, {k: v[i * rows : (i + 1) * rows] for k, v in batch.items()})
        states[accumulate] = state
    assert states[4].step == 8
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-5)
    jax.tree.map(close, states[4].params, states[1].params)
    jax.tree.map(close, states[4].ema, states[1].ema)
    before = functions[1][0](variables)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), states[1].params, before.params)
    assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.fixture(scope="module", params=["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def traced_step(request):
    """The training step of the lite network, traced and for no platform yet."""
    model = DepthDistilledDBD(encoder="lite0", full_resolution=False, dtype=jnp.dtype(request.param))
    tx = make_optimizer("adamw", lambda _: 1e-3, weight_decay=1e-4, encoder_lr_factor=1.0, clip_norm=5.0, accumulate=1)
    layout = make_layout(weights.shapes(model))
    shapes = jax.eval_shape(partial(create_state, layout=layout, tx=tx, ema=True), weights.shapes(model))
    step = jax.jit(make_step(model, layout=layout, tx=tx, ema_decay=0.99), donate_argnums=0)
    return step.trace(shapes, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), random_batch(8, 64)))


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_lowers_for_accelerators_that_are_not_here(traced_step, platform):
    text = traced_step.lower(lowering_platforms=(platform,)).as_text()
    # A depthwise convolution: one grouped convolution on a TPU, sums on CUDA.
    assert ("feature_group_count = 672" in text) == (platform == "tpu")
    assert "stablehlo.convolution" in text


@pytest.mark.slow
def test_inference_gives_probabilities_and_nearness():
    config = tiny.get_config()
    model = make_model(config)
    focus, depth, blur = jax.jit(partial(maps_of_bytes, model))(drawn(model), random_batch(2)["image"])
    assert blur is None
    assert focus.shape == depth.shape == (2, 32, 32)
    for maps in (focus, depth):
        assert 0 <= float(maps.min()) <= float(maps.max()) <= 1
    config.model.depth_head = False
    model = make_model(config)
    shapes = weights.shapes(model), random_batch(1)["image"]
    assert jax.eval_shape(partial(maps_of_bytes, model), *shapes)[1] is None
