"""Compiling for inference: quicker, and nothing else."""

import os
import subprocess
import sys

import jax
import pytest

from jaxdbd import inference

# In a program of its own: the tests' settings leave out most of what XLA's own choice does.
SAME = """
import jax, numpy as np
from drawn_network import drawn
from jaxdbd import inference
from jaxdbd.inference import maps_of_bytes
from jaxdbd.network.model import DepthDistilledDBD

assert inference.inference_options() == inference.QUICK
model = DepthDistilledDBD("lite0", full_resolution=False, size=64)
images, variables = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8), drawn(model)
lowered = jax.jit(lambda variables, images: maps_of_bytes(model, variables, images)).lower(variables, images)
slow, quick = (lowered.compile(compiler_options=options)(variables, images) for options in ({}, inference.QUICK))
for one, other in zip(slow, quick, strict=True):
    np.testing.assert_array_equal(one, other)
print("the same")
"""


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="these are options of a CPU")
def test_a_network_gives_the_same_bits(pytestconfig):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(pytestconfig.rootpath), str(pytestconfig.rootpath / "tests")])
    done = subprocess.run([sys.executable, "-c", SAME], env=environment, capture_output=True, text=True)
    assert done.stdout == "the same\n", done.stderr


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="these are options of a CPU")
def test_an_xla_without_these_options_chooses_itself(monkeypatch):
    inference.inference_options.cache_clear()
    monkeypatch.setattr(inference, "QUICK", {"xla_no_such_option": True})
    assert inference.inference_options() == {}
    inference.inference_options.cache_clear()
    monkeypatch.setattr(inference, "QUICK", {"xla_backend_optimization_level": "no number"})
    with pytest.raises(jax.errors.JaxRuntimeError):
        inference.inference_options()
    inference.inference_options.cache_clear()
