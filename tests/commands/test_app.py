"""`jaxdbd app` as people use it: the real command, in a real Chromium; brightness stands in for the network."""

import contextlib
import csv
import io
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import browser as browsers
import numpy as np
import pytest
from browser import addresses, find, picture, text, until
from drawn_network import drawn
from PIL import Image
from ports import free_port

from jaxdbd import weights
from jaxdbd.__main__ import main
from jaxdbd.network.model import DepthDistilledDBD

ROOT = Path(__file__).resolve().parents[2]
SIDE = 64
RAMP = np.linspace(0, 255, 90).astype(np.uint8)[None, :, None].repeat(60, axis=0).repeat(3, axis=2)  # dark to bright


class Served:
    """A running `jaxdbd app`."""

    def __init__(self, folder: Path, weights_file: Path, *flags: object):
        self.port = free_port()
        self.address, self.count, self.log = f"http://127.0.0.1:{self.port}", folder / "count", folder / "log"
        self.uploads = folder / "tmp"
        self.uploads.mkdir()
        command = [sys.executable, ROOT / "tests" / "counted_app.py", self.count, "--port", self.port]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [str(part) for part in (*command, "--weights", weights_file, *flags)],
            cwd=folder,
            env=environment | {"TMPDIR": str(self.uploads)},
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
        )

    def runs(self) -> int:
        """How often the network ran, the run to get it ready left out."""
        return len(self.count.read_bytes()) - 1

    def stop(self) -> str:
        self.process.terminate()
        self.process.wait(browsers.SECONDS)
        return self.log.read_text()


