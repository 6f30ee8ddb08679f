"""A run's config: read from a file of configs/, changed by --config.field=value, and checked before anything starts."""

import ast
import difflib
import importlib.machinery
import inspect
import math
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
from flax.traverse_util import flatten_dict

from jaxdbd.errors import UserError, check_within
from jaxdbd.input.placement import PLACES
from jaxdbd.machine.paths import as_path, local_path
from jaxdbd.network.encoders import ENCODERS
from jaxdbd.network.model import MULTIPLE, SRFB_KINDS
from jaxdbd.training.losses import DEPTH_LOSSES, FOCUS_LOSSES
from jaxdbd.training.optimizer import OPTIMIZERS, SCHEDULES
from jaxdbd.training.step import REMAT
from jaxdbd.training.vectors import VECTOR_MULTIPLE
from jaxdbd.weights.store import MOST_WIDE

CHOICES = {
    "photographs": PLACES,
    "encoder": ENCODERS,
    "dtype": ("float32", "bfloat16"),
    "model.srfb": SRFB_KINDS,
    "focus_loss": FOCUS_LOSSES,
    "depth_loss": DEPTH_LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "remat": REMAT,
}
# Shares of one draw: together they are at most 1.
EXCLUSIVE = (("augment.sharp", "augment.blurred", "augment.refocused"), ("augment.pasted", "augment.veiled"))
# The interval of each number; of several in a tuple, each must lie in it.
RANGES = {
    "[1, inf)": (
        *("batch_size", "accumulate", "log_every", "eval_every", "eval_batch_size", "checkpoint_every"),
        *("keep_checkpoints", "augment.max_aspect"),
    ),
    "[0, inf)": (
        *("gamma", "side_weights", "feature_weight", "blur_weight", "steps", "epochs", "warmup_steps", "weight_decay"),
        *("encoder_lr_factor", "clip_norm", "input_workers"),
    ),
    "(0, inf)": ("learning_rate", "mixture"),
    "[0, 1]": tuple(f"augment.{name}" for name in ("jitter", "tiled", "sky", "shrunk", "gray", "jpeg"))
    + tuple(name for names in EXCLUSIVE for name in names),
    "(0, 1]": ("augment.min_area",),
    "[0, 1)": ("ema_decay",),
    "[0, 255]": ("augment.noise",),  # gray levels
    f"[{MULTIPLE}, {MOST_WIDE}]": ("size",),
    f"[4, {MOST_WIDE}]": ("model.widths",),  # a quarter of them are the channels inside the next level
    "[0, 2147483647]": ("seed",),
}
# Config files that became runs of others; their names are known for one release.
RENAMED = {
    "lite_finish": "lite.py:finish",
    "lite_depth": "lite.py:depth",
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
    get_config = load_module(local_path(path)).get_config
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
        near = difflib.get_close_matches(name, fields_of(config), n=1)
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


def fields_of(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The value of every field, those inside others by dotted names."""
    return flatten_dict(config.to_dict(), sep=".")


def check_config(config: ml_collections.ConfigDict, devices: int) -> None:
    """Raises UserError for values that would fail later, or silently do something else, on so many devices."""
    values = fields_of(config)
    for name, choices in CHOICES.items():
        if values[name] not in choices:
            raise UserError(f"config.{name}: {values[name]!r} is not one of {', '.join(choices)}")
    for interval, names in RANGES.items():
        for name in names:
            if values[name] is not None:
                check_within(f"config.{name}", values[name], interval)
    for names in EXCLUSIVE:
        if math.fsum(values[name] for name in names) > 1 + 1e-9:
            shares = ", ".join(f"config.{name}={values[name]}" for name in names)
            raise UserError(f"{shares}: shares of one draw, together at most 1")
    for name in ("data_dir", "init_from", "encoder_init"):
        as_path(config[name])
    local_path(config.cache_dir)
    if config.size % MULTIPLE:
        raise UserError(f"config.size: {config.size} is not a multiple of {MULTIPLE}")
    if config.steps < 1 and config.epochs < 1:
        raise UserError(f"config.steps={config.steps}, config.epochs={config.epochs}: one of them must be positive")
    for name in ("side_weights", "model.widths"):
        if values[name] is not None and len(values[name]) != 5:
            raise UserError(f"config.{name}: five are needed, coarse to fine, not {len(values[name])}")
    if not all(isinstance(width, int) for width in config.model.widths or ()):
        raise UserError(f"config.model.widths: {tuple(config.model.widths)} are not whole numbers")
    share = devices * config.accumulate
    if config.batch_size % share:
        below = max(config.batch_size // share, 1) * share
        raise UserError(
            f"config.batch_size: {config.batch_size} is not a multiple of the {devices} devices"
            f" x config.accumulate={config.accumulate}, as {below} and {below + share} are"
        )
    if config.fsdp and VECTOR_MULTIPLE % devices:
        raise UserError(
            f"config.fsdp: {devices} devices cannot share the state in equal parts: take a power of two, or 3, 5, 9, 15"
            " or 45 times one"
        )


def check_warmup(warmup_steps: int, updates: int) -> None:
    """Raises UserError where the learning rate would not have risen to its peak when a run of so many updates ends."""
    if warmup_steps > updates:
        raise UserError(f"config.warmup_steps: {warmup_steps} are more than the {updates} updates of the whole run")
