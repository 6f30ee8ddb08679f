"""The configs that ship, how --config.field=value changes them, and what is said of a wrong one."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import ml_collections
import pytest
from readme import commands_for_several_devices

import sweep
import train
from configs import ablation, default, everyday, lite
from jaxdbd import weights
from jaxdbd.errors import UserError
from jaxdbd.training.config import check_config, fields_of, load_config, set_field
from jaxdbd.training.loop import make_model

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
RUNS = {"lite": lite.RUNS, "everyday": everyday.RUNS, "ablation": ablation.RUNS}
EVERY_RUN = [
    *(f"{CONFIGS}/{path.name}" for path in CONFIGS.glob("*.py") if path.stem != "ablation"),
    *(f"{CONFIGS}/{name}.py:{run}" for name in RUNS for run in RUNS[name]),
]


@pytest.mark.parametrize("name", EVERY_RUN, ids=lambda name: Path(name).name)
def test_every_run_is_valid(name):
    config = load_config(name)
    check_config(config, devices=1)
    assert fields_of(config).keys() == fields_of(default.get_config()).keys()
    assert config.is_locked


def test_the_ablations_change_what_they_say():
    full = load_config(f"{CONFIGS}/ablation.py:full")
    assert full.to_dict() == default.get_config().to_dict()
    # Each removal takes parameters away; parallel branches have as many as cascaded ones.
    models = {name: make_model(load_config(f"{CONFIGS}/ablation.py:{name}")) for name in ablation.RUNS}

    def count(name):
        return sum(x.size for x in jax.tree.leaves(weights.shapes(models[name])["params"]))

    assert count("parallel") == count("full") == 24_746_330
    assert max(count(n) for n in ("no_depth", "no_srfb", "no_srfb_select", "no_sab")) < count("full")
    assert count("small_plain") < count("small_depth") < count("small_srfb") < count("small") == count("small_gamma_1")
    assert not models["no_depth"].depth_head
    assert not models["small_plain"].depth_head


def test_gamma_has_the_papers_values():
    values = [load_config(f"{CONFIGS}/ablation.py:{name}").gamma for name in ablation.GAMMA]
    assert values == [0.01, 0.05, 0.1, 1.0, 5.0]


def config() -> ml_collections.ConfigDict:
    c = default.get_config()
    c.lock()
    return c


@pytest.mark.parametrize(
    ("flag", "field", "value"),
    [
        ("--config.size=64", "size", 64),
        ("--config.learning_rate=1e-3", "learning_rate", 1e-3),
        ("--config.gamma=1", "gamma", 1.0),
        ("--config.fsdp=true", "fsdp", True),
        ("--config.fsdp=False", "fsdp", False),
        ("--config.eval_split=", "eval_split", ""),
        ("--config.train_split=train[:90%]", "train_split", "train[:90%]"),
        ("--config.side_weights=(0,0,0,0,1)", "side_weights", (0, 0, 0, 0, 1)),
        ("--config.model.widths=(8,8,8,8,8)", "model.widths", (8, 8, 8, 8, 8)),
        ("--config.model.srfb=none", "model.srfb", "none"),
    ],
)
def test_a_flag_sets_its_field(flag, field, value):
    c = config()
    set_field(c, flag)
    for key in field.split("."):
        c = c[key]
    assert c == value
    assert isinstance(c, type(value))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.nonsense=1", "--config.nonsense: there is no such field"),
        ("--config.gama=1", "--config.gama: there is no such field; did you mean gamma?"),
        ("--config.model.sap=1", "--config.model.sap: there is no such field; did you mean model.sab?"),
        ("--config.size.x=1", "--config.size.x: there is no such field"),
        ("--config.size=large", "--config.size=large: the field is of type int"),
        ("--config.size=2.5", "--config.size=2.5: the field is of type int"),
        ("--config.size=", "--config.size=: the field is of type int"),
        ("--config.fsdp=maybe", "--config.fsdp=maybe: the field is of type bool"),
        ("--config.side_weights=1", "--config.side_weights=1: the field is of type tuple"),
        ("--config.model=1", "--config.model=1: the field is of type ConfigDict"),
        ("--config.size", "--config.size: not a flag"),
        ("--sise=1", "--sise=1: not a flag"),
    ],
)
def test_a_wrong_flag_is_named(flag, message):
    with pytest.raises(UserError) as caught:
        set_field(config(), flag)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.encoder=vgg20", "config.encoder: 'vgg20' is not one of vgg16, "),
        ("--config.model.srfb=both", "config.model.srfb: 'both' is not one of cascaded, parallel, none"),
        ("--config.dtype=float64", "config.dtype: 'float64'"),
        ("--config.size=100", "config.size: 100 is not a multiple of 32"),
        ("--config.batch_size=0", "config.batch_size: 0 is not in [1, inf)"),
        (
            "--config.accumulate=4",
            "config.batch_size: 6 is not a multiple of the 2 devices x config.accumulate=4, as 8 and 16 are",
        ),
        (
            "--config.batch_size=7",
            "config.batch_size: 7 is not a multiple of the 2 devices x config.accumulate=1, as 6 and 8 are",
        ),
        ("--config.optimizer=lion", "config.optimizer: 'lion' is not one of adamw, adam, sgd"),
        ("--config.schedule=step", "config.schedule: 'step' is not one of cosine, poly"),
        ("--config.remat=all", "config.remat: 'all' is not one of none, blocks"),
        ("--config.epochs=0", "config.steps=0, config.epochs=0"),
        ("--config.ema_decay=1.0", "config.ema_decay: 1.0 is not in [0, 1)"),
        ("--config.side_weights=(1.0,)", "config.side_weights: five are needed"),
        ("--config.log_every=0", "config.log_every: 0 is not in [1, inf)"),
        ("--config.feature_weight=-1.0", "config.feature_weight: -1.0 is not in [0, inf)"),
    ],
)
def test_a_wrong_value_is_named(flag, message):
    c = load_config(f"{CONFIGS}/default.py", [flag])
    with pytest.raises(UserError) as caught:
        check_config(c, devices=2)
    assert str(caught.value).startswith(message)


def test_the_readmes_batch_fits_usual_numbers_of_devices():
    for flags in commands_for_several_devices():
        config = load_config(f"{CONFIGS}/default.py", [flag for flag in flags if flag.startswith("--config.")])
        for devices in (1, 2, 4, 8, 16, 32, 64):
            check_config(config, devices)


def test_the_state_is_cut_into_equal_parts_or_not_at_all():
    c = load_config(f"{CONFIGS}/default.py", ["--config.fsdp=true", "--config.batch_size=28"])
    for devices in (2, 4):
        check_config(c, devices)
    with pytest.raises(UserError, match=r"config\.fsdp: 7 devices cannot share the state in equal parts"):
        check_config(c, devices=7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py", "--config=nowhere.py: no such file"),
        (f"{CONFIGS}/demo.py:large", "holds one config, so leave out :large"),
        (f"{CONFIGS}/ablation.py", "name one as --config=FILE:NAME, of full, no_depth"),
        (
            f"{CONFIGS}/lite.py:2",
            "there is no run '2' in this config: name one as --config=FILE:NAME, of first, finish",
        ),
        ("configs/lite_finish.py", "--config=configs/lite_finish.py: no such file; it is configs/lite.py:finish now"),
        ("configs/gamma.py:5", "no such file; it is configs/ablation.py:gamma_0.1 (and others) now"),
        (f"{ROOT}/sweep.py", "no get_config()"),
    ],
)
def test_a_wrong_config_is_named(name, message):
    with pytest.raises(UserError) as caught:
        load_config(name)
    assert message in str(caught.value)


@pytest.mark.slow
def test_train_says_it_in_one_line(tmp_path):
    command = [sys.executable, ROOT / "train.py", f"--config={CONFIGS}/lite.py", f"--workdir={tmp_path}/run"]
    done = subprocess.run([*command, "--config.nonsense=1"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: --config.nonsense: there is no such field\n"
    assert not (tmp_path / "run").exists()


def test_debug_shows_the_traceback_behind_the_line(monkeypatch, tmp_path, capsys):
    flags = [f"--config={CONFIGS}/lite.py", f"--workdir={tmp_path}/run", "--config.nonsense=1", "--debug"]
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    assert train.main() == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last)")
    assert told.endswith("\nerror: --config.nonsense: there is no such field\n")


# --- sweep.py ---


@pytest.fixture
def recorded(monkeypatch, tmp_path) -> Path:
    """Puts in place of train.py a script that notes its arguments, and leaves a result that depends on the seed."""
    script = tmp_path / "train.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "flags = dict(a.partition('=')[::2] for a in sys.argv[1:])\n"
        "folder = pathlib.Path(flags['--workdir'])\n"
        "folder.mkdir(parents=True)\n"
        "step = 5 if '--config.size' in flags and flags['--config.seed'] == '1' else 9\n"
        "line = {'step': step, 'of': 9, 'time': 1.0, 'eval/f': 0.5, 'eval/iou': 0.25}\n"
        "line['eval/mae'] = 0.1 * (1 + int(flags['--config.seed']))\n"
        "(folder / 'metrics.jsonl').write_text(json.dumps(line) + '\\n')\n"
        "with open(pathlib.Path(__file__).with_name('calls'), 'a') as file:\n"
        "    file.write(flags['--config'].rpartition(':')[2] + ' ' + flags['--config.seed'] + '\\n')\n"
    )
    monkeypatch.setattr(sweep, "TRAIN", [sys.executable, str(script)])
    return tmp_path / "calls"


def run_sweep(monkeypatch, tmp_path, *flags: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sweep.py", f"--workdir={tmp_path / 'sweep'}", *flags])
    return sweep.main()


def test_sweep_runs_all_and_tabulates_mean_and_spread(monkeypatch, tmp_path, recorded, capsys):
    flags = [f"--config={CONFIGS}/ablation.py", "--runs=gamma_0.1,gamma_5", "--seeds=0,1,2"]
    assert run_sweep(monkeypatch, tmp_path, *flags) == 0
    assert recorded.read_text().split("\n")[:-1] == [
        f"{name} {seed}" for seed in range(3) for name in ("gamma_0.1", "gamma_5")
    ]
    # 0.1, 0.2, 0.3: mean 0.2, standard deviation 0.1.
    table = capsys.readouterr().out
    assert "| gamma_0.1 | 3 | 0.2000 ± 0.1000 | 0.5000 ± 0.0000 | 0.2500 ± 0.0000 |" in table
    assert (tmp_path / "sweep" / "table.md").read_text() == table
    # Again: nothing is left to run.
    assert run_sweep(monkeypatch, tmp_path, *flags) == 0
    assert len(recorded.read_text().splitlines()) == 6


def test_sweep_stops_with_a_run_and_goes_on_from_it(monkeypatch, tmp_path, recorded, capsys):
    flags = [f"--config={CONFIGS}/ablation.py", "--runs=gamma_0.1", "--seeds=0,1,2"]
    assert run_sweep(monkeypatch, tmp_path, *flags, "--config.size=64") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "seed1 stopped with status 0 before its end; the same command goes on from there" in error
    assert run_sweep(monkeypatch, tmp_path, *flags, "--table") == 0
    assert "| gamma_0.1 | 1 | 0.1000 | 0.5000 | 0.2500 |" in capsys.readouterr().out
    os.rename(tmp_path / "sweep/gamma_0.1/seed1", tmp_path / "gone")  # the stand-in cannot resume
    assert run_sweep(monkeypatch, tmp_path, *flags) == 0
    assert recorded.read_text() == "gamma_0.1 0\ngamma_0.1 1\ngamma_0.1 1\ngamma_0.1 2\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([f"--config={CONFIGS}/demo.py"], "it holds one run"),
        ([f"--config={CONFIGS}/ablation.py", "--runs=x*"], "--runs=x*: fits none of full, no_depth"),
        ([f"--config={CONFIGS}/ablation.py", "--seeds=a"], "--seeds=a: not integers"),
        ([f"--config={CONFIGS}/ablation.py", "--config.nonsense=1"], "--config.nonsense: there is no such field"),
        ([f"--config={CONFIGS}/ablation.py", "--config.eval_split="], "config.eval_split is empty"),
    ],
)
def test_sweep_names_what_is_wrong(monkeypatch, tmp_path, recorded, capsys, flags, message):
    assert run_sweep(monkeypatch, tmp_path, *flags) == 1
    assert message in capsys.readouterr().err
    assert not recorded.exists()
