"""Trains a network: python train.py --config=configs/lite.py --workdir=DIR [--config.field=value ...]."""

import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from jaxdbd import sharding
from jaxdbd.errors import UserError
from jaxdbd.train import train

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, logs and weights go; an old one is resumed.")
PROFILE = flags.DEFINE_bool("profile", False, "Write a trace of five steps to <workdir>/profile.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, to train in several processes.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process's number, with --coordinator.")
PROCESS_COUNT = flags.DEFINE_integer("process_count", None, "How many processes there are, with --coordinator.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Runs the training that the flags describe."""
    if len(argv) > 1:
        raise UserError(f"{argv[1]}: not a flag; set config fields as --config.field=value")
    logging.set_verbosity(logging.WARNING)  # Orbax tells every rename
    jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/jaxdbd/compiled").expanduser()))
    sharding.initialize_distributed(COORDINATOR.value, PROCESS_ID.value, PROCESS_COUNT.value)
    train(CONFIG.value, Path(WORKDIR.value), profile=PROFILE.value)


if __name__ == "__main__":
    try:
        app.run(main)
    except UserError as error:
        sys.exit(f"error: {error}")
