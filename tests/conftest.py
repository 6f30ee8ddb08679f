"""Set-up shared by all tests: shape checking, strict ranks, the compile cache, and where the real data is."""

import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]

# Compiling is most of what tests cost: LLVM's optimizations, which change no result that is checked here, are left out,
# and what was compiled is kept. For the tests, and in the environment for the programs that they start.
SETTINGS = {
    "jax_disable_most_optimizations": True,
    "jax_compilation_cache_dir": str(ROOT / ".cache" / "jax"),
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}
for name, value in SETTINGS.items():
    os.environ[name.upper()] = str(value)
    jax.config.update(name, value)

# Every jaxtyping annotation is checked while the tests run.
install_import_hook(["jaxdbd", "data"], "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")


# The files that take longest: begun first, so that no worker is left with one of them while the other has nothing to do
LONGEST = ["test_stored_runs.py", "test_loop.py", "test_feature_distillation.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the files that take longest to the front."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real benchmark, the depth teacher and the reference outputs."""
    folder = Path(os.environ.get("JAXDBD_SHARED", ROOT.parent / "shared"))
    if not (folder / "reference" / "official_vgg19.npz").exists():
        pytest.skip(f"no reference data in {folder}: set JAXDBD_SHARED to the folder that holds reference/ and data/")
    return folder
