"""What a training run leaves to read: JSON lines, TensorBoard, and one line on the console."""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8
from tensorboardX import SummaryWriter
from tqdm import tqdm


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl; one that a kill cut short ends the list. Empty where there is no file."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class RunLog:
    """Writes metrics by step to `<workdir>/metrics.jsonl`, TensorBoard and the progress line, if `active`."""

    def __init__(self, workdir: Path, steps: int, start: int, active: bool):
        """Goes on after step `start` of `steps`, dropping what a killed process logged beyond it.

        `active` is for one process of many: the others write nothing.
        """
        self.active = active
        if not active:
            return
        self.steps = steps
        path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= start]
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text("".join(json.dumps(line) + "\n" for line in kept))
        unfinished.replace(path)
        self.jsonl = path.open("a", buffering=1)
        self.board = SummaryWriter(str(workdir / "tensorboard"), flush_secs=30, purge_step=start + 1)
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
        self.jsonl.write(json.dumps(line) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        shown = {k: f"{values[k]:.4g}" for k in ("loss", "images_per_s") if k in values}
        if shown:
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


def device_memory() -> dict[str, float]:
    """Peak bytes in use on this process's first device, where the platform tells; a CPU does not."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return {"device_peak_bytes": float(stats["peak_bytes_in_use"])} if "peak_bytes_in_use" in stats else {}
