"""The page: one photograph, large, with a slider for the threshold; or all of them, as a contact sheet."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nicegui import ui

from jaxdbd.errors import UserError
from jaxdbd.photographs.app import session as sessions_of
from jaxdbd.photographs.app.session import Photograph, Session
from jaxdbd.photographs.app.sheet import Entry, cell
from jaxdbd.photographs.culling import verdict

HEAD = """<link rel="stylesheet" href="/jaxdbd/sheet.css"><link rel="stylesheet" href="/jaxdbd/page.css">
<script src="/jaxdbd/sheet.js"></script><script src="/jaxdbd/page.js"></script>"""
DOWNLOADS = {
    ".png": "map",
    ".binary.png": "mask",
    ".overlay.jpg": "overlay",
    ".depth.png": "depth",
    "_blur.png": "blur",
}
ONE, ALL = "Photograph", "Contact sheet"
SUFFIXES = "image/*,.heic,.heif,.tif,.tiff"


class Slider(ui.slider):
    """A slider that moves at once, and tells the server afterwards."""

    LOOPBACK = False


@dataclass
class Page:
    """The parts of an open page that its events need."""

    session: Session
    view: ui.toggle
    note: ui.label  # errors, and what is being waited for
    show: Callable[[Photograph | None], None]
    wanted: int = -1  # number of the photograph that was chosen last
    working: asyncio.Lock = field(default_factory=asyncio.Lock)


def build(
    sessions: dict[str, Session], known: dict[Any, Entry], weights: str, choices: list[str], folder: Path | None
) -> None:
    """Builds the page that a browser has opened. Its session is in `sessions` until it is closed."""
    ui.add_head_html(HEAD)
    with ui.element("header").classes("bar"):
        ui.label("jaxdbd").classes("title")
        view = ui.toggle([ONE, ALL], value=ALL if folder else ONE).props("no-caps")
        choose = ui.button("Choose photographs").props("no-caps")
        chosen = ui.select(choices, value=weights, label="weights").props("dense outlined").classes("weights")
    choose.on("click", js_handler='() => document.querySelector(".chooser").click()')
    ui.element("input").props(f'type=file multiple accept="{SUFFIXES}"').classes("chooser")
    note = ui.label(f"loading {weights} ...").classes("note")
    one = ui.element("main").bind_visibility_from(view, "value", value=ONE)
    every = ui.element("main").bind_visibility_from(view, "value", value=ALL)
    client = ui.context.client

    async def begin() -> None:
        token = secrets.token_urlsafe(16)
        session = sessions[token] = Session(await asyncio.to_thread(sessions_of.network, weights), known)

        def close() -> None:
            sessions_of.close(session)
            sessions.pop(token, None)

        client.on_delete(close)
        note.set_text("")
        with one:
            page = Page(session, view, note, one_photograph(session, token))
        with every:
            contact_sheet(session, token)
        ui.on("uploaded", lambda event: uploaded(page, *event.args))
        ui.on("refused", lambda event: note.set_text(f"error: {event.args}"))
        ui.on("looked_at", lambda event: look(page, event.args))
        chosen.on_value_change(lambda event: change_weights(page, event.value))
        ui.run_javascript(f"acceptPhotographs('/photographs/{token}')")
        if folder:
            try:
                await asyncio.to_thread(sessions_of.add_folder, session, folder)
            except UserError as error:
                note.set_text(f"error: {error}")
            await keep_working(page)

    ui.timer(0, begin, once=True)  # once the browser is there


async def look(page: Page, number: int) -> None:
    """Shows one photograph, or the line that says why it cannot be read."""
    page.wanted, generation = number, page.session.generation
    page.view.set_value(ONE)
    page.note.set_text(f"{page.session.sources[number].name} ...")
    photograph = None
    try:
        photograph = await asyncio.to_thread(sessions_of.look, page.session, number)
    except UserError as error:
        line = f"error: {error}"
    else:
        line = f"warning: {photograph.predicted.remark}" if photograph.predicted.remark else ""
    if (number, generation) == (page.wanted, page.session.generation):  # nothing else was chosen meanwhile
        page.session.looked_at = photograph
        page.note.set_text(line)
        page.show(photograph)


async def uploaded(page: Page, number: int, alone: bool) -> None:
    """A photograph has come: one alone is looked at, those of many go on the sheet."""
    if alone:
        await look(page, number)
        return
    page.view.set_value(ALL)
    page.session.pending.put(number)
    await keep_working(page)


async def keep_working(page: Page) -> None:
    """Predicts what is pending, in one thread of this page."""
    async with page.working:
        await asyncio.to_thread(sessions_of.work, page.session)


async def change_weights(page: Page, name: str) -> None:
    """Predicts everything on the page anew with other weights."""
    page.note.set_text(f"loading {name} ...")
    try:
        found = await asyncio.to_thread(sessions_of.network, name)
    except UserError as error:
        page.note.set_text(f"error: {error}")
        return
    page.note.set_text("")
    sessions_of.use_weights(page.session, found)
    if page.view.value == ONE and page.wanted >= 0:
        await look(page, page.wanted)
    else:
        page.show(None)
    await keep_working(page)


def one_photograph(session: Session, token: str) -> Callable[[Photograph | None], None]:
    """Builds the view of one photograph; returns the function that shows one in it, or clears it."""
    hint = ui.label("Drop photographs anywhere on this page, paste one, or choose some.").classes("hint")
    box = ui.element("div").classes("one")
    with box:
        with ui.element("div").classes("large"):
            large = ui.element("img").props('alt="what is in focus, outlined"').classes("overlay")
            with ui.element("div").classes("threshold"):
                ui.label("threshold")
                slider = Slider(min=0.01, max=0.99, step=0.01, value=0.5)
                value = ui.label().classes("value")
                back = ui.button("reset").props("flat dense no-caps")
        with ui.element("div").classes("facts"):
            name = ui.label().classes("name")
            share = ui.label().classes("share")
            ui.label("in focus")
            told = ui.label().classes("told")
            with ui.element("div").classes("downloads"):
                links = {ending: ui.link(title, "").props("download") for ending, title in DOWNLOADS.items()}
        _, focus = figure("focus", "map", "probability of being in focus")
        others = {
            "depth": (*figure("depth", "depth", "relative depth"), links[".depth.png"]),
            "blur": (*figure("blur", "blur", "width of the blur in pixels"), links["_blur.png"]),
        }
    box.set_visibility(False)

    def at_threshold() -> None:
        photograph, threshold = session.looked_at, slider.value
        if photograph is None:
            return
        own = f"/photographs/{token}/looked_at/{photograph.number}"
        large.props["src"] = f"{own}/overlay?threshold={threshold}&of={session.generation}"
        value.set_text(f"{threshold:.2f}")
        part = float((photograph.focus > threshold).mean())
        share.set_text("<1 %" if 0 < part < 0.01 else f"{100 * part:.0f} %")
        for ending, link in links.items():
            link.props["href"] = f"/photographs/{token}/download/{photograph.number}/{ending}?threshold={threshold}"

    def show(photograph: Photograph | None) -> None:
        box.set_visibility(photograph is not None)
        hint.set_visibility(photograph is None)
        if photograph is None:
            return
        own = f"/photographs/{token}/looked_at/{photograph.number}"
        focus.props["src"] = f"{own}/focus?of={session.generation}"
        for kind, (frame, image, link) in others.items():
            found = getattr(photograph.predicted, kind) is not None
            image.props["src"] = f"{own}/{kind}?of={session.generation}" if found else ""
            for element in (frame, link):
                element.set_visibility(found)
        entry = session.entries[photograph.number]
        height, width = photograph.predicted.size
        name.set_text(f"{entry.name}, {width} x {height}")
        told.set_text(sharpness_line(entry))
        slider.set_value(session.network.threshold)
        at_threshold()

    slider.on_value_change(at_threshold)
    back.on_click(lambda: slider.set_value(session.network.threshold))
    return show


def figure(kind: str, alt: str, caption: str) -> tuple[ui.element, ui.element]:
    """A small picture with its caption: the box, and the image in it, whose source is still to be set."""
    with ui.element("figure") as box:
        image = ui.element("img").props(f"alt={alt}").classes(kind)
        ui.label(caption)
    return box, image


def contact_sheet(session: Session, token: str) -> None:
    """Builds the sheet, and sends it twice a second what has been done since."""
    progress = ui.linear_progress(0, show_value=False).classes("progress")
    left = ui.label().classes("left")
    ui.element("div").props("id=sheet")
    own = f"/photographs/{token}"
    ui.run_javascript(
        f"window.sheet = contactSheet(document.getElementById('sheet'),"
        f" {{open: (number) => emitEvent('looked_at', number), csv: '{own}/photos.csv'}})"
    )
    sent: set[int] = set()
    generation, begun, before = 0, time.monotonic(), 0

    def send() -> None:
        nonlocal generation, begun, before
        if generation != session.generation:
            generation, begun, before = session.generation, time.monotonic(), 0
            sent.clear()
            ui.run_javascript("window.sheet.clear()")
        new = [number for number in list(session.entries) if number not in sent]
        if new:
            sent.update(new)
            at = f"of={generation}"
            cells = [cell(session.entries[n], n, f"{own}/{n}/thumbnail?{at}", f"{own}/{n}/veil?{at}") for n in new]
            ui.run_javascript(f"window.sheet.add({json.dumps(cells)})")
        done, total = len(sent), len(session.sources)
        progress.set_visibility(done < total)
        left.set_visibility(done < total)
        if done == total:
            begun, before = time.monotonic(), done
        elif done > before:
            seconds = (time.monotonic() - begun) / (done - before) * (total - done)
            progress.set_value(done / total)
            left.set_text(f"{done} of {total}, about {seconds:.0f} s to go")

    ui.timer(0.5, send)


def sharpness_line(entry: Entry) -> str:
    """The score and the verdict of a photograph that could be read."""
    return f"sharpness {entry.found.score:.2f}, {verdict(entry.found)}" if entry.found else ""
