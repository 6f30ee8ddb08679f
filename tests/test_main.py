"""The command line's entry point."""

import subprocess
import sys

import pytest

from jaxdbd.__main__ import COMMANDS, main
from jaxdbd.errors import UserError


def test_help_names_every_command():
    command = [sys.executable, "-m", "jaxdbd", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert command in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["score", "--no_such_flag"]])
def test_mistyped_command_lines_fail(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2


def test_users_mistake_is_one_line_and_a_fault_of_ours_is_loud(monkeypatch, capsys):
    from jaxdbd.commands import compare

    def fail(error):
        def run(args):
            raise error

        return run

    monkeypatch.setattr(compare, "run", fail(UserError("no such thing")))
    assert main(["compare", "a.json"]) == 1
    assert capsys.readouterr().err == "error: no such thing\n"
    for argv in (["--debug", "compare", "a.json"], ["compare", "a.json", "--debug"]):
        assert main(argv) == 1
        told = capsys.readouterr().err
        assert told.startswith("Traceback (most recent call last)")
        assert "in run\n    raise error" in told
        assert told.endswith("\nerror: no such thing\n")
    monkeypatch.setattr(compare, "run", fail(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        main(["compare", "a.json"])
