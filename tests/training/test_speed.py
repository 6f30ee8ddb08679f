"""What a run tells of its speed, and that it reads its metrics late."""

import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdbd.errors import UserError
from jaxdbd.training.pending import BEHIND, Pending, check_finite, check_older, values_of
from jaxdbd.training.speed import Speed, device_memory, flops_of, peak_flops


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now.seconds)
    return now


def test_speed_by_hand(clock):
    speed = Speed(flops=3e12, peak=100e12)
    assert speed.values() == {}

    def feed():
        for i in range(4):
            clock.seconds += 0.5
            yield i

    given = []
    for item in speed.waited_for(feed()):
        given.append(item)
        clock.seconds += 1.5
        speed.count(6)
    assert given == [0, 1, 2, 3]
    with speed.paused():
        clock.seconds += 1000
    # 24 images and 12 TFLOP in 8 s, 2 of which were spent waiting.
    expected = {"images_per_s": 3.0, "waiting_for_input": 0.25, "tflop_per_s": 1.5, "share_of_peak": 0.015}
    assert speed.values() == pytest.approx(expected)
    speed.restart()
    clock.seconds += 2
    speed.count(6)
    assert speed.values() == pytest.approx(expected | {"waiting_for_input": 0.0})


def test_what_is_not_known_is_not_told(clock):
    for speed, names in ((Speed(1e9, None), {"tflop_per_s"}), (Speed(0.0, 1e12), set())):
        clock.seconds += 1
        speed.count(1)
        assert set(speed.values()) == {"images_per_s", "waiting_for_input"} | names


def test_the_peak_is_that_of_all_devices():
    assert peak_flops(["NVIDIA H200"]) == 989e12
    assert peak_flops(["TPU v5 lite"] * 8) == 8 * 197e12
    assert peak_flops(["NVIDIA H200", "cpu"]) is None


def test_flop_of_a_product():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    assert flops_of(jax.jit(jnp.matmul).lower(a, b)) == 2 * 3 * 5 * 7


def pending(step: int, loss: float = 1.0) -> Pending:
    metrics = {"loss": jnp.float32(loss), "finite": jnp.isfinite(jnp.float32(loss))}
    return Pending(step, metrics, lambda: [f"photo{step}", "other"])


def test_metrics_are_read_late_and_none_is_left_out(monkeypatch):
    read = []

    def device_get(flags):
        read.append(len(flags))
        return [np.asarray(flag) for flag in flags]

    monkeypatch.setattr(jax, "device_get", device_get)
    waiting, most = [], 0
    for step in range(1, 4 * BEHIND):
        waiting.append(pending(step))
        check_older(waiting)
        assert waiting[-1].step == step
        most = max(most, len(waiting))
    assert read == [BEHIND] * 2  # not in each step, and never the newest
    assert most == 2 * BEHIND - 1
    assert [step.step for step in waiting] == list(range(2 * BEHIND + 1, 4 * BEHIND))


def test_the_first_step_that_is_not_finite_is_named():
    steps = [pending(4), pending(5, np.inf), pending(6, np.nan)]
    with pytest.raises(
        UserError, match=r"^step 5: not finite \(loss inf\) on images photo5, other; the last checkpoint"
    ):
        check_finite(steps)
    check_finite(steps[:1])
    assert values_of(steps[0]) == {"loss": 1.0}


def test_device_memory_where_the_platform_tells():
    assert all(v > 0 for v in device_memory().values())
