"""Set-up shared by all tests: shape checking, strict ranks, the compile cache, and where the real data is."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Set before JAX is imported, for the programs that tests start as well as for the tests. Compiling is most of what they
# cost: LLVM's optimizations, which change no result that is checked here, are left out, and what was compiled is kept.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Every jaxtyping annotation is checked while the tests run.
install_import_hook(["jaxdbd", "data"], "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the file that takes longest first, so that the other worker can do all else meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_loop.py")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real benchmark, the depth teacher and the reference outputs."""
    folder = Path(os.environ.get("JAXDBD_SHARED", ROOT.parent / "shared"))
    if not (folder / "reference" / "official_vgg19.npz").exists():
        pytest.skip(f"no reference data in {folder}: set JAXDBD_SHARED to the folder that holds reference/ and data/")
    return folder
