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

# Where launchers say how many processes they started: SLURM, Open MPI, MPICH and Intel MPI, MVAPICH, torchrun, Flux.
LAUNCHERS = (
    *("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"),
    *("WORLD_SIZE", "FLUX_JOB_SIZE"),
)
NO_CLUSTER = "coordinator_address should be defined."  # JAX, where it finds no cluster at all


def initialize_distributed(
    coordinator: str | None, process_id: int | None, process_count: int | None, timeout: float = peers.TIMEOUT
) -> None:
    """Joins this process to the others, if there are any; to be called before anything else touches JAX.

    With `coordinator` (host:port) the three arguments say it all. Otherwise JAX finds its way in a cluster that it
    knows: SLURM, Open MPI, a TPU pod, an indexed job of Kubernetes. The others are waited for `timeout` seconds.

    Raises UserError as `peers.join` does, where some of the three are missing, and where there are others that JAX does
    not find: each would train the whole run, in one workdir.
    """
    if coordinator:
        if process_id is None or process_count is None:
            raise UserError("--coordinator needs --process_id and --process_count beside it")
        peers.join(coordinator, process_id, process_count, timeout)
    elif process_id is not None or process_count is not None:
        raise UserError("--process_id and --process_count need --coordinator=HOST:PORT beside them")
    elif not is_alone(os.environ):
        _join_cluster(timeout)


def is_alone(environment: Mapping[str, str]) -> bool:
    """Whether a cluster says that it started one process, where JAX would wait for more, or restrict it to one GPU."""
    # SLURM's batch script, before srun, knows how many tasks the job has; a pod need not belong to an indexed job.
    is_pod = "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" not in environment
    return environment.get("SLURM_STEP_NUM_TASKS") == "1" or (is_pod and not _launcher(environment))


def _join_cluster(timeout: float) -> None:
    try:
        with peers.watched(timeout):
            jax.distributed.initialize(initialization_timeout=int(timeout) + 60)  # JAX would abort the process
    except (ValueError, KeyError, RuntimeError) as error:
        flags = "give each process --coordinator, --process_id and --process_count"
        if str(error) != NO_CLUSTER:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(f"JAX cannot join the cluster that the environment names ({reason}): {flags}") from error
        if name := _launcher(os.environ):
            raise UserError(
                f"{name}={os.environ[name]}: several processes were started, by what JAX does not know: {flags}, or"
                f" unset {name} where this one is alone"
            ) from error


def _launcher(environment: Mapping[str, str]) -> str | None:
    """The variable by which a launcher says that it started several processes; None where none does."""
    counts = {name: environment.get(name, "") for name in LAUNCHERS}
    return next((name for name, count in counts.items() if count.isdigit() and int(count) > 1), None)


def make_mesh(devices: list | None = None) -> Mesh:
    """All devices of all processes in a row, the axis named `data`."""
    devices = devices or jax.devices()
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def local_mesh(mesh: Mesh) -> Mesh:
    """The devices of a mesh that belong to this process."""
    return make_mesh([device for device in mesh.devices.flat if device.process_index == jax.process_index()])


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
