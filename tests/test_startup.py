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


@pytest.mark.slow
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


KEEPS = """
import jax
from jaxdbd.startup import keep_compiled_programs
keep_compiled_programs()
print(jax.config.jax_compilation_cache_dir)
"""


def kept_in(program: str = KEEPS, **environment: str) -> str:
    """What the program prints, for a user with this environment alone."""
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()} | environment
    return subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_compiled_programs_are_kept_in_the_users_cache_folder(tmp_path):
    assert kept_in(HOME=str(tmp_path)) == f"{tmp_path / '.cache/jaxdbd/compiled'}\n"
    assert kept_in(HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "x")) == f"{tmp_path / 'x/jaxdbd/compiled'}\n"
    chosen = str(tmp_path / "chosen")
    assert kept_in(HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=chosen) == f"{chosen}\n"


@pytest.mark.slow
def test_without_a_folder_that_can_be_written_nothing_is_kept(tmp_path):
    (tmp_path / "file").write_text("")
    assert kept_in(HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "file")) == "None\n"
    no_home = "import pathlib\npathlib.Path.expanduser = lambda self: (_ for _ in ()).throw(RuntimeError())\n"
    assert kept_in(no_home + KEEPS, HOME=str(tmp_path)) == "None\n"
    read_only = f"import os\nos.access = lambda path, mode: not str(path).startswith({str(tmp_path)!r})\n"
    assert kept_in(read_only + KEEPS, HOME=str(tmp_path)) == "None\n"


# What training, evaluation, other weights and other kinds of photographs need.
HEAVY = {
    *(
        "tensorflow_datasets",
        "grain",
        "array_record",
        "orbax",
        "optax",
        "tensorstore",
        "tensorboardX",
        "ml_collections",
    ),
    *("matplotlib", "scipy", "pandas", "py_sod_metrics", "onnxruntime", "onnx", "nicegui", "fastapi", "tifffile"),
    *("pillow_heif", "gcsfs", "aiohttp", "tensorflow", "torch", "jaxdbd.training", "jaxdbd.input.pipeline"),
}
IMPORTS = "import sys, jaxdbd.__main__, jaxdbd.commands.{}; print(*sys.modules)"


@pytest.mark.slow
def test_predict_imports_nothing_that_it_does_not_need(tmp_path):
    assert not HEAVY & set(kept_in(IMPORTS.format("predict"), HOME=str(tmp_path)).split())
    assert HEAVY & set(kept_in(IMPORTS.format("evaluate"), HOME=str(tmp_path)).split())  # this test can fail
