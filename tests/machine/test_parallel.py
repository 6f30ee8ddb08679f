"""Memory as this process tells it."""

import subprocess
import sys

import pytest
from odd_files import ROOT

from jaxdbd.machine.parallel import most_resident

CHILD = "from jaxdbd.machine.parallel import most_resident; print(most_resident())"


@pytest.mark.slow
def test_what_a_process_has_held_is_its_own():
    held = bytearray(b"x") * (1 << 30)
    assert most_resident() > len(held)
    # A program begins anew, whatever the one held that starts it.
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < len(held)
