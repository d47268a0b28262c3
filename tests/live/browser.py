"""A real Chromium without a window, for tests of the page.

Most of selenium is imported with the first browser: it takes long, and is not there for whoever only looks for tests.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from installed import DRIVER, HOW_TO_ADD, chromium, missing_for_the_page
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

if TYPE_CHECKING:
    from selenium.webdriver.remote.webelement import WebElement

WITHIN_S = 30.0
POLL_S = 0.1
DESK, PHONE = 1200, 360


class Browser:
    """One page at a time."""

    def __init__(self, driver: "webdriver.Chrome") -> None:
        self.driver = driver

    def open(self, port: int, *, width: int = DESK, dark: bool = False) -> None:
        """The page of the server on that port, as new."""
        self.look(width=width, dark=dark)
        self.driver.get("about:blank")
        self.complaints()
        self.driver.get(f"http://127.0.0.1:{port}/")

    def look(self, *, width: int = DESK, dark: bool = False, height: int = 900) -> None:
        """As a screen of that size shows it, to who likes it dark or light."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def module(self, script: str) -> Any:
        """What an async function body returns, which may import the page's modules."""
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            f"(async () => {{{script}}})().then((value) => done({{value}}), (error) => done({{error: String(error)}}))"
        )
        assert "error" not in found, found
        return found.get("value")

    def find(self, selector: str) -> "WebElement":
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> "list[WebElement]":
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What is seen there; nothing where it is hidden."""
        return self.find(selector).text

    def table(self, selector: str) -> dict[str, list[str]]:
        """The cells of each row by its head."""
        rows = self.run(
            "return [...document.querySelector(arguments[0]).tBodies[0].rows]"
            ".map((row) => [...row.cells].map((cell) => cell.textContent))",
            selector,
        )
        return {name: cells for name, *cells in rows}

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def tab(self) -> str:
        """Go on by the tab key; what has the focus then: its id, or else what it is called."""
        self.press(Keys.TAB)
        found: str = self.run(
            "const at = document.activeElement;"
            "return at === document.body ? '' : at.closest('.chart')?.id && at.className === 'plot' ? "
            "`${at.closest('.chart').id} plot` : at.id || at.getAttribute('aria-label') || "
            "at.getAttribute('aria-labelledby') || at.textContent.trim()"
        )
        return found

    def complaints(self) -> list[str]:
        """What the browser had to complain about since the page was opened."""
        entries: list[dict[str, str]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries]

    def until(self, holds: Callable[[], Any]) -> Any:
        stop_s = time.monotonic() + WITHIN_S
        while not (found := holds()):
            assert time.monotonic() < stop_s, (self.text("body"), self.complaints())
            time.sleep(POLL_S)
        return found

    def shows(self, selector: str) -> bool:
        return self.find(selector).is_displayed()


def heads_of_more_than_two_lines(browser: Browser) -> list[str]:
    """The heads of columns of all tables that take three lines or more."""
    found: list[str] = browser.run(
        "const lines = (at) => { const range = document.createRange(); range.selectNodeContents(at);"
        " return new Set([...range.getClientRects()].map((line) => Math.round(line.top))).size; };"
        "return [...document.querySelectorAll('thead th')].filter((at) => lines(at) > 2).map((at) => at.textContent)"
    )
    return found


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser. Fail the test where there is none."""
    binary, driver = chromium(), shutil.which(DRIVER)
    if binary is None or driver is None:
        pytest.fail(f"{' and '.join(missing_for_the_page())} is not installed: {HOW_TO_ADD}")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    # CI runs as root, whom Chromium's sandbox doesn't take, in containers with a small /dev/shm.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # With the paths given, selenium has nothing to look for, or to download.
    driven = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        driven.set_script_timeout(WITHIN_S)
        yield Browser(driven)
    finally:
        driven.quit()
