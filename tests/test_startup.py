"""What a command settles before it starts."""

import os
import subprocess
import sys

import pytest

from jaxdbd.startup import KEEP_MEMORY, keep_memory

PROGRAM = """
import os, sys
from jaxdbd.startup import keep_memory
print("started with", os.environ.get("GLIBC_TUNABLES", "nothing"), *sys.argv[1:])
keep_memory()
print("goes on")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
@pytest.mark.parametrize("before", ["", "glibc.rtld.dynamic_sort=2"])
def test_a_program_starts_once_more_with_its_arguments(before, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"GLIBC_TUNABLES": before, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(tmp_path / "program.py"), "an argument"]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    after = f"{before}:{KEEP_MEMORY}" if before else KEEP_MEMORY
    assert out == f"started with {before} an argument\nstarted with {after} an argument\ngoes on\n"


@pytest.mark.parametrize(("platform", "tunables"), [("linux", "glibc.malloc.hugetlb=0"), ("darwin", "")])
def test_it_leaves_what_the_user_chose_and_other_systems_alone(platform, tunables, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started once more"))
    keep_memory()
    assert os.environ["GLIBC_TUNABLES"] == tunables
