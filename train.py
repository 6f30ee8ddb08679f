"""Trains a network: python train.py --config=configs/lite.py --workdir=DIR [--config.field=value ...]."""

import argparse
import sys

from jaxdbd import sharding
from jaxdbd.machine import startup
from jaxdbd.machine.paths import as_path
from jaxdbd.peers import TIMEOUT
from jaxdbd.training.config import load_config
from jaxdbd.training.loop import train


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """The flags, and those that set config fields."""
    parser = argparse.ArgumentParser(
        description="Trains a network.", epilog="--config.FIELD=VALUE sets a field of the config.", allow_abbrev=False
    )
    parser.add_argument("--config", required=True, metavar="FILE[:RUN]", help="a file of configs/")
    parser.add_argument(
        "--workdir",
        type=as_path,
        required=True,
        help="where checkpoints, logs and weights go, gs:// too; an old one is resumed",
    )
    parser.add_argument("--profile", action="store_true", help="write a trace of five steps to <workdir>/profile")
    parser.add_argument(
        "--accept_rebuilt_data", action="store_true", help="go on from a checkpoint though its dataset was built anew"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback behind an error's one line")
    parser.add_argument("--coordinator", help="host:port of process 0, to train in several processes")
    parser.add_argument("--process_id", type=int, help="this process's number, with --coordinator")
    parser.add_argument("--process_count", type=int, help="how many processes there are, with --coordinator")
    parser.add_argument(
        "--coordinator_timeout", type=float, default=TIMEOUT, help="seconds to wait for the other processes (300)"
    )
    return parser.parse_known_args()


def main() -> int:
    """Runs the training that the flags describe; returns the exit status."""

    def run() -> int:
        args, overrides = parse_arguments()
        config = load_config(args.config, overrides)
        startup.keep_compiled_programs()
        sharding.initialize_distributed(args.coordinator, args.process_id, args.process_count, args.coordinator_timeout)
        return train(config, args.workdir, args.profile, args.accept_rebuilt_data)

    return startup.exit_status(run, debug="--debug" in sys.argv)  # parsing the flags can be what fails


if __name__ == "__main__":
    startup.keep_memory()
    startup.leave(main())
