"""A page as a person sees it: in a headless Chromium, where this machine has one."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest


def opened(page: Path, profile: Path) -> AbstractContextManager[Any]:
    """A selenium driver that shows an HTML file; see :func:`opened_at`."""
    return opened_at(page.as_uri(), profile)


@contextmanager
def opened_at(address: str, profile: Path) -> Iterator[Any]:
    """A selenium driver that shows a page 1280 px wide; the test is skipped without chromium and chromedriver.

    Args:
        address: of the page.
        profile: folder for the browser's own files.
    """
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no chromium with chromedriver on this machine: the page was not opened in a browser")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1280,900",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    try:
        driver.get(address)
        yield driver
    finally:
        driver.quit()


def beyond(driver: Any, width: int) -> int:
    """By how many pixels a page is wider than a screen of that width."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    return int(driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth"))


def cut_off(driver: Any, width: int, media: str = "screen") -> list[str]:
    """The beginnings of the tables that such a page would have to scroll; paper cannot."""
    beyond(driver, width)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
    wide = "[...document.querySelectorAll('.wide')].filter(each => each.scrollWidth > each.clientWidth + 1)"
    found = driver.execute_script(f"return {wide}.map(each => each.innerText.slice(0, 60))")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    return list(found)


def printed_pages(driver: Any) -> int:
    """How many sheets of A4 a page takes."""
    paper = {"printBackground": True, "paperWidth": 8.27, "paperHeight": 11.69}
    return base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", paper)["data"]).count(b"/Type /Page\n")
