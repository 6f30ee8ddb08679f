"""`~` in every flag and config field that takes a path: no shell expands it after the `=` of a flag."""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from drawn_network import drawn
from fake_benchmark import mask, write_benchmark
from odd_files import brightness, half, ramp, save, tiny_weights

import sweep
import train
from data import build
from data.flags import parser as build_parser
from jaxdbd import weights
from jaxdbd.__main__ import COMMANDS, main
from jaxdbd.input.records import open_split
from jaxdbd.machine.paths import as_path, local_path
from jaxdbd.training.config import load_config
from jaxdbd.training.loop import initial_variables, make_model


@pytest.fixture
def home(tmp_path, monkeypatch) -> Iterator[Path]:
    """The home folder, and an empty one to work in, in which no folder `~` may appear."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert not list((tmp_path / "here").iterdir())


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"jaxdbd.commands.{command}").add_arguments(parser)
    return parser


# Text that is parsed later, and is tested below or by `weights.find`; and what is no path.
LATER = {"weights", "data_dir", "cache_dir", "config", "paths", "teacher", "images", "masks"}
NO_PATH = {"dataset", "split", "tta", "platforms", "beam_options", "benchmark", "allow_host", "teacher_output"}


@pytest.mark.parametrize("name", [*COMMANDS, "build"])
def test_every_flag_that_takes_a_path_expands_it(name, home):
    found = build_parser(None) if name == "build" else parser_of(name)
    for action in found._actions:
        if action.choices or action.nargs == 0 or action.type in (int, float):
            continue
        if action.type is None:
            assert action.dest in LATER | NO_PATH, f"{name}: is --{action.dest} a path?"
        elif action.type in (as_path, local_path):
            assert os.fspath(action.type("~/x")) == f"{home}/x"


@pytest.mark.slow
def test_predict_reads_and_writes_in_the_home_folder(home, monkeypatch):
    brightness(monkeypatch, home)
    save(home / "in" / "a.png", ramp())
    flags = ["--out=~/maps", "--weights=~/tiny.safetensors", "--csv=~/c.csv", "--report=~/r.html"]
    assert main(["predict", "~/in/*.png", *flags]) == 0
    assert {path.name for path in home.iterdir()} == {"in", "maps", "tiny.safetensors", "c.csv", "r.html"}
    assert [path.name for path in (home / "maps").iterdir()] == ["a.png"]


def test_score_and_compare(home, capsys):
    save(home / "pred" / "a.png", half())
    save(home / "gt" / "a.png", half())
    assert main(["score", "--pred=~/pred", "--gt=~/gt", "--gt_white=focus", "--json=~/s.json", "--csv=~/s.csv"]) == 0
    assert main(["compare", "~/s.json", "~/s.json"]) == 0
    assert (home / "s.csv").is_file()


def test_build_reads_and_writes_in_the_home_folder(home, capsys):
    for i, name in enumerate(write_benchmark(home / "raw", 4)):
        (home / "depth").mkdir(exist_ok=True)
        np.save(home / "depth" / f"{Path(name).stem}.npy", mask(i).astype(np.float32))
    flags = ["--dataset=folder", "--gt_white=focus", "--manual_dir=~/raw", "--images=~/raw/image", "--masks=~/raw/gt"]
    teacher = ["--teacher=dir:~/depth", "--teacher_polarity=near"]
    assert build.main([*flags, *teacher, "--data_dir=~/d"]) == 0, capsys.readouterr().err
    assert {path.name for path in home.iterdir()} == {"raw", "depth", "d"}
    for data_dir in ("~/d", f"{home}/d"):
        assert len(open_split("dbd/folder", "train", data_dir)) == 4


@pytest.mark.slow
def test_configs_and_the_weights_that_they_name(home):
    model = make_model(tiny.get_config())
    weights.save("~/w.safetensors", model, drawn(model), dataset="", license="")
    assert (home / "w.safetensors").is_file()
    whole = initial_variables(model, 0, "", "~/w.safetensors")
    np.testing.assert_array_equal(
        whole["params"]["fuse_focus"]["kernel"], drawn(model)["params"]["fuse_focus"]["kernel"]
    )
    zeros = jax.tree.map(np.zeros_like, drawn(model))
    encoder = weights.init_encoder(zeros, "tiny", "~/w.safetensors")["params"]["encoder"]
    np.testing.assert_array_equal(
        encoder["stage1"]["conv"]["kernel"], drawn(model)["params"]["encoder"]["stage1"]["conv"]["kernel"]
    )
    (home / "c.py").write_text((tiny.ROOT / "configs" / "default.py").read_text())
    assert load_config("~/c.py").encoder == "vgg19"


def test_train_and_sweep(home, monkeypatch):
    for module in (train, sweep):
        monkeypatch.setattr(sys, "argv", ["x", "--config=~/c.py", "--workdir=~/run"])
        assert os.fspath(module.parse_arguments()[0].workdir) == f"{home}/run"


def test_weights_by_every_name(home):
    tiny_weights(home)
    assert weights.find("~/tiny.safetensors") == home / "tiny.safetensors"
    (home / "tiny.safetensors").rename(home / "weights.safetensors")
    assert weights.find("~") == home / "weights.safetensors"
