"""A run's config: read from a file of configs/, changed by --config.field=value, and checked before anything starts."""

import ast
import difflib
import importlib.machinery
import inspect
import types
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from jaxdbd.errors import UserError
from jaxdbd.machine.paths import as_path, local_path
from jaxdbd.network.encoders import ENCODERS
from jaxdbd.network.model import MULTIPLE, SRFB_KINDS
from jaxdbd.training.losses import DEPTH_LOSSES, FOCUS_LOSSES
from jaxdbd.training.optimizer import OPTIMIZERS, SCHEDULES

CHOICES = {
    "encoder": ENCODERS,
    "dtype": ("float32", "bfloat16"),
    "model.srfb": SRFB_KINDS,
    "focus_loss": FOCUS_LOSSES,
    "depth_loss": DEPTH_LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}
POSITIVE = (
    *("size", "batch_size", "accumulate", "learning_rate"),
    *("log_every", "eval_every", "eval_batch_size", "checkpoint_every", "keep_checkpoints"),
)


# Config files that became runs of others; their names are known for one release.
RENAMED = {
    **{f"lite_{stage}": f"lite.py:{stage}" for stage in ("finish", "depth")},
    "lite2": "lite.py:lite2",
    "lite2_finish": "lite.py:lite2_finish",
    "everyday_finish": "everyday.py:finish",
    "gamma": "ablation.py:gamma_0.1 (and others)",
}


def load_module(path: Path) -> types.ModuleType:
    """A config file as a module, from wherever it lies. Raises UserError where there is none."""
    if not path.is_file():
        hint = f"; it is {path.parent / RENAMED[path.stem]} now" if path.stem in RENAMED else ""
        raise UserError(f"--config={path}: no such file{hint}")
    loader = importlib.machinery.SourceFileLoader(f"config_{path.stem}", str(path))
    module = types.ModuleType(loader.name)
    module.__file__ = str(path)
    loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={path}: it has no get_config(), as the files of configs/ do")
    return module


def load_config(name: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config of 'FILE', or of 'FILE:RUN' where a file holds several, with --config.field=value flags applied.

    Raises UserError for a file or run that is not there, a field that is not in it, or a value of another type.
    """
    path, _, run = name.partition(":")
    get_config = load_module(Path(path)).get_config
    if run and not inspect.signature(get_config).parameters:
        raise UserError(f"--config={name}: {path} holds one config, so leave out :{run}")
    config = get_config(run) if run else get_config()
    config.lock()
    for flag in overrides:
        set_field(config, flag)
    return config


def pick_run(runs: dict[str, dict], name: str) -> dict:
    """What the run `name` of a config file changes, field by field; without a right name, an error that lists them."""
    if name not in runs:
        problem = f"there is no run {name!r} in this config" if name else "this config holds several runs"
        raise UserError(f"{problem}: name one as --config=FILE:NAME, of {', '.join(runs)}")
    return runs[name]


def set_field(config: ml_collections.ConfigDict, flag: str) -> None:
    """Applies one '--config.field=value', the value written as in Python; text needs no quotes."""
    name, equals, text = flag.removeprefix("--config.").partition("=")
    if not flag.startswith("--config.") or not equals:
        raise UserError(f"{flag}: not a flag; config fields are set as --config.field=value")
    *path, last = name.split(".")
    part = config
    for key in path:
        part = part[key] if isinstance(part, ml_collections.ConfigDict) and key in part else None
    if not isinstance(part, ml_collections.ConfigDict) or last not in part:
        near = difflib.get_close_matches(name, field_names(config), n=1)
        raise UserError(f"--config.{name}: there is no such field" + (f"; did you mean {near[0]}?" if near else ""))
    wanted = part.get_type(last)
    try:
        if wanted is str:
            part[last] = text
        elif wanted is bool:
            part[last] = {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        else:
            part[last] = ast.literal_eval(text)
    except (KeyError, SyntaxError, TypeError, ValueError):
        raise UserError(f"{flag}: the field is of type {wanted.__name__}") from None


def field_names(config: ml_collections.ConfigDict) -> list[str]:
    """All fields, those inside others with dots."""
    names = []
    for key, value in config.items():
        names += [f"{key}.{n}" for n in field_names(value)] if isinstance(value, ml_collections.ConfigDict) else [key]
    return names


def check_config(config: ml_collections.ConfigDict, devices: int) -> None:
    """Raises UserError for values that would fail later, or silently do something else, on so many devices."""
    for name, choices in CHOICES.items():
        value = config
        for key in name.split("."):
            value = value[key]
        if value not in choices:
            raise UserError(f"config.{name}: {value!r} is not one of {', '.join(choices)}")
    for name in ("data_dir", "init_from", "encoder_init"):
        as_path(config[name])
    local_path(config.cache_dir)
    for name in POSITIVE:
        if config[name] <= 0:
            raise UserError(f"config.{name}: {config[name]} is not positive")
    if config.feature_weight < 0:
        raise UserError(f"config.feature_weight: {config.feature_weight} is negative")
    if config.size % MULTIPLE:
        raise UserError(f"config.size: {config.size} is not a multiple of {MULTIPLE}")
    if config.steps < 1 and config.epochs < 1:
        raise UserError(f"config.steps={config.steps}, config.epochs={config.epochs}: one of them must be positive")
    if not 0 <= config.ema_decay < 1:
        raise UserError(f"config.ema_decay: {config.ema_decay} is not in [0, 1)")
    for name, values in {"side_weights": config.side_weights, "model.widths": config.model.widths}.items():
        if values is not None and len(values) != 5:
            raise UserError(f"config.{name}: five are needed, coarse to fine, not {len(values)}")
    if config.batch_size % (devices * config.accumulate):
        raise UserError(
            f"config.batch_size: {config.batch_size} is not a multiple of the {devices} devices"
            f" x config.accumulate={config.accumulate}"
        )
