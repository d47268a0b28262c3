"""The page of a server whose plan has a multi-exit model says how many answers were cut short; others say nothing."""

import threading
from pathlib import Path

import numpy as np
import pytest
from browser import PHONE, Browser, browsing
from exit_nets import add_exits
from live_server import LiveServer, serving
from tiny import SHAPES, TinyFamily, add_plan, add_profiles, make_workspace

from proteus_cli.domain.stages.exits import ExitProfile, StagePoint

pytestmark = [pytest.mark.live, pytest.mark.browser, pytest.mark.extended]

ROWS = np.random.default_rng(5).normal(size=(8, 4)).astype(np.float32)
SHOWN = "return [...document.querySelectorAll('#families .of-exits')].map((cell) => getComputedStyle(cell).display)"
SHORT, DAYS = (StagePoint(1, 1e-6, 1e-6),), (StagePoint(1, 1e6, 1e6),)
SLOW_END = (ExitProfile(0.5, 0.9, 0.4, SHORT), ExitProfile(0.3, 0.7, 0.3, SHORT), ExitProfile(0.2, 0.5, None, DAYS))


def cut_of_all(server: LiveServer) -> float:
    """Ask for each row once; the part of the answers that were cut short."""
    cut = 0
    for row in ROWS:
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": row.tolist()}
        reply = server.infer("shapes", {"inputs": [tensor]})
        assert reply.status == 200, reply.body
        cut += bool(reply.document()["parameters"].get("cut"))
    return cut / len(ROWS)


def test_the_table_of_families_says_what_was_cut_short(tmp_path: Path) -> None:
    made = make_workspace(tmp_path, (TinyFamily("shapes", SHAPES.variants[:1], slo="60s"),))
    path = add_exits(made, "shapes-exits", "confidence >= 2", SLOW_END)
    is_over = threading.Event()
    with serving(made.root, path, "--replan=off") as live, browsing() as browser:
        part = cut_of_all(live)

        def ask() -> None:
            while not is_over.is_set():
                cut_of_all(live)

        client = threading.Thread(target=ask)
        client.start()
        try:
            browser.open(live.port, width=PHONE)
            assert 0 < part < 1
            browser.until(lambda: shown_part(browser) == pytest.approx(part, abs=0.15))  # of few answers, it is another
            assert set(browser.run(SHOWN)) == {"table-cell"}
            assert browser.table("#exits")["shapes"][:3] == [
                "shapes-exits", "50.0 %, 30.0 %, 20.0 %", "as in the catalog",
            ]  # fmt: skip
            assert browser.find("#cascades-section").is_displayed() is False
            assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        finally:
            is_over.set()
            client.join()
        assert browser.complaints() == []
        assert live.stop() == 0, live.log.read_text()


def test_without_exits_there_is_no_such_column(tmp_path: Path) -> None:
    made = make_workspace(tmp_path, (SHAPES,))
    add_profiles(made)
    path = add_plan(made, {"cpu0": SHAPES.variants[0].name})
    with serving(made.root, path, "--replan=off") as live, browsing() as browser:
        cut_of_all(live)
        shown(browser, live)
        assert set(browser.run(SHOWN)) == {"none"}
        assert live.stop() == 0, live.log.read_text()


def shown_part(browser: Browser) -> float | None:
    """What the table says that was cut short; None before it says so."""
    cells = browser.table("#families").get("shapes")
    return float(cells[-1].removesuffix(" %")) / 100 if cells and cells[-1].endswith("%") else None


def shown(browser: Browser, live: LiveServer) -> None:
    browser.open(live.port)
    browser.until(lambda: browser.table("#families"))
