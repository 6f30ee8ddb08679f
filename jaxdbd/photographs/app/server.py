"""The server of the page: for this machine alone, and what its addresses answer."""

import socket
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from fastapi import HTTPException, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from jaxtyping import UInt8
from nicegui import app, ui
from starlette.background import BackgroundTask
from starlette.middleware.trustedhost import TrustedHostMiddleware

from jaxdbd.errors import UserError
from jaxdbd.inference import pixels_of_blur
from jaxdbd.input.geometry import to_size
from jaxdbd.machine.startup import end
from jaxdbd.photographs.app import page
from jaxdbd.photographs.app.session import Photograph, Session, add_upload, close, network, overlay_jpeg, table
from jaxdbd.photographs.app.sheet import Entry, jpeg
from jaxdbd.photographs.overlay import blur_picture, depth_picture
from jaxdbd.photographs.predicted import write_prediction

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
LARGEST = 1 << 30  # bytes of an upload
# The browser itself then fetches nothing from elsewhere. Vue compiles templates: unsafe-eval.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"


def serve(weights: str, choices: list[str], port: int, folder: Path | None, names: Sequence[str] = ()) -> None:
    """Serves the page until it is interrupted, also to browsers that know this machine by one of `names`.

    Raises UserError where the port is taken.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError as error:
            raise UserError(f"--port={port}: cannot be used ({error.strerror}); give another") from error
    # While the browser opens.
    threading.Thread(target=network, args=(weights,), daemon=True).start()
    sessions: dict[str, Session] = {}
    known: dict[Any, Entry] = {}

    app.add_middleware(own_origin, names=names)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*NAMES, *names])  # on any port: it may be forwarded
    app.add_static_files("/jaxdbd", str(files("jaxdbd.photographs.app") / "static"), max_cache_age=0)
    add_routes(sessions)
    app.on_shutdown(lambda: [close(session) for session in sessions.values()])
    app.on_shutdown(end_soon)
    print(f"http://{HOST}:{port}  (Ctrl-C ends it)", flush=True)
    ui.run(
        partial(page.build, sessions, known, weights, choices, folder),
        host=HOST,
        port=port,
        title="jaxdbd",
        dark=True,
        reload=False,
        show=False,
        tailwind=False,
        gzip_middleware_factory=None,  # pictures do not get smaller, and the network is this machine's own
        show_welcome_message=False,
        reconnect_timeout=5,
    )


def end_soon() -> None:
    """Ends the program in a second if it has not by then: a network that is being compiled would be waited for."""
    timer = threading.Timer(1.0, end, [130])
    timer.daemon = True
    timer.start()


def may_ask(origin: str, host: str, names: Collection[str]) -> bool:
    """Whether a page of `origin` may use what it asked for as `host`.

    It may if it came from there itself, on whatever port a browser reaches us: then both say the same. A page under
    one of `names` may, too, since what forwards it may say another host.
    """
    try:
        parts = urlsplit(origin)
        known = parts.hostname in names and parts.scheme in ("http", "https")
    except ValueError:
        return False
    return known or (parts.scheme == "http" and parts.netloc == host)


def own_origin(inner: Callable, names: Collection[str]) -> Callable:
    """An ASGI application that refuses what another site's page asks for, and lets the browser fetch from us alone."""

    async def guarded(scope, receive, send):
        headers = dict(scope.get("headers", ()))
        origin, host = (headers.get(name, b"").decode("latin-1") for name in (b"origin", b"host"))

        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", POLICY.encode())]
            await send(message)

        if scope["type"] in ("http", "websocket") and origin and not may_ask(origin, host, names):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await PlainTextResponse("a page of another site may not ask here", 403)(scope, receive, send)
            return
        await inner(scope, receive, send_with_policy)

    return guarded


def add_routes(sessions: Mapping[str, Session]) -> None:
    """Uploads in; pictures, files and the table out. A session's token is known to its page alone."""

    def session_of(token: str) -> Session:
        if token not in sessions:
            raise HTTPException(404, "this page was closed; load it again")
        return sessions[token]

    @app.post("/photographs/{token}")
    async def upload(token: str, name: str, request: Request) -> dict[str, int]:
        number, path = add_upload(session_of(token), Path(name).name or "photograph")
        length = 0
        with path.open("wb") as out:
            async for chunk in request.stream():
                length += len(chunk)
                if length > LARGEST:
                    path.unlink()
                    raise HTTPException(413, f"{name}: larger than {LARGEST >> 20} MB")
                out.write(chunk)
        return {"number": number}

    @app.get("/photographs/{token}/photos.csv")
    def photos_csv(token: str) -> Response:
        # A name of a file that is not UTF-8 stays the bytes that it has on disk.
        return Response(table(session_of(token)).encode("utf-8", "surrogateescape"), media_type="text/csv")

    @app.get("/photographs/{token}/{number}/{kind}")
    def of_sheet(token: str, number: int, kind: str) -> Response:
        entry = session_of(token).entries.get(number)
        if entry is None:
            raise HTTPException(404)
        content, media = {"thumbnail": (entry.thumbnail, "jpeg"), "veil": (entry.veil, "png")}[kind]
        return Response(content, media_type=f"image/{media}")

    @app.get("/photographs/{token}/looked_at/{number}/{kind}")
    def of_looked_at(token: str, number: int, kind: str, threshold: float = 0.5) -> Response:
        photograph = session_of(token).looked_at
        if photograph is None or photograph.number != number:
            raise HTTPException(404)
        if kind == "overlay":
            return Response(overlay_jpeg(photograph, threshold), media_type="image/jpeg")
        if kind == "focus":
            return Response(jpeg(np.rint(photograph.focus * 255).astype(np.uint8), quality=88), media_type="image/jpeg")
        picture = picture_of(photograph, kind)
        if picture is None:
            raise HTTPException(404)
        return Response(jpeg(picture, quality=88), media_type="image/jpeg")

    @app.get("/photographs/{token}/download/{number}/{ending}")
    def download(token: str, number: int, ending: str, threshold: float) -> Response:
        session = session_of(token)
        photograph = session.looked_at
        if photograph is None or photograph.number != number or ending not in page.DOWNLOADS:
            raise HTTPException(404)
        written = write_download(session, photograph, ending, threshold)
        stem = Path(session.sources[number].name).stem
        return FileResponse(written, filename=stem + ending, background=BackgroundTask(written.unlink, True))


def picture_of(photograph: Photograph, kind: str) -> UInt8[np.ndarray, "_ _ 3"] | None:
    """Its "depth" or "blur" as colors at the preview's size, in pixels of the photograph; None where it has none."""
    predicted, (height, width) = photograph.predicted, photograph.focus.shape
    if kind == "depth" and predicted.depth is not None:
        return depth_picture(to_size(predicted.depth, (height, width)))
    if kind == "blur" and predicted.blur is not None:
        pixels = pixels_of_blur(predicted.blur, (height, width))
        return blur_picture(pixels, max(predicted.size) / max(height, width))
    return None


def write_download(session: Session, photograph: Photograph, ending: str, threshold: float) -> Path:
    """Writes the file that `predict` would, under a name of its own in the session's folder. Raises HTTPException."""
    with tempfile.NamedTemporaryFile(dir=session.folder.name, delete=False) as place:
        name = Path(place.name)
    try:
        write_prediction(photograph.predicted, name, [ending], threshold)
    except UserError as error:  # the folder's photograph was changed or taken away meanwhile
        raise HTTPException(409, str(error)) from error
    finally:
        name.unlink()
    return name.with_name(name.name + ending)
