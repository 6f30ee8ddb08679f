"""Pictures in a folder that nobody looks for there, told once: who has some should not wonder where they are."""

import contextlib
import sys
from collections import Counter
from pathlib import Path

from jaxdbd.machine.files import shown
from jaxdbd.photographs.decoding import RAW

# Beside RAW: what no reader here knows, and what is as often a document as a photograph.
OTHERS = {".j2c", ".j2k", ".jp2", ".jpf", ".jpx", ".jxl", ".jxr", ".pam", ".pgm", ".pnm", ".ppm", ".psb", ".psd"} | RAW


def warn_of_passed_over(folder: Path, recursive: bool = False) -> None:
    """Warns, in one line, of pictures in a folder that are passed over for their endings."""
    found: Counter[str] = Counter()
    with contextlib.suppress(OSError):  # who reads the folder says what is wrong with it
        for path in folder.rglob("*") if recursive else folder.iterdir():
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.suffix.lower() in OTHERS and not hidden and path.is_file():
                found[path.suffix.lower()] += 1
    if found:
        listing = ", ".join(f"{count} {suffix}" for suffix, count in sorted(found.items()))
        print(
            f"warning: {shown(folder)}: {found.total()} pictures passed over for their endings ({listing}): "
            "save them as JPEG, PNG or TIFF to have them read",
            file=sys.stderr,
        )
