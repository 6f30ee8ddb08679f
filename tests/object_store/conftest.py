"""An emulated object store, and a dataset in it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from emulator import running_store
from object_store.objects import BUILD

from jaxdbd.input import shards
from jaxdbd.machine.paths import as_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the store keeps its objects."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def store(folder) -> Iterator[dict[str, str]]:
    """A running store, for this process too; its environment variables."""
    with running_store(folder) as (environment, _), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty home; what stands in it is what was left on this machine."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The rendered dataset, built into a local folder."""
    data_dir = tmp_path_factory.mktemp("local")
    command = [sys.executable, str(tiny.ROOT / "data/build.py"), *BUILD, f"--data_dir={data_dir}"]
    subprocess.run(command, check=True, capture_output=True)
    return data_dir


@pytest.fixture(scope="module")
def data_dir(store, built) -> str:
    """The same in the store."""
    shards.put_dataset(built / "dbd/synthetic/1.0.0", as_path("gs://bucket/data/dbd/synthetic/1.0.0"))
    return "gs://bucket/data"
