"""Where a compiled program's time goes: a profile of it, summed by what each operation computes."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

# An instruction counts as the first of these that it, or what it fuses, contains. A copy changes the order in memory.
KINDS = ("convolution", "dot", "reduce-window", "reduce", "scatter", "gather", "copy", "transpose")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = ")
COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) .*\{$")


def instruction_kinds(hlo: str) -> dict[str, str]:
    """What every instruction of a compiled program computes: one of `KINDS`, or 'elementwise'.

    Args:
      hlo: the program's text, `program.as_text()`.
    """
    bodies: dict[str, dict[str, str]] = {}  # lines by instruction, by computation
    body = {}
    for line in hlo.splitlines():
        if opening := COMPUTATION.match(line):
            body = bodies[opening[1]] = {}
        elif instruction := INSTRUCTION.match(line):
            body[instruction[1]] = line

    def kind(line):
        called = re.search(r"calls=%?([\w.-]+)", line)
        text = "\n".join(bodies.get(called[1], {}).values()) if called else line
        return next((k for k in KINDS if f" {k}(" in text), "elementwise")

    return {name: kind(line) for lines in bodies.values() for name, line in lines.items()}


def seconds_by_kind(program: Any, call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Seconds per call in each kind of operation, the largest first.

    An operation that the runtime spreads over threads counts once, for as long as it takes; one of several that run at
    the same time counts in full. So the sum is near the time of a call, but it is not it.

    Args:
      program: compiled by JAX.
      call: runs it once.
      repeats: calls that are profiled, after one that is not.
    """
    kinds = instruction_kinds(program.as_text())
    jax.block_until_ready(call())
    seconds = Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(repeats):
                jax.block_until_ready(call())
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
        for plane in profile.planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in kinds:
                        seconds[kinds[event.name]] += event.duration_ns / 1e9 / repeats
    return dict(seconds.most_common())
