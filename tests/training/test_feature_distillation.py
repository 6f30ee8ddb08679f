"""Feature distillation: its loss by hand, what it trains, and runs as users start them."""

import json
import signal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from drawn_network import drawn
from fake_teacher import onnx_teacher
from test_loop import STEPS, assert_close, assert_identical, finish, start, start_two, wait_for_step

from data import build
from jaxdbd import sharding, weights
from jaxdbd.training import checkpoint
from jaxdbd.training import distillation as features
from jaxdbd.training.distillation import feature_loss, make_adapters, with_adapters, without_adapters
from jaxdbd.training.logs import read_metrics
from jaxdbd.training.loop import make_model
from jaxdbd.training.losses import joint_loss
from jaxdbd.training.optimizer import make_optimizer
from jaxdbd.training.step import batch_loss, create_state, evaluated, train_step
from jaxdbd.training.vectors import make_layout, to_tree

mismatch = jax.jit(features.mismatch)


def test_mismatch_by_hand():
    # One cell: the tap (3, 4) through the identity is (.6, .8); the target (0, 2) is (0, 1). .36 + .04
    tap, identity = jnp.asarray([3.0, 4.0]).reshape(1, 1, 1, 2), jnp.eye(2)
    target = jnp.asarray([0.0, 2.0]).reshape(1, 1, 1, 2)
    np.testing.assert_allclose(mismatch(tap, identity, target), [0.4], rtol=1e-5)
    # Neither length counts, only the direction; opposite ones are 2 apart, squared.
    np.testing.assert_allclose(mismatch(5 * tap, identity, 7 * tap), [0.0], atol=1e-6)
    np.testing.assert_allclose(mismatch(tap, -identity, tap), [4.0], rtol=1e-5)
    # The adapter turns (1, 0, 0) to (0, 1) by its first row.
    kernel = jnp.asarray([[0.0, 1.0], [9.0, 9.0], [9.0, 9.0]])
    np.testing.assert_allclose(mismatch(jnp.eye(3)[0].reshape(1, 1, 1, 3), kernel, target), [0.0], atol=1e-6)
    # Two cells, one of them at right angles: (0 + 2) / 2.
    both = jnp.asarray([[1.0, 0.0], [1.0, 0.0]]).reshape(1, 1, 2, 2)
    np.testing.assert_allclose(mismatch(both, identity, jnp.eye(2).reshape(1, 1, 2, 2)), [1.0], rtol=1e-5)


def test_what_is_not_known_changes_no_value_and_no_gradient():
    rng = np.random.default_rng(0)
    tap, kernel = jnp.asarray(rng.normal(size=(2, 4, 4, 3)), jnp.float32), jnp.asarray(rng.normal(size=(3, 5)))
    target = jnp.asarray(rng.normal(size=(2, 4, 4, 5)), jnp.float32)
    holed = target.at[:, :, 2:].set(jnp.nan)
    np.testing.assert_allclose(
        mismatch(tap, kernel, holed), mismatch(tap[:, :, :2], kernel, target[:, :, :2]), rtol=1e-5
    )
    one = target.at[:, :, 2:, 0].set(jnp.nan)  # unknown in one channel, so unknown
    np.testing.assert_allclose(mismatch(tap, kernel, one), mismatch(tap, kernel, holed), rtol=1e-6)
    gradient = jax.grad(lambda t: mismatch(t, kernel, holed).sum())(tap)
    assert float(jnp.abs(gradient[:, :, 2:]).max()) == 0 < float(jnp.abs(gradient[:, :, :2]).min())
    # Nothing known of the second image: it has no loss, and no NaN.
    value, gradient = jax.value_and_grad(lambda t: mismatch(t, kernel, target.at[1].set(jnp.nan)).sum())(tap)
    np.testing.assert_allclose(value, mismatch(tap, kernel, target)[0], rtol=1e-5)
    assert float(jnp.abs(gradient[1]).max()) == 0


