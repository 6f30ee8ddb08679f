"""`predict --report`: a page that works alone, as Chromium shows it."""

import csv
from pathlib import Path
from urllib.parse import urlsplit

import browser as browsers
import jax.numpy as jnp
import numpy as np
import pytest
from browser import addresses, find, text, until
from drawn_network import drawn
from PIL import Image

from jaxdbd import inference, weights
from jaxdbd.__main__ import main
from jaxdbd.network.model import DepthDistilledDBD

pytestmark = pytest.mark.slow  # a browser


@pytest.fixture
def brightness(monkeypatch, tmp_path):
    """Weights whose network is brightness, threshold 0.5."""

    def compiled(model):
        return lambda variables, images: inference.SquareMaps(
            jnp.mean(images / 255, axis=-1), images[..., 0] / np.float32(255), None
        )

    monkeypatch.setattr(inference, "compiled", compiled)
    model = DepthDistilledDBD("lite0", full_resolution=False, size=64)
    weights.save(tmp_path / "w.safetensors", model, drawn(model), dataset="", license="", threshold=0.5)
    return tmp_path / "w.safetensors"


@pytest.fixture
def browser(tmp_path):
    driver = browsers.start(tmp_path)
    yield driver
    driver.quit()


def names(browser) -> list[str]:
    return [element.text for element in find(browser, ".sheet-name")]


def test_a_report_sorts_filters_and_fetches_nothing(brightness, browser, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, box in {
        "face": (30, 30, 46, 44),
        "border": (0, 54, 96, 64),
        "dark": (0, 0, 0, 0),
        "all": (0, 0, 96, 64),
    }.items():
        picture = Image.new("RGB", (96, 64))
        picture.paste("white", box)
        picture.save(folder / f"{name}.png")
    (folder / "</script><b>").mkdir(parents=True)  # two folders; their path would end a script in HTML
    (folder / "</script><b>" / "x.png").write_text("no picture")
    command = ["predict", folder, "--recursive", "--out", tmp_path / "out", "--weights", brightness]
    command += ["--csv", tmp_path / "rows.csv", "--report", tmp_path / "a" / "report.html"]
    assert main([str(part) for part in command]) == 1

    browser.get((tmp_path / "a" / "report.html").as_uri())
    until(lambda: len(find(browser, "figure")) == 5)
    broken = "</script><b>/x.png"
    assert names(browser)[:2] in (["face.png", "all.png"], ["all.png", "face.png"])
    assert names(browser)[2:] == ["border.png", "dark.png", broken]
    buttons = [button.text for button in find(browser, ".sheet-bar button")]
    assert buttons == [
        "all 5",
        *(
            f"{what} 1"
            for what in ("subject in focus", "subject missed?", "nothing in focus", "all in focus", "cannot be read")
        ),
    ]
    find(browser, ".sheet-bar button")[3].click()
    assert names(browser) == ["dark.png"]
    find(browser, ".sheet-bar button")[5].click()
    with (tmp_path / "rows.csv").open() as file:
        rows = {str(Path(row["path"]).relative_to(folder)): row for row in csv.DictReader(file)}
    assert text(browser, "figure p") == rows[broken]["error"] != ""
    find(browser, ".sheet-bar button")[0].click()
    find(browser, "select option")[3].click()
    assert names(browser) == sorted(names(browser))
    shares = [element.text for element in find(browser, ".sheet-facts")]
    for name, facts in zip(names(browser), shares, strict=True):
        if not rows[name]["error"]:
            assert f"{round(100 * float(rows[name]['fraction_in_focus']))} % in focus" in facts
    assert {urlsplit(address).scheme for address in addresses(browser)} == {"file", "data"}
    assert not browser.get_log("browser")


def test_many_photographs_are_drawn_as_the_page_is_scrolled(brightness, browser, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(150):
        Image.new("RGB", (48, 32), (i, i, i)).save(folder / f"{i}.png")
    command = ["predict", folder, "--out", tmp_path / "out", "--weights", brightness, "--report", tmp_path / "r.html"]
    assert main([str(part) for part in command]) == 0
    browser.get((tmp_path / "r.html").as_uri())
    assert 0 < until(lambda: len(find(browser, "figure"))) < 150

    def scrolled_to_all():
        browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
        return len(find(browser, "figure")) == 150

    until(scrolled_to_all)
    assert len(set(names(browser))) == 150
