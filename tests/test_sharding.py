"""Where the state lies, and how a process learns that it is one of many; training/test_loop.py trains on them."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from jaxdbd import sharding
from jaxdbd.errors import UserError

PER_DEVICE = """
import json, jax, numpy as np
from jaxdbd import sharding, weights
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.training.vectors import make_layout, to_vectors

mesh = sharding.make_mesh()
variables = weights.shapes(DepthDistilledDBD(encoder="vgg19"))
layout = make_layout(variables)
zeros = lambda: to_vectors(layout, jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), variables))
count = lambda tree: sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
shapes = jax.eval_shape(zeros)
states = [jax.jit(zeros, out_shardings=sharding.state_sharding(mesh, shapes, fsdp))() for fsdp in (False, True)]
whole = sharding.gather(mesh)(states[1])
print(json.dumps([mesh.size, count(states[0]), count(states[1]), count(whole)]))
"""


def mesh_of(n: int) -> AbstractMesh:
    return AbstractMesh((n,), ("data",))


def specs(state, n: int, fsdp: bool = True) -> list:
    return [s.spec for s in jax.tree.leaves(sharding.state_sharding(mesh_of(n), state, fsdp))]


def test_long_vectors_are_cut():
    state = [jnp.zeros(2**16), jnp.zeros(2**16 - 8), jnp.int32(0)]
    assert specs(state, 8) == [PartitionSpec("data"), PartitionSpec(), PartitionSpec()]
    assert specs(state, 8, fsdp=False) == [PartitionSpec()] * 3


@pytest.mark.slow
def test_fsdp_frees_memory_on_every_device():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PER_DEVICE], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    devices, replicated, cut, gathered = json.loads(done.stdout)
    assert devices == 8
    assert replicated == gathered
    assert 4 * 24_746_330 < replicated < 1.01 * 4 * 24_746_330  # vectors are padded, and there are statistics
    # Nearly an eighth: what is left whole are biases and BatchNorm's.
    assert replicated / 8 < cut < 1.05 * replicated / 8


def test_rows_reach_the_mesh():
    mesh = sharding.make_mesh()
    batch = np.arange(12, dtype=np.float32).reshape(4, 3)
    for placed in (sharding.local_rows_to_devices({"x": batch}, mesh)["x"], sharding.all_rows_to_devices(batch, mesh)):
        np.testing.assert_array_equal(placed, batch)
        assert placed.sharding == sharding.batch_sharding(mesh)
        assert sharding.batch_sharding(mesh).spec == PartitionSpec("data")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, False),  # the batch script itself, before srun
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t1v-0,t1v-1"}, True),
        ({"TPU_ML_PLATFORM": "JAX", "TPU_SKIP_MDS_QUERY": "1"}, False),
        ({"TPU_ML_PLATFORM": "JAX"}, True),
        ({"JAX_COORDINATOR_ADDRESS": "host:1234"}, True),
    ],
)
def test_the_environment_says_whether_there_are_others(environment, expected):
    assert sharding.is_one_of_many(environment) == expected


def test_half_the_flags_are_not_enough():
    with pytest.raises(UserError, match="--coordinator needs --process_id"):
        sharding.initialize_distributed("localhost:1", None, 2)
    with pytest.raises(UserError, match="need --coordinator"):
        sharding.initialize_distributed(None, 0, 2)