def test_a_tap_is_brought_to_the_teachers_grid():
    # Upper half (1, 0), lower half (0, 1), in 16 rows; four rows of the teacher, those at the border not known.
    tap = jnp.eye(2)[:, None].repeat(8, axis=1).reshape(1, 16, 1, 2).repeat(6, axis=2)
    target = jnp.eye(2)[:, None].repeat(2, axis=1).reshape(1, 4, 1, 2).repeat(9, axis=2).at[:, 1:3].set(jnp.nan)
    np.testing.assert_allclose(mismatch(tap, jnp.eye(2), target), [0.0], atol=1e-5)
    np.testing.assert_allclose(mismatch(tap[:, ::-1], jnp.eye(2), target), [2.0], rtol=1e-5)


def test_levels_are_summed_and_taps_are_those_of_the_stride():
    rng = np.random.default_rng(1)
    shapes = {"features_4": (3, 5, 6), "features_16": (2, 2, 7)}
    adapters = make_adapters(shapes, "lite0", seed=0)
    assert {name: kernel.shape for name, kernel in adapters.items()} == {"features_4": (24, 6), "features_16": (112, 7)}
    assert make_adapters({}, "lite0", seed=0) == {}
    channels = (16, 24, 40, 112, 320)
    taps = [jnp.asarray(rng.normal(size=(2, 32 >> i, 32 >> i, c)), jnp.float32) for i, c in enumerate(channels)]
    batch = {name: jnp.asarray(rng.normal(size=(2, *shape)), jnp.float32) for name, shape in shapes.items()}
    expected = sum(
        mismatch(taps[i], adapters[name], batch[name]) for i, name in ((1, "features_4"), (3, "features_16"))
    )
    np.testing.assert_allclose(jax.jit(feature_loss)(taps, adapters, batch), expected, rtol=1e-5)


SHAPES = {"features_4": (6, 10, 3), "features_8": (4, 4, 5)}


