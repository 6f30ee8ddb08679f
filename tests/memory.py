"""How much memory a program takes, with all that it starts: looked at while it runs.

What the system tells of a child afterwards (`ru_maxrss`) will not do: a program inherits the figure of the one that
starts it, and a run of all tests holds gigabytes.
"""

import subprocess
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EVERY = 0.2  # seconds between two looks


def need_proc() -> None:
    """Skips where the system does not tell what memory is resident."""
    if not _number("self", "VmHWM"):
        pytest.skip("needs /proc, which tells what memory is resident")


class Peak:
    """The most gigabytes of a process and of all below it while this is open: the sum of each one's own most."""

    def __init__(self, pid: int):
        self.pid, self.seen, self.ended = pid, {}, threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    @property
    def gigabytes(self) -> float:
        return sum(self.seen.values()) / 1e6

    def _watch(self) -> None:
        while True:
            ended = self.ended.is_set()
            self._look()
            if ended:
                return
            self.ended.wait(EVERY)

    def _look(self) -> None:
        pids = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        family = {self.pid}
        for pid in pids:  # started later, a child has a higher number
            if _number(pid, "PPid") in family:
                family.add(pid)
        # Each one's last figure: a process that is about to become another program still has that of its parent.
        self.seen |= {pid: most for pid in family if (most := _number(pid, "VmHWM"))}


def _number(pid: int | str, name: str) -> int:
    """A field of a process's status, of memory in kB; 0 where there is none."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def forget_peak() -> None:
    """Lets what this process holds now be the most that it has held."""
    Path("/proc/self/clear_refs").write_text("5")


def measured(command: list, **options) -> tuple[subprocess.CompletedProcess, float]:
    """Runs a program to its end; what it said, and the gigabytes that it took."""
    command, pipe = [str(part) for part in command], subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, **options)
    with process, Peak(process.pid) as peak:
        out, error = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, error), peak.gigabytes
