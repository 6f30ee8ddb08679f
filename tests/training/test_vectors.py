"""The state in a few vectors: where arrays lie, and that training is what it is with an array for each."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from drawn_network import drawn

from jaxdbd.network.model import normalize
from jaxdbd.training.loop import make_model
from jaxdbd.training.losses import joint_loss
from jaxdbd.training.optimizer import make_optimizer
from jaxdbd.training.step import batch_loss, create_state, train_step
from jaxdbd.training.vectors import VECTOR_MULTIPLE, Place, make_layout, to_tree, to_vectors

TREE = {
    "params": {
        "encoder": {"conv": {"kernel": np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)}},
        "side1": {"bias": np.array([7, 8], np.float32), "kernel": np.array([[1, 2], [3, 4]], np.float32)},
        "adapters": {"features_4": np.array([[5, 6]], np.float32)},
    },
    "batch_stats": {"side1": {"mean": np.array([9], np.float32)}},
}


def test_places_by_hand():
    layout = make_layout(TREE)
    assert layout == {
        "batch_stats/side1/mean": Place("statistics", 0, (1,)),
        "params/adapters/features_4": Place("decoder_kernels", 0, (1, 2)),
        "params/encoder/conv/kernel": Place("encoder_kernels", 0, (1, 1, 2, 3)),
        "params/side1/bias": Place("decoder_offsets", 0, (2,)),
        "params/side1/kernel": Place("decoder_kernels", 2, (2, 2)),
    }
    vectors = to_vectors(layout, TREE)
    assert {group: vector.shape for group, vector in vectors.items()} == dict.fromkeys(
        ("statistics", "decoder_kernels", "encoder_kernels", "decoder_offsets"), (VECTOR_MULTIPLE,)
    )
    np.testing.assert_array_equal(vectors["decoder_kernels"][:7], [5, 6, 1, 2, 3, 4, 0])
    assert not vectors["decoder_kernels"][6:].any()


def test_there_and_back():
    layout = make_layout(TREE)
    vectors = to_vectors(layout, TREE)
    jax.tree.map(np.testing.assert_array_equal, to_tree(layout, vectors), TREE)
    # A part of the groups is a part of the tree, as the gradients of parameters are.
    some = to_vectors(layout, {"params": TREE["params"]})
    assert set(vectors) - set(some) == {"statistics"}
    jax.tree.map(np.testing.assert_array_equal, to_tree(layout, some), {"params": TREE["params"]})


def test_many_arrays_are_joined_in_order_and_few_at_a_time():
    tree = {"params": {f"{i:02}": np.float32([i, i + 0.5]) for i in range(70)}}
    join = jax.jit(partial(to_vectors, make_layout(tree)))
    np.testing.assert_array_equal(join(tree)["decoder_offsets"][:140], np.arange(140) / 2)
    text = join.lower(tree).as_text()
    operands = [
        line.split("concatenate ")[1].split(", dim")[0].count("%")
        for line in text.splitlines()
        if "concatenate " in line
    ]
    assert sorted(operands) == [7, *[8] * 8, 9]  # 70 arrays and the zeros behind them: eight by eight, then nine


def test_lengths_are_shared_by_any_usual_number_of_devices():
    for devices in (*range(1, 7), 8, 9, 10, 12, 16, 24, 36, 48, 64, 72, 256, 1024):
        assert VECTOR_MULTIPLE % devices == 0
    exact = {"params": {"kernel": np.ones((VECTOR_MULTIPLE // 8, 8), np.float32)}}
    assert to_vectors(make_layout(exact), exact)["decoder_kernels"].size == VECTOR_MULTIPLE


def test_another_type_is_refused():
    with pytest.raises(ValueError, match="params/kernel is of type float16"):
        make_layout({"params": {"kernel": np.ones(2, np.float16)}})


OPTIONS = {"weight_decay": 0.05, "encoder_lr_factor": 0.3, "clip_norm": 5.0}
EMA_DECAY = 0.9


def in_encoder(params: Any) -> Any:
    return {part: jax.tree.map(lambda _, part=part: part == "encoder", tree) for part, tree in params.items()}


def chain_over_arrays(kind: str, schedule: optax.Schedule) -> optax.GradientTransformation:
    """What `make_optimizer` gives, with a state for every array of a tree."""
    decay = optax.add_decayed_weights(OPTIONS["weight_decay"], lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree))
    return optax.chain(
        optax.clip_by_global_norm(OPTIONS["clip_norm"]),
        *([optax.scale_by_adam(), decay] if kind == "adamw" else [decay, optax.trace(0.9)]),
        optax.masked(
            optax.scale(OPTIONS["encoder_lr_factor"]),
            in_encoder,
        ),
        optax.scale_by_learning_rate(schedule),
    )


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_five_updates_are_those_of_a_chain_over_arrays(kind):
    rate = optax.linear_schedule(0.0, 1e-2, 5)
    ours, theirs = make_optimizer(kind, rate, **OPTIONS, accumulate=1), chain_over_arrays(kind, rate)
    layout = make_layout(TREE)
    tree: Any = TREE["params"]
    params: Any = to_vectors(layout, {"params": tree})
    state, reference = ours.init(params), theirs.init(tree)
    rng = np.random.default_rng(0)
    for _ in range(5):
        gradients = jax.tree.map(lambda p: rng.normal(0, 3, p.shape).astype(np.float32), tree)
        updates, state = ours.update(to_vectors(layout, {"params": gradients}), state, params)
        params = optax.apply_updates(params, updates)
        updates, reference = theirs.update(gradients, reference, tree)
        tree = optax.apply_updates(tree, updates)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), to_tree(layout, params)["params"], tree)
    assert not any(vector[-1000:].any() for vector in params.values())  # what pads a vector stays zero


@pytest.mark.slow
def test_five_steps_are_those_of_a_network_in_arrays():
    model, rate = make_model(tiny.get_config()), optax.linear_schedule(0.0, 1e-3, 5)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8),
        "mask": rng.integers(0, 2, (4, 64, 64, 1), dtype=np.uint8) * np.uint8(255),
        "depth": rng.random((4, 64, 64, 1)).astype(np.float16),
    }
    joint = partial(joint_loss, focus_loss="bce+iou", depth_loss="l1", side_weights=(1.0,) * 5)
    before = drawn(model)
    # Not Adam, which makes as much of a gradient that is nothing but rounding as of any other.
    tx, chain = make_optimizer("sgd", rate, **OPTIONS, accumulate=1), chain_over_arrays("sgd", rate)

    @jax.jit
    def step_in_arrays(n, variables, opt_state, ema):
        def loss_of(params):
            images = normalize(jnp.asarray(batch["image"]), model.encoder)
            mask, depth = jnp.asarray(batch["mask"], jnp.float32) / 255, jnp.asarray(batch["depth"], jnp.float32)
            output, changed = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return joint(output, mask, depth, None, gamma=0.1)[0], changed

        (value, changed), gradients = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        updates, opt_state = chain.update(gradients, opt_state, variables["params"])
        variables = {"params": optax.apply_updates(variables["params"], updates), **changed}
        decay = jnp.minimum(EMA_DECAY, n / (n + 9))
        ema = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, ema, variables)
        return variables, opt_state, ema, value

    layout = make_layout(before)
    loss = partial(batch_loss, model=model, loss=joint, gamma=0.1)
    step = jax.jit(partial(train_step, loss=loss, layout=layout, tx=tx, ema_decay=EMA_DECAY))
    state = create_state(before, layout=layout, tx=tx, ema=True)
    theirs = before, chain.init(before["params"]), before
    for n in range(1, 6):
        state, metrics = step(state, batch)
        *theirs, value = step_in_arrays(float(n), *theirs)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)

    started = to_vectors(layout, before)
    for ours, tree in (({**state.params, "statistics": state.statistics}, theirs[0]), (state.ema, theirs[2])):
        for group, expected in to_vectors(layout, tree).items():
            moved = float(jnp.abs(expected - started[group]).max())
            assert moved > 1e-5
            np.testing.assert_allclose(ours[group], expected, rtol=0, atol=1e-2 * moved, err_msg=group)
