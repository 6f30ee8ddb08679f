"""Devices: the mesh, where the state and the batch live on it, and more than one process."""

import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdbd import peers
from jaxdbd.errors import UserError

# Shorter vectors cost more to gather than they save.
FSDP_MIN_SIZE = 2**16


def initialize_distributed(
    coordinator: str | None, process_id: int | None, process_count: int | None, timeout: float = peers.TIMEOUT
) -> None:
    """Joins this process to the others, if there are any; to be called before anything else touches JAX.

    With `coordinator` (host:port) the three arguments say it all; otherwise the environment does. The others are waited
    for `timeout` seconds. Raises UserError where some of the three are missing, and as `peers.join` does.
    """
    if coordinator:
        if process_id is None or process_count is None:
            raise UserError("--coordinator needs --process_id and --process_count beside it")
        peers.join(coordinator, process_id, process_count, timeout)
    elif process_id is not None or process_count is not None:
        raise UserError("--process_id and --process_count need --coordinator=HOST:PORT beside them")
    elif is_one_of_many(os.environ):
        with peers.watched(timeout):
            jax.distributed.initialize(initialization_timeout=int(timeout) + 60)  # JAX would abort the process


def is_one_of_many(environment: Mapping[str, str]) -> bool:
    """Whether this process has peers that JAX finds by itself.

    It does under SLURM and Open MPI, on a TPU pod, and where JAX_COORDINATOR_ADDRESS is set.
    """
    tasks = max(int(environment.get(name, "1")) for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    # JAX sets the first where there are TPU chips, and the second where no metadata server can tell of the others.
    is_cloud_tpu = "TPU_ML_PLATFORM" in environment and "TPU_SKIP_MDS_QUERY" not in environment
    has_tpu_peers = "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    return tasks > 1 or is_cloud_tpu or has_tpu_peers or "JAX_COORDINATOR_ADDRESS" in environment


def make_mesh(devices: list | None = None) -> Mesh:
    """All devices of all processes in a row, the axis named `data`."""
    devices = devices or jax.devices()
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The first axis, such as the rows of a batch, spread over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(mesh: Mesh | AbstractMesh, state: Any, fsdp: bool) -> Any:
    """A sharding for every leaf: a copy on each device, or, with `fsdp`, long vectors cut into equal parts.

    `state` may be shapes only. The number of devices must divide the vectors' lengths.
    """

    def place(leaf):
        long = leaf.ndim == 1 and leaf.size >= FSDP_MIN_SIZE
        return batch_sharding(mesh) if fsdp and long else replicated(mesh)

    return jax.tree.map(place, state)


def local_rows_to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows as its share of a global batch."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def local_devices(mesh: Mesh) -> range:
    """The places of this process's devices in the mesh, which lie side by side."""
    mine = [i for i, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    return range(mine[0], mine[-1] + 1)


def whole_to_devices(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """A copy of an array that every process holds on every device."""
    return jax.make_array_from_callback(array.shape, replicated(mesh), lambda index: array[index])


def all_rows_to_devices(batch: np.ndarray, mesh: Mesh) -> jax.Array:
    """A batch that every process holds as a whole, spread over the devices of all; its rows a multiple of them."""
    return jax.make_array_from_callback(batch.shape, batch_sharding(mesh), lambda index: batch[index])


def gather(mesh: Mesh) -> Callable[[Any], Any]:
    """A function that puts a whole copy of every array of a tree on every device."""
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def from_all(value: Any) -> list[Any]:
    """What each process has for `value`, by their numbers, the same on all of them; all must call this."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - data.size)))
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
