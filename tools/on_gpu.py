"""Measures everything that needs a GPU, in one command of at most eight minutes.

    python -m tools.on_gpu --out=DIR

Each part is a process of its own with a limit of time; one that overruns it is ended and named, and the others go on.
Lines come into DIR/report.txt as they are known; what a part says on the side is in DIR/PART.log. Nothing is
downloaded. The exit status is the number of parts that failed or were cut. `--dry-run` goes through all of it with
tiny sizes, on whatever JAX finds.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from tools.gpu.parts import PARTS, ROOT

# Seconds of each part, eight minutes together.
LIMITS = {
    "versions": 20,
    "tests": 50,
    "lite": 75,
    "vgg16": 75,
    "pytorch": 50,
    "depthwise": 40,
    "input": 20,
    "training": 110,
    "resnext101": 40,
}


def run_part(name: str, seconds: float, report: TextIO, out: Path, tiny: bool) -> bool:
    """Runs a part, which writes into the report itself; whether it came to its end."""
    print(f"\n== {name}, at most {seconds:.0f} s", file=report, flush=True)
    command = [sys.executable, "-u", "-m", "tools.gpu.parts", name, f"--out={out}", *(["--tiny"] if tiny else [])]
    start = time.monotonic()
    with open(out / f"{name}.log", "w") as log:
        # In a session of its own, so that what it has started can be ended with it.
        process = subprocess.Popen(command, cwd=ROOT, stdout=report, stderr=log, start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            print(f"{name}: CUT at {seconds:.0f} s", file=report, flush=True)
            return False
    if status:
        said = [line for line in (out / f"{name}.log").read_text(errors="replace").splitlines() if line.strip()]
        print(f"{name}: FAILED with {status}: {said[-1] if said else 'no word'}", file=report, flush=True)
    else:
        print(f"{name}: took {time.monotonic() - start:.0f} s", file=report, flush=True)
    return status == 0


def main() -> int:
    """Runs all parts; returns how many did not come to their end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the report, which should be new")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(LIMITS), help="only these (all)")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, to see that it works")
    args = parser.parse_args()
    out = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "report.txt", "a") as report:
        # Whether it works should not depend on what else the machine does.
        scale = 10 if args.dry_run else 1
        ended = [run_part(name, scale * LIMITS[name], report, out, args.dry_run) for name in args.parts]
    return ended.count(False)


if __name__ == "__main__":
    sys.exit(main())
