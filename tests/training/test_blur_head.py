"""The blur head in training: what it reads, what it starts from, and what it leaves behind."""

import json
from functools import partial

import jax
import numpy as np
import pytest
import tiny
from drawn_network import drawn
from made_up_records import make_part
from test_provenance import SCENES

from data import build
from jaxdbd import weights
from jaxdbd.errors import UserError
from jaxdbd.training import data
from jaxdbd.training.data import open_data
from jaxdbd.training.loop import initial_variables, make_model
from jaxdbd.training.losses import joint_loss
from jaxdbd.training.step import batch_loss
from jaxdbd.weights import store


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a training with blur, without depth and augmentation, at a rate of nearly nothing."""
    folder = tmp_path_factory.mktemp("scenes")
    assert build.main([*SCENES, f"--data_dir={folder}"]) == 0
    config = tiny.get_config()
    config.update(data_dir=str(folder), learning_rate=1e-30, steps=2, warmup_steps=0, ema_decay=0.0, eval_split="")
    config.update(gamma=0.0, blur_weight=1.0, model={"depth_head": False})
    return config


def test_blur_is_read_only_where_it_weighs(config, monkeypatch):
    assert set(open_data(config).placed.gather(np.arange(2)).maps) == {"blur"}
    assert make_model(config).blur_head
    without = config.copy_and_resolve_references()
    without.blur_weight = 0.0
    assert not open_data(without).placed.gather(np.arange(2)).maps
    assert not make_model(without).blur_head
    monkeypatch.setattr(data, "open_parts", lambda *_: [make_part("a", 2)])
    with pytest.raises(UserError, match="does not know how blurred anything is: add a set that does"):
        open_data(config)


def test_weights_without_a_head_start_one_and_the_file_says_so(config, tmp_path):
    model, path = make_model(config), str(tmp_path / "w.safetensors")
    headless = model.clone(blur_head=False)
    old = drawn(headless)
    weights.save(path, headless, old, dataset="none", license="none")
    variables = initial_variables(model, 0, "", path)
    weights.save(path, model, variables, dataset="none", license="none")
    assert weights.read_metadata(path).config["blur_head"] is True
    assert weights.load(path)[0] == model
    params = variables["params"]
    for name, leaves in old["params"].items():
        for leaf in leaves if name.startswith("side") else ():
            new = params[name][leaf]
            np.testing.assert_array_equal(new[..., :1], leaves[leaf])
            params[name][leaf] = new[..., :1]
            assert (new[..., 1] == (leaf == "bias")).all()  # the side outputs, and so their mean, are 1 everywhere
    np.testing.assert_array_equal(params.pop("fuse_blur")["kernel"], np.float32(1 / 5))
    jax.tree.map(np.testing.assert_array_equal, variables, old)


def test_a_training_without_blur_goes_on_from_weights_with_a_head(config, tmp_path):
    model, path = make_model(config), str(tmp_path / "w.safetensors")
    headless = model.clone(blur_head=False)
    old = drawn(model)
    weights.save(path, model, old, dataset="none", license="none")
    variables = initial_variables(headless, 0, "", path)
    image = jax.random.uniform(jax.random.key(1), (1, 64, 64, 3))
    before, after = jax.jit(model.apply)(old, image), jax.jit(headless.apply)(variables, image)
    np.testing.assert_allclose(after.focus, before.focus, atol=1e-5)
    assert before.blur is not None
    assert after.blur is None


def test_the_step_learns_blur_where_the_batch_has_it(config):
    model = make_model(config)
    joint = partial(joint_loss, focus_loss="bce", depth_loss="l1", side_weights=(1.0,) * 5, blur_weight=1.0)
    shape = (2, 32, 32, 1)
    batch = {"image": jax.ShapeDtypeStruct((*shape[:3], 3), np.uint8), "mask": jax.ShapeDtypeStruct(shape, np.uint8)}
    shapes = weights.shapes(model)
    for names, extra in (
        ({"loss", "bce", "blur"}, {"blur": jax.ShapeDtypeStruct(shape, np.float16)}),
        ({"loss", "bce"}, {}),
    ):
        loss = partial(batch_loss, model=model, loss=joint, gamma=0.0)
        _, (terms, _) = jax.eval_shape(loss, shapes["params"], shapes["batch_stats"], batch | extra)
        assert set(terms) == names


def test_files_from_before_there_were_such_heads_load(tmp_path, monkeypatch):
    model = make_model(tiny.get_config())
    written = store._config(model)
    monkeypatch.setattr(store, "_config", lambda _: {k: v for k, v in written.items() if k != "blur_head"})
    weights.save(path := tmp_path / "old.safetensors", model, drawn(model), dataset="none", license="none")
    assert "blur_head" not in json.dumps(weights.read_metadata(path).config)
    assert weights.load(path)[0] == model
