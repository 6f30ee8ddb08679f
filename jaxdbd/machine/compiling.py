"""How a network is compiled for inference, so that the first map does not wait long for it."""

from functools import lru_cache

import jax

# On a CPU these compile in half the time of XLA's defaults, to programs that are as fast and give the same bits
# (docs/performance.md): each of a network's two hundred small loops is compiled by itself, and has little to improve.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}


@lru_cache
def inference_options() -> dict[str, bool | int]:
    """`compiler_options` of `jax.jit` for a network that is only applied; {} where XLA is to choose by itself."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=QUICK).lower().compile()
    except jax.errors.JaxRuntimeError as error:  # an XLA that does not know them
        if "No such compile option" not in str(error):
            raise
        return {}
    return QUICK
