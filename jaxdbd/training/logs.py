"""What a training run leaves to read: JSON lines, TensorBoard, and one line on the console."""

import json
import os
import sys
import time

import numpy as np
from jaxtyping import UInt8
from tensorboardX import SummaryWriter
from tqdm import tqdm

from jaxdbd.machine.files import is_file, os_errors_in_one_line, read_text, write_whole
from jaxdbd.machine.spool import Spool

SHOWN = ("loss", "images_per_s", "tflop_per_s", "share_of_peak", "waiting_for_input")  # in the progress line
EVENTS_SIZE = 4 * 2**20  # choice of ours: in a store a file of events grows no further, as all of it goes up each time


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
