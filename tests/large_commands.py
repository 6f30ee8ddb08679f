"""Commands on photographs of 200 megapixels, one after another in this process, and what memory each took.

    python tests/large_commands.py FOLDER

FOLDER has what `tests/test_large.py` makes; FOLDER/figures.json will have [status, gigabytes] of each command.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from memory import Peak, forget_peak  # noqa: E402

from data import build  # noqa: E402
from jaxdbd.__main__ import main  # noqa: E402
from jaxdbd.photographs.app import session  # noqa: E402


def look(folder: Path) -> int:
    """What the page does with an upload, short of the page: the sheet, a closer look, an overlay."""
    page = session.Session(session.network(str(folder / "tiny.safetensors")))
    number, path = session.add_upload(page, "turned.jpg")
    path.write_bytes((folder / "photos" / "turned.jpg").read_bytes())
    page.pending.put(number)
    session.work(page)
    looked_at = session.look(page, number)
    session.overlay_jpeg(looked_at, 0.5)
    fine = looked_at.preview.shape == (1200, 1600, 3) and not page.entries[number].row[-1]
    session.close(page)
    return 0 if fine else 1


def commands(folder: Path) -> dict[str, Callable[[], int]]:
    """What is measured, by name."""
    built, weights = f"--data_dir={folder}/built", f"--weights={folder}/tiny.safetensors"
    benchmark = [f"--manual_dir={folder}", built, "--gt_white=focus", "--dataset=folder"]
    sharp = [f"--manual_dir={folder}/image", built, "--dataset=refocused", "--renderings=1"]
    teacher = [f"--teacher=dir:{folder}/depth", "--teacher_polarity=near"]
    evaluated = ["--dataset=dbd/folder", "--split=train", f"--out={folder}/evaluation"]
    pictures = ["--overlay", "--depth", "--binary", f"--csv={folder}/t.csv", f"--report={folder}/r.html"]
    masks = [f"--pred={folder}/gt", f"--gt={folder}/gt", "--gt_white=focus", f"--json={folder}/score.json"]
    return {
        "build": lambda: build.main(benchmark),
        "describe": lambda: build.main(["--dataset=folder", built, "--describe", f"--sheet={folder}/sheet.png"]),
        "refocused": lambda: build.main([*sharp, *teacher]),
        "evaluate": lambda: main(["evaluate", weights, built, *evaluated]),
        "score": lambda: main(["score", *masks]),
        "predict": lambda: main(["predict", f"{folder}/photos", weights, f"--out={folder}/out", *pictures]),
        "app": lambda: look(folder),
    }


def run(folder: Path) -> None:
    """Runs them, and writes the figures."""
    figures = {}
    for name, command in commands(folder).items():
        forget_peak()
        with Peak(os.getpid()) as peak:
            status = command()
        figures[name] = [status, peak.gigabytes]
    (folder / "figures.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
