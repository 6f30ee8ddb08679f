"""A real Chromium without a window, driven by selenium, and what tests ask of a page in it."""

import json
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest

SECONDS = 120  # on a machine that is busy


def start(folder, width: int = 1280, height: int = 900):
    """A browser that saves downloads in `folder`; skips the test where selenium or Chromium is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--window-size={width},{height}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def until(question: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """The first answer that is true. Elements may be replaced while they are asked: then it asks again."""
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if answer := question():
                return answer
        except (NoSuchElementException, StaleElementReferenceException):
            pass
        time.sleep(0.05)
    raise TimeoutError(f"nothing within {seconds} s")


def find(browser, selector: str) -> list:
    """All elements of a CSS selector, in order."""
    return browser.find_elements("css selector", selector)


def text(browser, selector: str) -> str:
    """What the first element of a CSS selector shows."""
    return browser.find_element("css selector", selector).text


def picture(browser, selector: str) -> str:
    """The address of a picture that is loaded and in sight, else nothing."""
    return browser.execute_script(
        "const i = document.querySelector(arguments[0]);"
        "return i && i.complete && i.naturalWidth && i.offsetParent ? i.src : ''",
        selector,
    )


def addresses(browser) -> set[str]:
    """Whatever the browser asked for since this was last called."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {
        message["params"].get("url") or message["params"]["request"]["url"]
        for message in messages
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated")
    }
