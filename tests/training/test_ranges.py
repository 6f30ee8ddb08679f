"""Numbers out of range: every field has an interval, and a value outside is one line before anything starts."""

import sys
from pathlib import Path

import ml_collections
import pytest

import sweep
from configs import default
from jaxdbd.__main__ import main
from jaxdbd.errors import UserError, check_within, is_within
from jaxdbd.training.config import RANGES, check_config, check_warmup, fields_of, load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "interval", "within"),
    [
        (0, "[0, 1)", True),
        (1, "[0, 1)", False),
        (0.0, "(0, 1]", False),
        (1, "(0, 1]", True),
        (2, "(0, 1]", False),
        (10**400, "[1, inf)", True),
        (INF, "[1, inf)", False),
        (-INF, "(-inf, inf)", False),
        (NAN, "(-inf, inf)", False),
        (True, "[0, 1]", False),
        ("1", "[0, 1]", False),
        (None, "[0, 1]", False),
    ],
)
def test_what_is_within(value, interval, within):
    assert is_within(value, interval) == within


def test_of_several_numbers_the_one_outside_is_named():
    check_within("x", (0.5, 1), "[0, 1]")
    with pytest.raises(UserError, match=r"^x: \(0.5, nan\): nan is not in \[0, 1\]$"):
        check_within("x", (0.5, NAN), "[0, 1]")


def test_every_number_of_the_config_has_its_interval():
    config = default.get_config()
    kinds = {name: type(value) for name, value in fields_of(config).items()}
    numbers = {name for name, kind in kinds.items() if kind in (int, float, tuple)}
    listed = [name for names in RANGES.values() for name in names]
    assert len(listed) == len(set(listed))
    # Placeholders of tuples have no value of a type.
    assert set(listed) == numbers | {"mixture", "model.widths"}


OUTSIDE = [(name, interval) for interval, names in RANGES.items() for name in names]


@pytest.mark.parametrize(("name", "interval"), OUTSIDE, ids=lambda x: x)
def test_outside_its_interval_every_field_is_one_line(name, interval):
    low, high = map(float, interval[1:-1].split(","))
    config = load_config(f"{CONFIGS}/default.py")
    value = fields_of(config)[name]
    kind = tuple if value is None else type(value)
    wrong = [low if interval.startswith("(") else low - 1]
    wrong += [high + 1] if high < INF else []
    wrong += [NAN, INF] if kind is not int else []
    for number in wrong:
        *path, last = name.split(".")
        part = config[path[0]] if path else config
        number = int(number) if kind is int else number
        before, part[last] = part[last], (number,) * 5 if kind is tuple else kind(number)
        with pytest.raises(UserError) as caught:
            check_config(config, devices=1)
        assert str(caught.value).startswith(f"config.{name}: ")
        assert str(caught.value).endswith(f" is not in {interval}")
        assert "\n" not in str(caught.value)
        part[last] = before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["clip_norm=-1"], "config.clip_norm: -1.0 is not in [0, inf)"),
        (["seed=-1"], "config.seed: -1 is not in [0, 2147483647]"),
        (["steps=-5"], "config.steps: -5 is not in [0, inf)"),
        (["learning_rate=1e400"], "config.learning_rate: inf is not in (0, inf)"),
        (["mixture=(1,0)"], "config.mixture: (1, 0): 0 is not in (0, inf)"),
        (["mixture=('a',1)"], "config.mixture: ('a', 1): 'a' is not in (0, inf)"),
        (["side_weights=(1,1,1,1)"], "config.side_weights: five are needed, coarse to fine, not 4"),
        (["model.widths=(8,8,8,8,8.5)"], "config.model.widths: (8, 8, 8, 8, 8.5) are not whole numbers"),
        (["augment.jpeg=7"], "config.augment.jpeg: 7.0 is not in [0, 1]"),
        (["augment.min_area=0"], "config.augment.min_area: 0.0 is not in (0, 1]"),
        (["augment.max_aspect=.5"], "config.augment.max_aspect: 0.5 is not in [1, inf)"),
        (
            ["augment.sharp=.5", "augment.blurred=.4", "augment.refocused=.2"],
            "config.augment.sharp=0.5, config.augment.blurred=0.4, config.augment.refocused=0.2: shares of one draw, ",
        ),
        (
            ["augment.pasted=.7", "augment.veiled=.7"],
            "config.augment.pasted=0.7, config.augment.veiled=0.7: shares of one draw, together at most 1",
        ),
    ],
)
def test_a_number_out_of_range_is_one_line(flags, message):
    config = load_config(f"{CONFIGS}/default.py", [f"--config.{flag}" for flag in flags])
    with pytest.raises(UserError) as caught:
        check_config(config, devices=1)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_shares_may_fill_the_whole():
    flags = [f"--config.augment.{flag}" for flag in ("sharp=.7", "blurred=.2", "refocused=.1", "pasted=1")]
    check_config(load_config(f"{CONFIGS}/default.py", flags), devices=1)


def test_a_warmup_longer_than_the_run_is_one_line():
    check_warmup(20, 20)
    with pytest.raises(UserError, match=r"config.warmup_steps: 50 are more than the 20 updates of the whole run"):
        check_warmup(50, 20)


def test_a_flag_for_a_count_takes_no_truth_value():
    config = ml_collections.ConfigDict(default.get_config())
    config.batch_size = True
    with pytest.raises(UserError, match=r"config.batch_size: True is not in"):
        check_config(config, devices=1)


def test_sweep_looks_at_every_run_before_the_first(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sweep, "TRAIN", ["false"])
    for flags, message in (
        (["--seeds=0,-1"], "error: config.seed: -1 is not in [0, 2147483647]\n"),
        (["--config.clip_norm=-1.0"], "error: config.clip_norm: -1.0 is not in [0, inf)\n"),
    ):
        argv = ["sweep.py", f"--config={CONFIGS}/ablation.py", "--runs=small*", f"--workdir={tmp_path / 'x'}", *flags]
        monkeypatch.setattr(sys, "argv", argv)
        assert sweep.main() == 1
        assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (["--batch", "0"], "error: --batch: 0 is not in [1, inf)\n"),
        (["--size=100"], "error: --size=100: not a multiple of 32\n"),
        (["--size=0"], "error: --size: 0 is not in [32, 8192]\n"),
        (["--repeats=1"], "error: --repeats: 1 is not in [2, inf)\n"),
    ],
)
def test_benchmark_names_a_number_out_of_range(flag, message, capsys):
    assert main(["benchmark", *flag]) == 1
    assert capsys.readouterr().err == message
