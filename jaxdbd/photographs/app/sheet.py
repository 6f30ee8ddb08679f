"""The contact sheet: what it shows of a photograph, and the sheet as one self-contained page."""

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxdbd.input.geometry import resize, size_within, to_size
from jaxdbd.photographs.culling import Sharpness, sharpness, verdict
from jaxdbd.photographs.overlay import OUTLINE, outlined_levels
from jaxdbd.photographs.predicted import Predicted, Row

THUMBNAIL = 320  # pixels of the longer side, if the network's square has as many
# 0: what is in focus, as it is; 1: the rest, darker; 2: the line between them.
VEIL = ((0, 0, 0, 0), (0, 0, 0, 170), (*OUTLINE, 255))

PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>body { margin: 0; padding: 16px; }
$css</style>
<body>
<h1>$title</h1>
<div id="sheet"></div>
<script>$js
contactSheet(document.getElementById("sheet")).add($cells);</script>
</body>
</html>
""")


@dataclass(frozen=True)
class Entry:
    """A photograph on the sheet."""

    name: str
    row: Row  # of the CSV
    found: Sharpness | None = None  # None for a photograph that could not be read, as all below
    size: tuple[int, int] | None = None  # (height, width)
    thumbnail: bytes = b""  # JPEG
    veil: bytes = b""  # PNG to lay over the thumbnail: dark where it is not in focus


def entry_of(name: str, photograph: Predicted, threshold: float, row: Row) -> Entry:
    """What the sheet shows of a photograph. `row` is that of `write_prediction`.

    The thumbnail is the square that the network saw, back in the photograph's proportions: so nothing is read again.
    """
    small = size_within(photograph.size, min(THUMBNAIL, len(photograph.square)))
    return Entry(
        name,
        row,
        sharpness(photograph.focus, threshold),
        photograph.size,
        jpeg(resize(photograph.square, small), quality=78),
        _veil(outlined_levels(to_size(photograph.focus, small) > threshold)),
    )


def jpeg(pixels: UInt8[np.ndarray, "h w ..."], quality: int) -> bytes:
    """RGB [h, w, 3] or gray [h, w] as a JPEG file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


def _veil(levels: UInt8[np.ndarray, "h w"]) -> bytes:
    picture = Image.fromarray(levels)
    picture.putpalette([value for color in VEIL for value in color[:3]])
    out = io.BytesIO()
    picture.save(out, "PNG", transparency=bytes(color[3] for color in VEIL), optimize=True)
    return out.getvalue()


def cell(entry: Entry, number: int, thumbnail: str, veil: str) -> dict[str, Any]:
    """What sheet.js needs of the entry with this number; `thumbnail` and `veil` are the addresses of the two."""
    if entry.found is None or entry.size is None:
        return {"number": number, "name": entry.name, "verdict": "cannot be read", "error": entry.row.error}
    height, width = entry.size
    return {
        "number": number,
        "name": entry.name,
        "verdict": verdict(entry.found),
        "sharpness": round(entry.found.score, 4),
        "share": float(entry.row.fraction_in_focus),
        "size": f"{width} x {height}",
        "thumbnail": thumbnail,
        "veil": veil,
    }


def report(entries: Sequence[Entry], title: str) -> str:
    """The sheet as one HTML page that fetches nothing: pictures inside it, sorted and filtered by its own script."""
    cells = [
        cell(entry, number, _data(entry.thumbnail, "jpeg"), _data(entry.veil, "png"))
        for number, entry in enumerate(entries)
    ]
    here = files("jaxdbd.photographs.app") / "static"
    return PAGE.substitute(
        title=html.escape(title),
        css=(here / "sheet.css").read_text(),
        js=(here / "sheet.js").read_text(),
        cells=json.dumps(cells).replace("<", "\\u003c"),  # a name may hold "</script>"
    )


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
