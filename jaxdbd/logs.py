"""What a training run leaves to read: JSON lines, TensorBoard, and one line on the console."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tensorboardX import SummaryWriter
from tqdm import tqdm


class RunLog:
    """Writes metrics by step to `<workdir>/metrics.jsonl`, TensorBoard and the progress line, if `active`."""

    def __init__(self, workdir: Path, steps: int, start: int, active: bool):
        """`active` is for one process of many: the others write nothing."""
        self.active = active
        if not active:
            return
        self.jsonl = (workdir / "metrics.jsonl").open("a", buffering=1)
        self.board = SummaryWriter(str(workdir / "tensorboard"), flush_secs=30)
        # Into a file, a line a minute is enough.
        interval = 0.5 if sys.stderr.isatty() else 60
        self.bar = tqdm(total=steps, initial=start, unit=" steps", mininterval=interval, dynamic_ncols=True)
        self.began = time.time()

    def advance(self, step: int) -> None:
        """Moves the progress line to `step`."""
        if self.active:
            self.bar.update(step - self.bar.n)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Logs scalars; names with a slash are grouped by TensorBoard."""
        if not self.active:
            return
        values = {k: round(float(v), 7) for k, v in values.items()}
        self.jsonl.write(json.dumps({"step": step, "time": round(time.time() - self.began, 1), **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        shown = {k: f"{values[k]:.4g}" for k in ("loss", "images_per_s", "eval/mae") if k in values}
        self.bar.set_postfix(shown, refresh=False)

    def image(self, step: int, name: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Shows a picture in TensorBoard."""
        if self.active:
            self.board.add_image(name, picture, step, dataformats="HWC")

    def message(self, text: str) -> None:
        """One line for the person who watches."""
        if self.active:
            self.bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Flushes and closes everything."""
        if self.active:
            self.bar.close()
            self.jsonl.close()
            self.board.close()
