"""Devices: the mesh, where the state and the batch live on it, and more than one process."""

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Smaller leaves cost more to gather than they save.
FSDP_MIN_SIZE = 2**16


def initialize_distributed(coordinator: str | None, process_id: int | None, process_count: int | None) -> None:
    """Joins this process to the others, if there are any; to be called before anything else touches JAX.

    With `coordinator` (host:port) the three arguments say it all. Otherwise the environment does: SLURM with more than
    one task, a TPU pod, or JAX_COORDINATOR_ADDRESS; on a single machine nothing happens.
    """
    if coordinator:
        jax.distributed.initialize(coordinator, num_processes=process_count, process_id=process_id)
    elif (
        int(os.environ.get("SLURM_NTASKS", "1")) > 1
        or len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
        or "JAX_COORDINATOR_ADDRESS" in os.environ
    ):
        jax.distributed.initialize()


def make_mesh(devices: list | None = None) -> Mesh:
    """All devices of all processes in a row, the axis named `data`."""
    devices = devices or jax.devices()
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch spread over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(mesh: Mesh, state: Any, fsdp: bool) -> Any:
    """A sharding for every leaf: a copy on each device, or, with `fsdp`, large leaves cut along their longest axis.

    `state` may be shapes only. An axis is cut where the number of devices divides it.
    """

    def place(leaf):
        if fsdp and leaf.size >= FSDP_MIN_SIZE:
            axes = [i for i, n in enumerate(leaf.shape) if n % mesh.size == 0]
            if axes:
                longest = max(axes, key=lambda i: leaf.shape[i])
                return NamedSharding(mesh, PartitionSpec(*([None] * longest), "data"))
        return replicated(mesh)

    return jax.tree.map(place, state)


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows as its share of a global batch."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
