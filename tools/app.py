"""Draws docs/app.png: the page of `jaxdbd app` at 1280 and at 400 pixels width, and its contact sheet.

    python -m tools.app

The photographs are those of docs/gallery.md. Needs selenium, chromium and chromedriver.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import skimage.data
from PIL import Image
from selenium import webdriver
from skimage.color import gray2rgb

from data import synthetic
from jaxdbd.machine.startup import exit_status

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chelsea", "coffee", "astronaut", "rocket", "coins", "grass", "brick")
SIGHT = "const i = document.querySelector('{}'); return i && i.complete && i.naturalWidth && i.offsetParent !== null"
WAIT = 600  # seconds


def until(question: Callable[[], object]) -> None:
    """Waits for a yes. Raises TimeoutError."""
    end = time.monotonic() + WAIT
    while not question():
        if time.monotonic() > end:
            raise TimeoutError(f"no answer within {WAIT} s")
        time.sleep(0.2)


def write_photographs(folder: Path) -> None:
    """Seven photographs of scikit-image and four rendered scenes."""
    pictures = {name: getattr(skimage.data, name)() for name in NAMES}
    pictures = {name: gray2rgb(picture) if picture.ndim == 2 else picture for name, picture in pictures.items()}
    scenes = synthetic.scenes(train=0, test=4, size=384, seed=2020)["test"]
    pictures |= {f"scene{i}": synthetic.render(scene)[0] for i, scene in enumerate(scenes)}
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.jpg", quality=92)


def screenshots(address: str, number: int) -> list[Image.Image]:
    """The page with one photograph, the sheet, and the page on a telephone."""
    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.binary_location = shutil.which("chromium") or "chromium"
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))

    def shot():
        time.sleep(1)  # transitions
        return Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")

    def resize(width, height):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    try:
        resize(1280, 1000)
        driver.get(address)
        until(lambda: len(driver.find_elements("css selector", ".sheet-name")) == number)
        until(lambda: driver.execute_script(SIGHT.format(".sheet-photo img")))
        sheet = shot()
        names = driver.find_elements("css selector", ".sheet-name")
        next(name for name in names if name.text == "chelsea.jpg").click()
        until(lambda: driver.execute_script(SIGHT.format(".overlay")) and driver.execute_script(SIGHT.format(".depth")))
        driver.execute_script("window.scrollTo(0, 0)")
        one = shot()
        resize(400, 1000)
        return [one, sheet, shot()]
    finally:
        driver.quit()


def main() -> None:
    """Serves, looks and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args()
    address = f"http://127.0.0.1:{args.port}"

    def answers():
        try:
            return urllib.request.urlopen(address)
        except urllib.error.URLError:
            return None

    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder))
        command = [sys.executable, "-m", "jaxdbd", "app", f"--port={args.port}", f"--folder={folder}"]
        with subprocess.Popen(command, cwd=ROOT) as server:
            try:
                until(answers)
                pictures = screenshots(address, len(NAMES) + 4)
            finally:
                server.terminate()
    pictures = [picture.resize((picture.width // 2, picture.height // 2)) for picture in pictures]
    wide = Image.new("RGB", (sum(p.width + 12 for p in pictures) - 12, pictures[0].height), "white")
    left = 0
    for picture in pictures:
        wide.paste(picture, (left, 0))
        left += picture.width + 12
    wide.save(ROOT / "docs" / "app.png", optimize=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
