"""Data and runs in a store, for a user without HOME and without an entry in passwd, as containers have them."""

import os
import subprocess
import sys

import pytest
import tiny

from jaxdbd.machine.paths import as_path

pytest.importorskip("gcsfs", reason="needs the optional extra: pip install 'jaxdbd[gcs]'")
pytest.importorskip("gcp_storage_emulator", reason="needs the emulator: pip install gcp-storage-emulator")

AS_NOBODY = """
import pwd, sys
pwd.getpwuid = lambda number: {}[f"uid not found: {number}"]
from jaxdbd.input.records import open_split
from jaxdbd.training.logs import Spool
from jaxdbd.machine.startup import exit_status, keep_compiled_programs

def run():
    keep_compiled_programs()
    print(len(open_split("dbd/synthetic", "train", sys.argv[1])))
    spool = Spool("gs://bucket/homeless")
    spool.folder.mkdir(parents=True)
    (spool.folder / "config.json").write_text("")
    spool.close()
    if sys.argv[2:]:
        open_split("dbd/synthetic", "train")

sys.exit(exit_status(run))
"""


@pytest.mark.slow
def test_a_user_without_a_home_reads_and_writes_in_a_store(data_dir, store, tmp_path):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tiny.ROOT), "TMPDIR": str(tmp_path), **store}
    command = [sys.executable, "-c", AS_NOBODY, data_dir]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "24\n", done.stderr
    assert (tmp_path / f"jaxdbd-{os.getuid()}" / "data" / "gs" / "bucket").is_dir()
    assert (as_path("gs://bucket/homeless") / "config.json").exists()
    # TFDS's own folder is below the home folder, and there is none.
    done = subprocess.run([*command, "x"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: ~/tensorflow_datasets: this user has no home folder: write the path out" in done.stderr
    assert not (tmp_path / "~").exists()
