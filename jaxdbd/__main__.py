"""The commands: `jaxdbd COMMAND ...` once installed, `python -m jaxdbd COMMAND ...` always."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from jaxdbd.machine.startup import exit_status, keep_compiled_programs, keep_memory

DEBUG = "--debug"
# Each command is a module with add_arguments(parser) and run(args), imported only when it is asked for.
COMMANDS = {
    "predict": "focus maps of photographs, without masks",
    "app": "a page on this machine that shows what is in focus in your photographs",
    "evaluate": "a network on a built dataset, under every protocol",
    "score": "any method's maps against masks, from two folders",
    "compare": "runs beside each other and beside published numbers",
    "convert": "the authors' .pth checkpoints to .safetensors",
    "export": "a network as one StableHLO or ONNX file",
    "benchmark": "time per image of a network",
}


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser with every command's name, and the flags of the chosen one."""
    parser = argparse.ArgumentParser(prog="jaxdbd", description="Defocus blur detection in JAX.", allow_abbrev=False)
    parser.add_argument(DEBUG, action="store_true", help="show the traceback behind an error's one line")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"jaxdbd {name}: {summary}.", allow_abbrev=False)
        if name == chosen:
            importlib.import_module(f"jaxdbd.commands.{name}").add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. A user's mistake is one line on stderr and status 1."""
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = DEBUG in argv
    argv = [argument for argument in argv if argument != DEBUG]  # so that it may stand behind the command, too

    def run() -> int | None:
        args = build_parser(argv[0] if argv else None).parse_args(argv)
        keep_compiled_programs()
        return importlib.import_module(f"jaxdbd.commands.{args.command}").run(args)

    return exit_status(run, debug)


def console() -> int:
    """`main` as a program of its own."""
    keep_memory()
    return main()


if __name__ == "__main__":
    sys.exit(console())
