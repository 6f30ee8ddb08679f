"""Prints the tables of docs/performance.md that say when more devices stop paying: arithmetic, nothing is measured.

    python -m tools.scaling

Weak scaling: every device has the same batch. The gradient is summed over devices after the backward pass, without
overlap, as a ring: 2 (n - 1) / n times its bytes through the slowest link.
"""

import dataclasses
import math
import sys

from jaxdbd.machine.startup import exit_status


@dataclasses.dataclass(frozen=True)
class Device:
    """An accelerator's data sheet, and what of it we count on."""

    name: str
    flops: float  # bfloat16, per second
    memory: float  # bytes per second
    link: float  # bytes per second out of one device, to the others in its node or pod
    node: int  # devices that the fast links join
    network: float  # bytes per second and device, beyond the node


@dataclasses.dataclass(frozen=True)
class Network:
    """A training step, per image: GFLOP and GB moved by XLA's count (`jaxdbd benchmark --mode=train`)."""

    name: str
    gflop: float
    gb: float  # in float32
    parameters: float
    batch: int  # per device


EFFICIENCY = 0.4  # of the peak FLOP/s, a usual figure for convolutions
BANDWIDTH = 0.7  # of the peak memory bandwidth
DEVICES = (
    Device("TPU v5e", 197e12, 819e9, 45e9, 256, 45e9),  # one direction of one link of its torus
    Device("H100 SXM", 989e12, 3350e9, 450e9, 8, 50e9),  # NVLink; 400 Gb/s InfiniBand for each
)
NETWORKS = (
    Network("lite, 256 pixels", 7.3, 2.09, 4.18e6, 64),
    Network("VGG19, 320 pixels", 286, 8.25, 24.7e6, 16),
)


def image_seconds(network: Network, device: Device) -> float:
    """Time of a training step per image: the slower of its arithmetic and its memory traffic, in bfloat16."""
    arithmetic = network.gflop * 1e9 / (EFFICIENCY * device.flops)
    memory = network.gb * 1e9 / 2 / (BANDWIDTH * device.memory)
    return max(arithmetic, memory)


def sum_seconds(network: Network, device: Device, count: int) -> float:
    """Time to sum float32 gradients over `count` devices."""
    rate = device.link if count <= device.node else device.network
    return 2 * (count - 1) / count * 4 * network.parameters / rate


def main() -> None:
    """A table per network."""
    for network in NETWORKS:
        print(f"\n{network.name}, {network.batch} images per device:\n")
        print("| devices | device | step | sum of gradients | efficiency | images per device for 90 % |")
        print("|---:|---|---:|---:|---:|---:|")
        for device in DEVICES:
            image = image_seconds(network, device)
            for count in (1, 8, 64, 256):
                step, extra = network.batch * image, sum_seconds(network, device, count)
                print(
                    f"| {count} | {device.name} | {step * 1e3:.1f} ms | {extra * 1e3:.2f} ms"
                    f" | {100 * step / (step + extra):.1f} % | {max(1, math.ceil(9 * extra / image))} |"
                )


if __name__ == "__main__":
    sys.exit(exit_status(main))