def serve(folder: Path, weights_file: Path, *flags: object):
    """Starts the command, waits until it answers, and sees that it ends without a traceback or leftovers."""
    served = Served(folder, weights_file, *flags)

    def answers():
        assert served.process.poll() is None, served.log.read_text()
        with contextlib.suppress(URLError):
            return urllib.request.urlopen(served.address).status == 200

    until(answers)
    yield served
    log = served.stop()
    assert "Traceback" not in log
    assert not list(served.uploads.glob("jaxdbd-*"))


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "bright.safetensors"
    model = DepthDistilledDBD("lite0", full_resolution=False, blur_head=True, size=SIDE)
    weights.save(path, model, drawn(model), dataset="", license="", threshold=0.4)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Three photographs, and one that was cut off."""
    folder = tmp_path_factory.mktemp("photographs")
    Image.fromarray(RAMP).save(folder / "ramp.png")
    Image.fromarray(RAMP[:, ::-1].repeat(2, axis=1)).save(folder / "wide.png")
    Image.new("RGB", (50, 40), (20, 20, 20)).save(folder / "dark.png")
    (folder / "cut.png").write_bytes((folder / "ramp.png").read_bytes()[:150])
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory, weights_file):
    yield from serve(tmp_path_factory.mktemp("served"), weights_file)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = browsers.start(tmp_path_factory.mktemp("downloads"))
    yield driver
    driver.quit()


@pytest.fixture
def page(served, browser):
    """The page, newly loaded and ready."""
    open_page(browser, served)
    return browser


def open_page(browser, served) -> None:
    browser.get(served.address)
    until(lambda: find(browser, ".sheet-bar") and text(browser, ".note") == "")


def choose(browser, *paths: Path) -> None:
    browser.find_element("css selector", ".chooser").send_keys("\n".join(map(str, paths)))


def fetched(address: str, **headers: str) -> bytes:
    return urllib.request.urlopen(urllib.request.Request(address, headers=headers)).read()


def predicted(out: Path, photograph: Path, weights_file: Path, monkeypatch, *flags: str) -> int:
    """What the command `predict` does with the same network."""
    import counted_app

    from jaxdbd import inference

    monkeypatch.setattr(sys, "argv", ["counted_app.py", str(out.with_name("count"))])
    monkeypatch.setattr(inference, "compiled", counted_app.compiled)
    return main(["predict", str(photograph), "--out", str(out), "--weights", str(weights_file), *flags])


# --- One photograph ---


@pytest.mark.slow
def test_a_photograph_is_shown_and_the_slider_runs_no_network(page, served, photographs):
    before = served.runs()
    choose(page, photographs / "ramp.png")
    first = until(lambda: picture(page, ".overlay"))
    until(lambda: all(picture(page, f".{kind}") for kind in ("focus", "depth", "blur")))
    assert served.runs() == before + 1
    assert text(page, ".share") == "60 %"  # of a ramp is above 0.4
    assert "ramp.png, 90 x 60" in text(page, ".facts")
    shown = Image.open(io.BytesIO(fetched(first)))
    assert shown.size == (90, 60)
    assert np.asarray(shown)[30, 70].mean() > 3 * np.asarray(shown)[30, 20].mean()

    for _ in range(20):  # steps of 0.01
        page.find_element("css selector", ".q-slider [tabindex]").send_keys("\ue014")
    until(lambda: text(page, ".share") == "40 %")
    second = until(lambda: picture(page, ".overlay") != first and picture(page, ".overlay"))
    assert fetched(second) != fetched(first)
    assert served.runs() == before + 1
    next(button for button in find(page, "button") if button.text == "reset").click()
    until(lambda: picture(page, ".overlay") == first)
    assert served.runs() == before + 1


@pytest.mark.slow
def test_downloads_are_the_files_that_predict_writes(page, photographs, weights_file, tmp_path, monkeypatch):
    choose(page, photographs / "wide.png")
    until(lambda: picture(page, ".overlay"))
    flags = ["--binary", "--overlay", "--depth", "--blur"]
    assert predicted(tmp_path / "out", photographs / "wide.png", weights_file, monkeypatch, *flags) == 0
    links = {link.get_attribute("href") for link in find(page, ".downloads a")}
    assert len(links) == 5
    for link in links:
        answer = urllib.request.urlopen(link)
        name = answer.headers["content-disposition"].split('"')[1]
        assert answer.read() == (tmp_path / "out" / name).read_bytes(), name


@pytest.mark.slow
def test_a_broken_file_has_the_line_of_predict(page, photographs, weights_file, tmp_path, monkeypatch, capsys):
    assert predicted(tmp_path / "out", photographs / "cut.png", weights_file, monkeypatch) == 1
    line = next(line for line in capsys.readouterr().err.splitlines() if line.strip().startswith("error: "))
    choose(page, photographs / "cut.png")
    until(lambda: text(page, ".note") == line.strip().replace(f"{photographs}/", ""))
    choose(page, photographs / "ramp.png")
    until(lambda: picture(page, ".overlay") and text(page, ".note") == "")


@pytest.mark.slow
def test_what_predict_warns_of_is_told(page, tmp_path):
    Image.fromarray(np.full((40, 60), 4095, np.uint16)).save(tmp_path / "dim.png")  # 12 bits in 16
    choose(page, tmp_path / "dim.png")
    until(lambda: text(page, ".note").startswith("warning: dim.png: its largest value is 4095"))
    until(lambda: picture(page, ".overlay"))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["drop", "paste"])
def test_photographs_are_dropped_and_pasted(page, photographs, way):
    content = list((photographs / "ramp.png").read_bytes())
    page.execute_script(
        """
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(arguments[0])], "given.png", {type: "image/png"}));
        document.body.dispatchEvent(arguments[1] === "drop"
          ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
          : new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
        """,
        content,
        way,
    )
    until(lambda: picture(page, ".overlay"))
    assert "given.png" in text(page, ".facts")


@pytest.mark.slow
def test_other_weights_are_chosen_in_the_page(page, served, photographs):
    choose(page, photographs / "ramp.png")
    first = until(lambda: picture(page, ".overlay"))
    before = served.runs()
    find(page, ".weights")[0].click()
    until(lambda: [option for option in find(page, ".q-item") if option.text == "lite"])[0].click()
    until(lambda: picture(page, ".overlay") not in ("", first))
    assert text(page, ".threshold .value") == f"{weights.read_metadata('lite').threshold:.2f}"
    assert served.runs() == before + 2  # to get it ready, and the photograph


# --- Many ---


@pytest.mark.slow
def test_several_photographs_become_a_sheet_with_their_table(page, photographs, weights_file, tmp_path, monkeypatch):
    names = ["ramp.png", "wide.png", "dark.png", "cut.png"]
    choose(page, *(photographs / name for name in names))
    until(lambda: len(find(page, "figure .sheet-name")) == 4)
    shown = [element.text for element in find(page, ".sheet-name")]
    assert set(shown[:2]) == {"ramp.png", "wide.png"}
    assert shown[2:] == ["dark.png", "cut.png"]
    counts = [button.text for button in find(page, ".sheet-bar button")]
    assert counts[0] == "all 4"
    assert {"nothing in focus 1", "cannot be read 1"} < set(counts)
    until(lambda: picture(page, ".sheet-photo img") and picture(page, ".sheet-veil"))

    found = fetched(find(page, ".sheet-bar a")[0].get_attribute("href")).decode()
    assert predicted(tmp_path / "out", photographs, weights_file, monkeypatch, f"--csv={tmp_path / 'rows.csv'}") == 1
    wanted = (tmp_path / "rows.csv").read_text().replace(f"{photographs}/", "")
    assert found.splitlines()[0] == wanted.splitlines()[0]
    assert sorted(found.splitlines()) == sorted(wanted.splitlines())

    find(page, "figure .sheet-name")[0].click()
    until(lambda: picture(page, ".overlay"))
    assert shown[0] in text(page, ".facts")


@pytest.mark.slow
def test_a_folder_is_on_the_sheet_at_once_and_twice_for_one_price(browser, photographs, weights_file, tmp_path):
    (tmp_path / "in" / "below").mkdir(parents=True)
    (tmp_path / "in" / "ramp.png").write_bytes((photographs / "ramp.png").read_bytes())
    odd = os.fsdecode(b"below/caf\xe9.png")  # not UTF-8
    (tmp_path / "in" / odd).write_bytes((photographs / "dark.png").read_bytes())
    for served in serve(tmp_path, weights_file, "--folder", tmp_path / "in"):
        for _ in range(2):
            browser.get(served.address)
            until(lambda: [x.text for x in find(browser, ".sheet-name")] == ["ramp.png", r"below/caf\xe9.png"])
            assert served.runs() == 2  # the second time nothing is predicted again
        table = fetched(find(browser, ".sheet-bar a")[0].get_attribute("href")).decode("utf-8", "surrogateescape")
        assert {row["path"] for row in csv.DictReader(io.StringIO(table))} == {
            str(tmp_path / "in" / name) for name in ("ramp.png", odd)
        }


# --- For this machine alone ---


@pytest.mark.slow
def test_uploads_are_gone_when_the_page_is_closed(served, browser, photographs):
    open_page(browser, served)
    other = browser.current_window_handle
    browser.switch_to.new_window("tab")
    open_page(browser, served)
    before = set(served.uploads.rglob("*"))  # of pages that other tests have closed just now
    choose(browser, photographs / "ramp.png")
    address = until(lambda: picture(browser, ".overlay"))
    content = (photographs / "ramp.png").read_bytes()
    kept = [path for path in served.uploads.rglob("*") if path.is_file() and path not in before]
    assert [path.read_bytes() for path in kept] == [content]
    browser.close()
    browser.switch_to.window(other)
    until(lambda: not kept[0].exists() and not kept[0].parent.exists(), seconds=30)
    with pytest.raises(HTTPError, match="404"):
        fetched(address)


@pytest.mark.slow
def test_two_at_once_each_see_their_own(served, browser, photographs, tmp_path):
    second = browsers.start(tmp_path)
    try:
        for driver in (browser, second):
            open_page(driver, served)
        choose(browser, photographs / "ramp.png")
        choose(second, photographs / "dark.png")
        for driver, name in ((browser, "ramp.png"), (second, "dark.png")):
            until(lambda driver=driver: picture(driver, ".overlay"))
            assert name in text(driver, ".facts")
    finally:
        second.quit()


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(browser, served, photographs):
    addresses(browser)  # of tests before
    open_page(browser, served)
    choose(browser, photographs / "ramp.png", photographs / "dark.png")
    until(lambda: len(find(browser, "figure .sheet-name")) == 2)
    asked = {urlsplit(address) for address in addresses(browser)}
    assert {part.scheme for part in asked} <= {"http", "ws", "data", "blob"}
    assert {part.netloc for part in asked if part.scheme in ("http", "ws")} == {f"127.0.0.1:{served.port}"}
    browser.execute_script("new Image().src = 'http://192.0.2.1/pixel.png'")
    until(lambda: any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser")))


@pytest.mark.slow
def test_other_hosts_and_other_sites_are_refused(served):
    assert fetched(served.address, Origin=served.address)
    for headers, status in (
        ({"Host": "evil.example"}, "400"),
        ({"Origin": "http://evil.example"}, "403"),
        ({"Origin": "null"}, "403"),
        ({"Origin": f"https://127.0.0.1:{served.port}"}, "403"),
    ):
        with pytest.raises(HTTPError, match=status):
            fetched(served.address, **headers)
        with pytest.raises(HTTPError, match=status):
            fetched(f"{served.address}/photographs/x?name=a", **headers)
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        socket_address = f"{served.address}/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
        with pytest.raises(HTTPError, match=status):
            fetched(socket_address, **upgrade, **{"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}, **headers)
    with pytest.raises(HTTPError, match="404"):
        fetched(f"{served.address}/photographs/guessed/photos.csv")
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", served.port))  # this machine too, under an address that is not bound


# --- Mistakes ---


def test_what_is_wrong_is_told_before_anything_is_served(weights_file, tmp_path, capsys, monkeypatch):
    pytest.importorskip("nicegui", reason="needs nicegui: pip install 'jaxdbd[app]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for flags, line in (
            (["--weights=none"], "error: no weights at none: "),
            (["--port=99999"], "error: --port: 99999 is not in [1, 65535]\n"),
            (["--port=0"], "error: --port: 0 is not in [1, 65535]\n"),
            (["--allow_host=http://box:80"], "error: --allow_host=http://box:80: give a name alone"),
            (["--allow_host=*"], "error: --allow_host=*: give a name alone"),
            ([f"--folder={tmp_path}"], f"error: {tmp_path}: no photographs"),
            ([f"--weights={weights_file}", f"--port={port}"], f"error: --port={port}: cannot be used"),
        ):
            assert main(["app", *flags]) == 1
            assert capsys.readouterr().err.startswith(line)
    monkeypatch.setitem(sys.modules, "nicegui", None)
    assert main(["app"]) == 1
    assert capsys.readouterr().err == "error: the page needs one more package: pip install 'jaxdbd[app]'\n"
