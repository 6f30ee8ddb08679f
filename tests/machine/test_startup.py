"""What a command settles before it starts."""

import ctypes
import importlib.util
import os
import platform
import subprocess
import sys

import pytest

from jaxdbd.machine.startup import keep_memory, runs_on_cpu

# Fills a large buffer, lets go of it, and does so again: how often the kernel had to hand out pages, each time.
FAULTS = """
import resource
from jaxdbd.machine.startup import keep_memory
keep_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * (64 << 20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc's malloc")
@pytest.mark.parametrize(("tunables", "kept"), [("", True), ("glibc.malloc.mmap_max=65536", False)])
def test_memory_is_filled_once_unless_the_user_has_settings_of_his_own(tunables, kept):
    first, second = map(int, kept_in(FAULTS, GLIBC_TUNABLES=tunables, JAX_PLATFORMS="cpu").split())
    assert first > 10_000  # pages of 4 kB
    assert (second < first / 10) == kept


@pytest.mark.parametrize(
    ("platforms", "installed", "expected"),
    [
        ("", (), True),
        ("", ("jax_plugins",), False),
        ("", ("libtpu",), False),
        ("cpu", ("jax_plugins",), True),
        ("cuda,cpu", ("jax_plugins",), False),
    ],
)
def test_memory_is_kept_for_programs_of_the_cpu(monkeypatch, platforms, installed, expected):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)
    assert runs_on_cpu() == expected
    asked = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", asked.append)
    keep_memory()
    assert bool(asked) == expected


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("asked for the C library"))
    keep_memory()


KEEPS = """
import jax
from jaxdbd.machine.startup import keep_compiled_programs
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
    no_home = "import pwd\npwd.getpwuid = lambda _: {}['uid not found']\n"
    assert kept_in(no_home + KEEPS) == "None\n"
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
    *("pillow_heif", "gcsfs", "aiohttp", "tensorflow", "torch", "jaxdbd.training", "jaxdbd.input.batches"),
}
IMPORTS = "import sys, jaxdbd.__main__, jaxdbd.commands.{}; print(*sys.modules)"


@pytest.mark.slow
def test_predict_imports_nothing_that_it_does_not_need(tmp_path):
    assert not HEAVY & set(kept_in(IMPORTS.format("predict"), HOME=str(tmp_path)).split())
    assert HEAVY & set(kept_in(IMPORTS.format("evaluate"), HOME=str(tmp_path)).split())  # this test can fail


@pytest.mark.slow
def test_a_training_imports_nothing_that_only_reports_need(tmp_path):
    modules = set(kept_in("import sys, jaxdbd.training.loop; print(*sys.modules)", HOME=str(tmp_path)).split())
    assert "jaxdbd.training.keeper" in modules  # which scores
    assert not {"matplotlib", "pandas", "py_sod_metrics", "scipy.stats", "sklearn"} & modules
