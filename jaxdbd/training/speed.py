"""How fast a run is, how near to what its devices can do, and what it waits for."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax

T = TypeVar("T")

# Dense bfloat16 FLOP/s of one device, by what JAX calls it. NVIDIA's data sheets of A100, H100, H200, L4, L40S and B200
# (without sparsity); cloud.google.com/tpu/docs, per chip, for TPUs whose chip is one device.
PEAKS = {
    **dict.fromkeys(("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB"), 312e12),
    **dict.fromkeys(("NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe"), 312e12),
    **dict.fromkeys(("NVIDIA H100 80GB HBM3", "NVIDIA H200"), 989e12),
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA B200": 2250e12,
    "TPU v4": 275e12,
    **dict.fromkeys(("TPU v5 lite", "TPU v5e"), 197e12),
    **dict.fromkeys(("TPU v5", "TPU v5p"), 459e12),
    **dict.fromkeys(("TPU v6 lite", "TPU v6e"), 918e12),
}


def peak_flops(kinds: Iterable[str]) -> float | None:
    """Bfloat16 FLOP/s of devices of these kinds, together; None where one is not in `PEAKS`."""
    peaks = [PEAKS.get(kind, 0.0) for kind in kinds]
    return sum(peaks) if all(peaks) else None


def flops_of(program: jax.stages.Lowered) -> float:
    """Floating-point operations of one call on all devices, as XLA counts them; 0 where it does not.

    Before it optimizes: afterwards a GPU's convolutions are calls into a library, of which it counts nothing.
    """
    return float((program.cost_analysis() or {}).get("flops", 0.0))


class Speed:
    """Images and FLOP per second since the last `restart`, and the share of that time that was spent waiting."""

    def __init__(self, flops: float, peak: float | None):
        """Of steps of so many FLOP each, on devices that can do `peak` in a second."""
        self.flops, self.peak = flops, peak
        self.restart()

    def restart(self) -> None:
        """Counts from here."""
        self.steps, self.images, self.waited, self.since = 0, 0, 0.0, time.perf_counter()

    def count(self, images: int) -> None:
        """One more step, on so many images."""
        self.steps += 1
        self.images += images

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within, time does not count."""
        began = time.perf_counter()
        yield
        self.since += time.perf_counter() - began

    def waited_for(self, feed: Iterator[T]) -> Iterator[T]:
        """The items of `feed`; until it gives one, the run waits for its input."""
        while True:
            began = time.perf_counter()
            item = next(feed, None)
            self.waited += time.perf_counter() - began
            if item is None:
                return
            yield item

    def values(self) -> dict[str, float]:
        """The figures under their names in the log; {} where nothing was counted yet."""
        if not self.steps:
            return {}
        seconds = time.perf_counter() - self.since
        rate = self.flops * self.steps / seconds
        values = {"images_per_s": self.images / seconds, "waiting_for_input": self.waited / seconds}
        if self.flops:
            values["tflop_per_s"] = rate / 1e12
        if self.flops and self.peak:
            values["share_of_peak"] = rate / self.peak
        return values


def device_memory() -> dict[str, float]:
    """Peak bytes in use on this process's first device, where the platform tells; a CPU does not."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return {"device_peak_bytes": float(stats["peak_bytes_in_use"])} if "peak_bytes_in_use" in stats else {}
