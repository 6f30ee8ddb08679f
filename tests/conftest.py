"""Set-up shared by all tests: shape checking, strict ranks, the compile cache, and where the real data is."""

import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

# Every jaxtyping annotation is checked while the tests run.
install_import_hook(["jaxdbd", "data"], "beartype.beartype")

ROOT = Path(__file__).resolve().parents[1]

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real benchmark, the depth teacher and the reference outputs."""
    folder = Path(os.environ.get("JAXDBD_SHARED", ROOT.parent / "shared"))
    if not (folder / "reference" / "official_vgg19.npz").exists():
        pytest.skip(f"no reference data in {folder}: set JAXDBD_SHARED to the folder that holds reference/ and data/")
    return folder