def random_batch(n: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8),
        "mask": rng.integers(0, 2, (n, 64, 64, 1), dtype=np.uint8) * np.uint8(255),
    }
    return batch | {name: rng.normal(size=(n, *shape)).astype(np.float16) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def stepped():
    """A function that takes so many steps on a batch, 0.5 the weight of features; the state before them; its layout."""
    model = make_model(tiny.get_config())
    tx = make_optimizer("adam", lambda _: 1e-2, weight_decay=0.0, encoder_lr_factor=1.0, clip_norm=0.0, accumulate=1)
    joint = partial(joint_loss, focus_loss="bce", depth_loss="l1", side_weights=(1.0,) * 5)
    loss = partial(batch_loss, model=model, loss=joint, gamma=0.0, feature_weight=0.5)
    variables = with_adapters(drawn(model), jax.device_get(make_adapters(SHAPES, "tiny", seed=3)))
    layout = make_layout(variables)
    state = jax.jit(partial(create_state, layout=layout, tx=tx, ema=True))(variables)
    compiled = jax.jit(partial(train_step, loss=loss, layout=layout, tx=tx, ema_decay=0.9))

    def take(batch, steps=1, start=state):
        now, metrics = start, []
        for _ in range(steps):
            now, values = compiled(now, batch)
            metrics.append(jax.device_get(values))
        return now, metrics

    return take, state, layout


@pytest.mark.slow
def test_the_step_adds_the_weighted_term_and_trains_the_adapters(stepped):
    take, before, layout = stepped
    state, metrics = take(random_batch(), 6)
    for values in metrics:
        np.testing.assert_allclose(values["loss"], values["bce"] + 0.5 * values["features"], rtol=1e-5)
    assert metrics[-1]["features"] < 0.95 * metrics[0]["features"]
    adapters, trained = (to_tree(layout, s.params)["params"]["adapters"] for s in (before, state))
    for name, kernel in adapters.items():
        assert float(jnp.abs(trained[name] - kernel).max()) > 1e-2
    # What is evaluated and written is the network alone.
    shapes = weights.shapes(make_model(tiny.get_config()))
    averaged = to_tree(layout, evaluated(state))
    assert set(averaged["params"].pop("adapters")) == set(SHAPES)
    assert jax.tree.map(jnp.shape, averaged) == jax.tree.map(jnp.shape, shapes)


@pytest.mark.slow
def test_a_checkpoint_holds_the_adapters_and_goes_on_exactly(stepped, tmp_path):
    take, before, layout = stepped
    batch = random_batch()
    halfway, _ = take(batch, 2)
    manager = checkpoint.open_manager(tmp_path, keep=1)
    checkpoint.save(manager, 2, halfway, 16, layout, config := tiny.get_config().to_dict(), None)
    checkpoint.wait(manager)
    place = jax.tree.map(lambda _: sharding.replicated(sharding.make_mesh()), before)
    restored, rows = checkpoint.restore(manager, checkpoint.abstract(before, place), layout, config)
    assert rows == 16
    manager.close()
    resumed, _ = take(batch, 2, start=jax.device_get(restored))
    undisturbed, _ = take(batch, 4)
    assert "params/adapters/features_4" in layout
    jax.tree.map(np.testing.assert_array_equal, resumed, undisturbed)


@pytest.mark.slow
def test_rows_without_features_count_as_zero(stepped):
    take, *_ = stepped
    whole = {name: np.concatenate([array[:4], array[:4]]) for name, array in random_batch().items()}
    half = whole | {name: whole[name].copy() for name in SHAPES}
    for name in SHAPES:
        half[name][4:] = np.nan
    # The images without features count in the mean, as those without depth do.
    (_, (of_half,)), (_, (of_whole,)) = take(half), take(whole)
    np.testing.assert_allclose(2 * of_half["features"], of_whole["features"], rtol=1e-5)


def test_without_a_weight_nothing_is_added():
    model = make_model(tiny.get_config())
    variables = drawn(model)
    assert with_adapters(variables, {}) is variables
    assert jax.tree.all(jax.tree.map(np.array_equal, without_adapters(with_adapters(variables, {"a": 1})), variables))


# --- train.py ---

FLAGS = ("--config.feature_weight=1.0", "--config.init_from=")  # random weights, which every process draws itself


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Rendered scenes with features of a teacher at strides 2 and 8."""
    folder = tmp_path_factory.mktemp("data")
    teacher = onnx_teacher(folder / "teacher.onnx", side=64)
    flags = ["--dataset=synthetic", f"--teacher=onnx:{teacher}", "--teacher_polarity=near"]
    flags += ["--teacher_features=half,eighth", "--size=64", "--train_scenes=24", "--test_scenes=6"]
    assert build.main([*flags, f"--data_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    """The workdir of a run with features on one device."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(start(data_dir, workdir, *FLAGS))
    return workdir


def adapters_in(workdir) -> set[str]:
    """The adapters that the last checkpoint of a run holds."""
    layout = json.loads((workdir / "checkpoints" / str(STEPS) / "meta" / "metadata").read_text())["layout"]
    return {name.removeprefix("params/adapters/") for name in layout if name.startswith("params/adapters/")}


@pytest.mark.slow
def test_a_killed_run_ends_bit_identical_and_leaves_the_adapters_behind(data_dir, undisturbed, tmp_path):
    process = start(data_dir, tmp_path, *FLAGS)
    wait_for_step(tmp_path, 7, process)
    process.kill()
    process.wait()
    finish(start(data_dir, tmp_path, *FLAGS))
    assert_identical(tmp_path, undisturbed)
    assert adapters_in(undisturbed) == {"features_2", "features_8"}
    lines = [line for line in read_metrics(undisturbed / "metrics.jsonl") if "loss" in line]
    assert all(line["features"] > 0 for line in lines)
    names = weights.read_tensors(undisturbed / "weights.safetensors").keys()
    assert not [name for name in names if "adapter" in name]
    weights.load(undisturbed)  # fails for any array too many


@pytest.mark.slow
def test_processes_train_as_one_and_resume_each_other(data_dir, undisturbed, tmp_path):
    for step, two in ((3, True), (10, False)):
        processes = start_two(data_dir, tmp_path, *FLAGS) if two else [start(data_dir, tmp_path, *FLAGS, devices=4)]
        wait_for_step(tmp_path, step, processes[0])
        processes[-1].send_signal(signal.SIGTERM)  # to one process stops both, at the same step
        assert "saved" in finish(*processes)
        assert max(line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")) < STEPS
    assert "resumed at step" in finish(*start_two(data_dir, tmp_path, *FLAGS))
    assert_close(tmp_path, undisturbed, rtol=1e-4)


@pytest.mark.slow
def test_accumulation_trains_the_adapters(data_dir, tmp_path):
    finish(start(data_dir, tmp_path, *FLAGS, "--config.accumulate=2", "--config.steps=10", "--config.eval_split="))
    assert adapters_in(tmp_path) == {"features_2", "features_8"}
