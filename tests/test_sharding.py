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
from ports import free_port

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
    placed = sharding.all_rows_to_devices(batch, mesh)
    np.testing.assert_array_equal(placed, batch)
    assert placed.sharding == sharding.batch_sharding(mesh)
    assert sharding.batch_sharding(mesh).spec == PartitionSpec("data")


JOIN = """
import json, os, sys
import jax
from jaxdbd import sharding
from jaxdbd.errors import UserError
told = []
for environment in json.loads(sys.argv[1]):
    os.environ.update(environment)
    try:
        told.append(sharding.initialize_distributed(None, None, None) or jax.distributed.is_initialized())
    except UserError as error:
        told.append(str(error))
    for name in environment:
        del os.environ[name]
print(json.dumps(told))
"""
NO_CLUSTER = [
    {},
    {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # a shell in an allocation, before srun
    # The batch script itself: JAX would wait for four.
    {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NUM_TASKS": "1",
    },
    {"OMPI_COMM_WORLD_SIZE": "1"},
    {"WORLD_SIZE": "1", "RANK": "0"},
    {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},  # a pod of no job
]
UNKNOWN = [
    ({"WORLD_SIZE": "4", "RANK": "0"}, "WORLD_SIZE=4: several processes were started, by what JAX does not know: give"),
    ({"PMI_SIZE": "2", "PMI_RANK": "1"}, "PMI_SIZE=2: several processes"),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=2: several processes"),  # of Open MPI 5, which JAX misses
    ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_NUM_TASKS=2: several processes"),
    (
        {"JAX_COORDINATOR_ADDRESS": "a:1"},
        "JAX cannot join the cluster that the environment names (ValueError: Number of",
    ),
    ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:3"}, "JAX cannot join the cluster that the environment names (Key"),
]


def run_python(program: str, *arguments: str, **environment: str) -> subprocess.Popen:
    own = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.Popen([sys.executable, "-c", program, *arguments], env=own, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_alone_where_no_cluster_is_and_no_run_of_many_by_mistake():
    cases = [*NO_CLUSTER, *(environment for environment, _ in UNKNOWN)]
    told = json.loads(run_python(JOIN, json.dumps(cases)).communicate(timeout=300)[0])
    assert told[: len(NO_CLUSTER)] == [False] * len(NO_CLUSTER)
    for line, (_, expected) in zip(told[len(NO_CLUSTER) :], UNKNOWN, strict=True):
        assert line.startswith(expected)
        assert "give each process --coordinator, --process_id and --process_count" in line
        assert "\n" not in line


@pytest.mark.slow
def test_slurm_is_found_by_jax():
    program = "from jaxdbd import sharding\nsharding.initialize_distributed(None, None, None)\n"
    program += "print(sharding.from_all({'of': sharding.jax.process_index()}))"
    common = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    port = {"JAX_COORDINATOR_PORT": str(free_port())}
    each = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    processes = [run_python(program, **common, **port, **own) for own in each]
    told = [process.communicate(timeout=300)[0].splitlines()[-1] for process in processes]
    assert told == ["[{'of': 0}, {'of': 1}]"] * 2


def test_half_the_flags_are_not_enough():
    with pytest.raises(UserError, match="--coordinator needs --process_id"):
        sharding.initialize_distributed("localhost:1", None, 2)
    with pytest.raises(UserError, match="need --coordinator"):
        sharding.initialize_distributed(None, 0, 2)
