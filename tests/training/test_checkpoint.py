"""Checkpoints on disk: which are kept, and what happens to damaged ones and those of another run."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdbd import sharding
from jaxdbd.errors import UserError
from jaxdbd.training import checkpoint
from jaxdbd.training.provenance import Provenance
from jaxdbd.training.vectors import Place

CONFIG = {
    "encoder": "lite0",
    "optimizer": "adamw",
    "ema_decay": 0.9,
    "accumulate": 1,
    "learning_rate": 1e-3,
    "model": {"widths": (1, 2), "sab": True},
}


def make_state(step: int) -> dict:
    return {"step": jnp.int32(step), "params": {"kernel": jnp.full((4, 3), float(step))}}


LAYOUT = {"params/kernel": Place("decoder_kernels", 0, (4, 3))}
ORIGIN = Provenance({}, "", "abc+")


def write(folder: Path, steps=(1, 2, 3), keep=10, maes=None) -> None:
    """A run that saved after each of `steps`, of eight rows each."""
    manager = checkpoint.open_manager(folder, keep)
    for step in steps:
        scores = {"mae": maes[step], "f": 0.5} if maes and step in maes else None
        checkpoint.save(manager, step, make_state(step), 8 * step, LAYOUT, CONFIG, scores, ORIGIN)
    manager.close()


def read(folder: Path, config=CONFIG, layout=LAYOUT):
    manager = checkpoint.open_manager(folder, 10)
    shapes = jax.eval_shape(lambda: make_state(0))
    placement = sharding.state_sharding(sharding.make_mesh(), shapes, fsdp=False)
    try:
        return checkpoint.restore(manager, checkpoint.abstract(shapes, placement), layout, config) or (None, 0)
    finally:
        manager.close()


def damage(folder: Path, how: str) -> None:
    """What a full disk or a careless hand leaves of a checkpoint."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    if how == "truncated":
        for file in files:
            os.truncate(file, file.stat().st_size // 2)
    elif how == "data gone":
        for file in files:
            if "/d/" in str(file):
                file.unlink()
    elif how == "state gone":
        for file in (folder / "state").rglob("*"):
            if file.is_file():
                file.unlink()
    elif how == "meta garbled":
        (folder / "meta" / "metadata").write_text("{")


def test_newest_comes_back_with_its_place_in_the_data(tmp_path):
    write(tmp_path)
    state, rows = read(tmp_path)
    assert int(state["step"]) == 3
    np.testing.assert_array_equal(state["params"]["kernel"], np.full((4, 3), 3.0))
    assert rows == 24


def test_nothing_there(tmp_path):
    assert read(tmp_path)[0] is None


def test_keeps_the_newest_and_the_best(tmp_path):
    write(tmp_path, steps=range(1, 8), keep=2, maes={2: 0.2, 3: 0.1, 5: 0.3})
    assert {int(p.name) for p in tmp_path.iterdir()} == {3, 6, 7}
    manager = checkpoint.open_manager(tmp_path, 2)
    assert checkpoint.best_mae(manager) == 0.1
    manager.close()


def test_says_what_it_was_made_from(tmp_path):
    write(tmp_path)
    meta = json.loads((tmp_path / "3" / "meta" / "metadata").read_text())
    assert meta["config"]["model"] == {"widths": [1, 2], "sab": True}
    assert meta["git"] == "abc+"


@pytest.mark.parametrize("how", ["truncated", "data gone", "state gone", "meta garbled"])
def test_damaged_is_passed_over(tmp_path, how, capfd):
    write(tmp_path)
    damage(tmp_path / "3", how)
    state, rows = read(tmp_path)
    assert int(state["step"]) == 2
    assert rows == 16
    warning = capfd.readouterr().err.strip()
    assert warning.startswith(f"warning: checkpoint {tmp_path}/3 is damaged, passed over")
    assert "\n" not in warning
    # Its step can be written again, and is what comes back then.
    manager = checkpoint.open_manager(tmp_path, 10)
    checkpoint.save(manager, 3, make_state(3), 24, LAYOUT, CONFIG, None)
    manager.close()
    assert int(read(tmp_path)[0]["step"]) == 3
    assert (tmp_path / "damaged_3").is_dir()


@pytest.mark.parametrize("content", ["", "\0\0\0\0", "{}", '{"mae": null}'])
@pytest.mark.parametrize("step", [2, 3])
def test_metrics_that_cannot_be_read_set_their_checkpoint_aside(tmp_path, step, content, capfd):
    write(tmp_path, maes={1: 0.3, 2: 0.2, 3: 0.1})
    (tmp_path / str(step) / "metrics" / "metrics").write_text(content)
    state, _ = read(tmp_path)
    assert int(state["step"]) == 5 - step
    assert f"warning: checkpoint {tmp_path}/{step} is damaged, passed over (its metrics" in capfd.readouterr().err
    assert (tmp_path / f"damaged_{step}").is_dir()
    manager = checkpoint.open_manager(tmp_path, 10)
    assert checkpoint.best_mae(manager) == (0.2 if step == 3 else 0.1)
    manager.close()


def test_no_metrics_that_can_be_read_is_an_error_and_nothing_is_moved(tmp_path):
    write(tmp_path, maes={1: 0.3, 2: 0.2, 3: 0.1})
    for step in "123":
        (tmp_path / step / "metrics" / "metrics").write_text("")
    with pytest.raises(UserError, match=f"no checkpoint in {tmp_path} can be read"):
        read(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"1", "2", "3"}


def test_all_damaged_is_an_error_and_nothing_is_moved(tmp_path):
    write(tmp_path)
    for step in "123":
        damage(tmp_path / step, "state gone")
    with pytest.raises(UserError, match=f"no checkpoint in {tmp_path} can be read"):
        read(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"1", "2", "3"}


def test_another_network_is_an_error_that_shows_the_difference(tmp_path):
    write(tmp_path)
    other = CONFIG | {"encoder": "vgg16", "model": {"widths": (1, 3), "sab": True}}
    difference = r"encoder: 'lite0' -> 'vgg16', model.widths: \[1, 2\] -> \(1, 3\)"
    with pytest.raises(UserError, match=difference) as caught:
        read(tmp_path, other)
    assert "\n" not in str(caught.value)
    for changed in ({"optimizer": "sgd"}, {"ema_decay": 0.0}, {"accumulate": 2}, {"feature_weight": 1.0}):
        with pytest.raises(UserError, match=f"{next(iter(changed))}: "):
            read(tmp_path, CONFIG | changed)


def test_another_layout_is_an_error_that_names_the_way_out(tmp_path, capfd):
    folder = tmp_path / "checkpoints"
    write(folder)
    moved = {"params/kernel": Place("encoder_kernels", 0, (4, 3))}
    way_out = f"take another --workdir.*--config.init_from={tmp_path / 'weights.safetensors'}"
    with pytest.raises(UserError, match=way_out):
        read(folder, layout=moved)
    # One that holds arrays in a tree, from before there were vectors, says nothing of a layout.
    path = folder / "3" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    del meta["layout"]
    path.write_text(json.dumps(meta))
    with pytest.raises(UserError, match=way_out) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_checkpoint_from_before_there_were_features_goes_on_without_them(tmp_path):
    assert "feature_weight" not in CONFIG
    write(tmp_path)
    state, _ = read(tmp_path, CONFIG | {"feature_weight": 0.0})
    assert int(state["step"]) == 3


def test_another_learning_rate_is_only_told(tmp_path, capfd):
    write(tmp_path)
    state, _ = read(tmp_path, CONFIG | {"learning_rate": 0.1, "ema_decay": 0.5})
    assert int(state["step"]) == 3
    warnings = capfd.readouterr().err
    assert "config.learning_rate has changed since checkpoint 3: 0.001 -> 0.1" in warnings
    assert "config.ema_decay has changed" in warnings
