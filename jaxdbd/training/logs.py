"""What a training run leaves to read: JSON lines, TensorBoard, and one line on the console.

A store cannot append to an object. So for a workdir in one what grows, the logs, grows in a local spool, and each file
goes up whole. The store is the only memory of a run: a spool that a killed process left is deleted, and the logs go on
from the store's copy.
"""

import json
import os
import shutil
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8
from tensorboardX import SummaryWriter
from tqdm import tqdm

from jaxdbd.errors import UserError
from jaxdbd.machine.files import check_writable, is_file, os_errors_in_one_line, read_text, write_whole
from jaxdbd.machine.paths import as_path, cache_folder, is_remote, mirror

SHOWN = ("loss", "images_per_s", "tflop_per_s", "share_of_peak", "waiting_for_input")  # in the progress line
EVENTS_SIZE = 4 * 2**20  # choice of ours: in a store a file of events grows no further, as all of it goes up each time


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


def read_metrics(path: os.PathLike) -> list[dict]:
    """The lines of a metrics.jsonl; one that a kill cut short ends the list. Empty where there is no file."""
    lines = []
    for text in read_text(path).splitlines() if is_file(path) else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def open_board(spool: Spool, number: int, purge_step: int | None = None) -> SummaryWriter:
    """TensorBoard's events go into another file for each `number`; from `purge_step` on it forgets what it has."""
    folder = str(spool.folder / "tensorboard")
    return SummaryWriter(folder, flush_secs=30, purge_step=purge_step, filename_suffix=f".{number}")


class RunLog:
    """Writes metrics by step to `<workdir>/metrics.jsonl`, TensorBoard and the progress line, if `active`."""

    def __init__(self, spool: Spool, steps: int, start: int, active: bool):
        """Goes on after step `start` of `steps`, dropping what a killed process logged beyond it.

        `active` is for one process of many: the others write nothing.
        """
        self.active, self.spool = active, spool
        if not active:
            return
        self.steps = steps
        kept = [line for line in read_metrics(spool.workdir / "metrics.jsonl") if line["step"] <= start]
        path = spool.folder / "metrics.jsonl"
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        self.jsonl = path.open("a", buffering=1)
        self.board, self.boards = open_board(spool, 0, purge_step=start + 1), 0
        # Into a file, a line a minute is enough.
        interval = 0.5 if sys.stderr.isatty() else 60
        self.bar = tqdm(total=steps, initial=start, unit=" steps", mininterval=interval, dynamic_ncols=True)
        self.began = time.time() - (kept[-1]["time"] if kept else 0)

    def advance(self, step: int) -> None:
        """Moves the progress line to `step`."""
        if self.active:
            self.bar.update(step - self.bar.n)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Logs scalars; names with a slash are grouped by TensorBoard."""
        if not self.active:
            return
        values = {k: float(f"{v:.7g}") for k, v in values.items()}
        # `of` tells a reader of the file alone whether the run has ended.
        line = {"step": step, "of": self.steps, "time": round(time.time() - self.began, 1), **values}
        with os_errors_in_one_line(self.jsonl.name):
            self.jsonl.write(json.dumps(line) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        shown = {k: f"{values[k]:.4g}" for k in SHOWN if k in values}
        if shown:
            self.bar.set_postfix(shown, refresh=False)
        self.publish(wait=False)

    def image(self, step: int, name: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Shows a picture in TensorBoard."""
        if self.active:
            self.board.add_image(name, picture, step, dataformats="HWC")

    def message(self, text: str) -> None:
        """One line for the person who watches."""
        if self.active:
            self.bar.write(text, file=sys.stderr)

    def publish(self, wait: bool) -> None:
        """Puts the logs into the store, if the run lies in one. Raises UserError where it does not take them."""
        if not self.active or not self.spool.remote:
            return
        self.board.flush()
        self.spool.publish(wait)
        if sum(path.stat().st_size for path in self.spool.folder.glob(f"tensorboard/*.{self.boards}")) > EVENTS_SIZE:
            self.board.close()
            self.boards += 1
            self.board = open_board(self.spool, self.boards)

    def close(self) -> None:
        """Flushes and closes everything. Raises UserError where the system does not take what is left."""
        if self.active:
            self.bar.close()
            with os_errors_in_one_line(self.spool.folder):
                self.jsonl.close()
                self.board.close()
