"""Where a run writes its files: into its workdir, or for one in a store into a local spool that is put there.

A store cannot append to an object. So what grows, the logs, grows in the spool, and each file goes up whole. The store
is the only memory of a run: a spool that a killed process left is deleted, and the logs go on from the store's copy.
"""

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax

from jaxdbd.errors import UserError
from jaxdbd.machine.files import check_writable, os_errors_in_one_line, write_whole
from jaxdbd.machine.paths import as_path, cache_folder, is_remote, mirror


class Spool:
    """The local folder of a run's files, and its way to the store if the workdir lies in one."""

    def __init__(self, workdir: str | os.PathLike, cache_dir: str = ""):
        """Empties the spool of this process in `cache_dir`, for a workdir in a store.

        Raises UserError for a store that we may not write to, or that Orbax does not.
        """
        self.workdir = as_path(workdir)
        self.remote = is_remote(self.workdir)
        self.sent: dict[Path, tuple[int, int]] = {}  # size and time of change of what the store has
        self.pool, self.sending = ThreadPoolExecutor(1), Future()
        self.sending.set_result(None)
        if not self.remote:
            self.folder = Path(self.workdir)
        else:
            if not str(self.workdir).startswith("gs://"):
                raise UserError(f"{self.workdir}: Orbax writes checkpoints to gs:// or local folders only")
            check_writable(self.workdir)
            self.folder = mirror(cache_folder(cache_dir), "runs", self.workdir) / f"process{jax.process_index()}"
            with os_errors_in_one_line(self.folder, "the spool cannot be emptied"):
                shutil.rmtree(self.folder, ignore_errors=True)

    def publish(self, wait: bool) -> None:
        """Puts what is new into the store. Without `wait` in the background, and not while the last upload still runs.

        Raises UserError where the store did not take it, or did not take the upload before.
        """
        if not self.remote or not (wait or self.sending.done()):
            return
        self.sending.result()
        self.sending = self.pool.submit(self._send)
        if wait:
            self.sending.result()

    def _send(self) -> None:
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            stat = path.stat()
            state = stat.st_size, stat.st_mtime_ns
            if self.sent.get(path) != state:
                write_whole(self.workdir / path.relative_to(self.folder).as_posix(), path.read_bytes())
                self.sent[path] = state

    def close(self) -> None:
        """Puts the rest into the store and deletes the spool."""
        try:
            self.publish(wait=True)
        finally:
            self.pool.shutdown()
        if self.remote:
            shutil.rmtree(self.folder, ignore_errors=True)
