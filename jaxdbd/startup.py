"""What a command settles before it starts: where memory comes from, and where compiled programs are kept."""

import os
import sys
from pathlib import Path

import jax

HUGE_PAGES = "glibc.malloc.hugetlb=1"


def use_huge_pages() -> None:
    """Starts this program once more with memory in pages of 2 MB, where the C library is one that can (Linux, glibc).

    XLA asks for its buffers anew in every step, and the kernel then fills them page by page: in pages of 4 kB that is
    a quarter of a training step on a CPU (docs/performance.md). The C library reads the setting when a program starts,
    so it cannot be made later. Does nothing where GLIBC_TUNABLES already says something of it.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or "glibc.malloc.hugetlb" in tunables:
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{HUGE_PAGES}" if tunables else HUGE_PAGES
    sys.stdout.flush()
    os.execv(sys.executable, sys.orig_argv)


def keep_compiled_programs() -> None:
    """Lets JAX keep what it compiles in ~/.cache/jaxdbd, unless it was told of another folder."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/jaxdbd/compiled").expanduser()))
