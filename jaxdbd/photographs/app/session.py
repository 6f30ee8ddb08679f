"""What one open page holds: its photographs, what the sheet shows of them, and the one that is looked at."""

import contextlib
import os
import queue
import tempfile
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from jaxdbd import weights
from jaxdbd.errors import UserError
from jaxdbd.inference import predict_maps
from jaxdbd.input.geometry import size_within, to_size
from jaxdbd.machine.files import shown
from jaxdbd.network.model import DepthDistilledDBD
from jaxdbd.photographs.app.sheet import Entry, entry_of, jpeg
from jaxdbd.photographs.overlay import overlay
from jaxdbd.photographs.photos import find_photographs, reduced_photograph
from jaxdbd.photographs.predicted import Predicted, Row, csv_text, predict_photographs, write_prediction

PREVIEW = 1600  # pixels of the longer side of what is shown of one photograph
loading = threading.Lock()


class Network(NamedTuple):
    """Weights that are ready to be used."""

    name: str
    model: DepthDistilledDBD
    variables: weights.Variables
    threshold: float  # that came with the weights


def network(name: str) -> Network:
    """The network of these weights, loaded and compiled once. Raises UserError as `weights.load` does."""
    with loading:
        return _network(name)


@lru_cache(maxsize=4)
def _network(name: str) -> Network:
    model, variables = weights.load(name)
    next(predict_maps(model, variables, [np.zeros((model.size, model.size, 3), np.uint8)]))
    return Network(name, model, variables, weights.read_metadata(name).threshold)


class Source(NamedTuple):
    """A photograph that was given: uploaded, or of the folder."""

    name: str  # as it is shown
    path: Path
    uploaded: bool

    def line(self, message: UserError | str) -> str:
        """The message as `predict` gives it, with an upload's own name in place of the path where it was put."""
        return str(message).replace(shown(self.path), self.name) if self.uploaded else str(message)


class Photograph(NamedTuple):
    """One photograph as it is looked at: everything that a move of the threshold needs."""

    number: int
    predicted: Predicted
    preview: UInt8[np.ndarray, "h w 3"]
    focus: Float32[np.ndarray, "h w"]  # at the size of the preview


@dataclass
class Session:
    """One open page. Its folder has the uploads, and is deleted with it."""

    network: Network
    known: dict[Any, Entry] = field(default_factory=dict)  # entries of the folder's photographs, for all pages
    folder: tempfile.TemporaryDirectory = field(default_factory=lambda: tempfile.TemporaryDirectory(prefix="jaxdbd-"))
    sources: list[Source] = field(default_factory=list)  # a photograph's number is its place here
    entries: dict[int, Entry] = field(default_factory=dict)  # by number, in the order in which they were done
    pending: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)  # numbers that are to be predicted
    generation: int = 0  # goes up when other weights make all entries void
    looked_at: Photograph | None = None
    closed: bool = False


def add_upload(session: Session, name: str) -> tuple[int, Path]:
    """The number of a new photograph, and where its bytes are to be written."""
    number = len(session.sources)
    path = Path(session.folder.name) / f"{number}{Path(name).suffix.lower()[:8]}"
    session.sources.append(Source(shown(name), path, True))
    return number, path


def add_folder(session: Session, folder: Path) -> None:
    """Puts all photographs in and below a folder on the sheet. Raises UserError as `find_photographs` does."""
    for path in find_photographs([str(folder)], Path(session.folder.name), recursive=True):
        session.pending.put(len(session.sources))
        session.sources.append(Source(shown(path.relative_to(folder)), path, False))


def use_weights(session: Session, chosen: Network) -> None:
    """Makes other weights the page's; everything is to be predicted anew."""
    session.network, session.looked_at = chosen, None
    session.generation += 1
    session.entries = {}
    for number in range(len(session.sources)):
        session.pending.put(number)


def close(session: Session) -> None:
    """Ends the work and deletes the uploads."""
    session.closed, session.looked_at = True, None
    session.folder.cleanup()


def work(session: Session) -> None:
    """Predicts what is pending, until nothing is. One thread of a session at a time runs it."""
    while not session.closed and (numbers := _drain(session.pending)):
        used, generation = session.network, session.generation
        waiting = {}
        for number in numbers:
            source = session.sources[number]
            if not source.uploaded and (entry := session.known.get(_state(source.path, used))):
                session.entries[number] = entry
            elif number not in session.entries:
                waiting[source.path] = number

        def finish(predicted, used=used, waiting=waiting):
            return _entry(session.sources[waiting[predicted.path]].name, predicted, used.threshold)

        with contextlib.closing(predict_photographs(used.model, used.variables, waiting, finish)) as results:
            for path, result in results:
                if session.closed or generation != session.generation:
                    break  # `use_weights` has put all of them in line again
                source = session.sources[waiting[path]]
                failed = isinstance(result, UserError)
                entry = Entry(source.name, Row(error=source.line(result))) if failed else result
                session.entries[waiting[path]] = entry
                if not source.uploaded:
                    session.known[_state(path, used)] = entry


def _drain(pending: queue.SimpleQueue) -> list[int]:
    numbers = []
    while not pending.empty():
        numbers.append(pending.get())
    return numbers


def _state(path: Path, used: Network) -> tuple:
    """What an entry of the folder depends on; a file that has gone, or may not be seen, has no time."""
    with contextlib.suppress(OSError):
        return used.name, path, os.stat(path).st_mtime_ns
    return used.name, path, None


def _entry(name: str, predicted: Predicted, threshold: float) -> Entry:
    return entry_of(name, predicted, threshold, write_prediction(predicted, Path(), (), threshold))


def look(session: Session, number: int) -> Photograph:
    """Runs the network on one photograph, to be looked at. Raises UserError where it cannot be read.

    Either way it is on the sheet afterwards.
    """
    source, used, generation = session.sources[number], session.network, session.generation
    try:
        with reduced_photograph(source.path, side := used.model.size) as (picture, size, remark):
            square = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
            small = size_within(size, min(PREVIEW, max(picture.size)))
            preview = np.asarray(picture.resize((small[1], small[0]), Image.Resampling.BICUBIC, reducing_gap=2))
    except UserError as error:
        line = source.line(error)
        session.entries.setdefault(number, Entry(source.name, Row(error=line)))
        raise UserError(line) from error
    del picture
    maps = next(predict_maps(used.model, used.variables, [square]))
    predicted = Predicted(source.path, size, square, *maps, source.line(remark))
    if number not in session.entries and generation == session.generation:
        session.entries[number] = _entry(source.name, predicted, used.threshold)
    return Photograph(number, predicted, preview, to_size(predicted.focus, small))


def overlay_jpeg(photograph: Photograph, threshold: float) -> bytes:
    """The preview with what is above the threshold outlined."""
    return jpeg(overlay(photograph.preview, photograph.focus > threshold), quality=88)


def table(session: Session) -> str:
    """The CSV of what is done, as `predict` writes it, in the sources' order."""
    rows = []
    for number, entry in sorted(session.entries.items()):
        source = session.sources[number]
        rows.append([source.name if source.uploaded else source.path, *entry.row])
    return csv_text(rows)
