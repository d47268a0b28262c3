"""The page of a server whose plan has a cascade says what is deferred, and what gets its first answer."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from browser import DESK, PHONE, Browser, browsing
from cascaded import add_cascaded_plan, shapes_workspace
from live_server import LiveServer, serving
from tiny import add_plan

pytestmark = [pytest.mark.live, pytest.mark.browser, pytest.mark.extended]

ROWS = np.random.default_rng(5).normal(size=(8, 4)).astype(np.float32)
SHARE = """
return [...document.querySelectorAll('#families .of-cascades')]
    .map((cell) => getComputedStyle(cell).display)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as found:
        yield found


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    """`shapes-s`, which defers what has a margin below 0.5 to `shapes-l` if the parameter says so."""
    made = shapes_workspace(tmp_path_factory.mktemp("page"))
    path = add_cascaded_plan(made) if request.param else add_plan(made, {"cpu0": "shapes-s", "cpu1": "shapes-l"})
    with serving(made.root, path, "--replan=off") as live:
        yield live
        assert live.stop() == 0, live.log.read_text()


@pytest.mark.parametrize("server", [True], indirect=True)
def test_the_table_of_families_says_what_is_deferred_on_any_screen(server: LiveServer, browser: Browser) -> None:
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            for row in ROWS:
                tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": row.tolist()}
                assert server.infer("shapes", {"inputs": [tensor]}).status == 200

    client = threading.Thread(target=ask)
    client.start()
    try:
        for width in (DESK, PHONE):
            browser.open(server.port, width=width)
            *_, deferred, fallbacks, _cut = browser.until(
                lambda: (cells := browser.table("#families").get("shapes")) and cells[-3].endswith("%") and cells
            )
            part = float(deferred.removesuffix(" %")) / 100
            told = server.status()["families"]["shapes"]["cascades"][0]["observed"]
            assert part == pytest.approx(told, abs=0.15)
            assert 0 < part < 1
            assert fallbacks == "0.0 %"
            assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
            assert set(browser.run(SHARE)) == {"table-cell"}
            planned = ["shapes-s → shapes-l", "0.5", "10", "5", "50.0 %"]
            assert browser.table("#cascades")["shapes"][:5] == planned, "of 10 qps, half are to be deferred"
            seen = float(browser.table("#cascades")["shapes"][5].removesuffix(" %"))
            assert seen == pytest.approx(100 * told, abs=15)
            assert browser.find("#exits-section").is_displayed() is False
    finally:
        is_over.set()
        client.join()
    assert browser.complaints() == []


@pytest.mark.parametrize("server", [False], indirect=True)
def test_without_cascades_there_are_no_such_columns(server: LiveServer, browser: Browser) -> None:
    browser.open(server.port)
    browser.until(lambda: browser.table("#families"))
    assert set(browser.run(SHARE)) == {"none"}
