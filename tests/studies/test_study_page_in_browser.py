"""The page of studies in a real browser: on a desk and on a phone, with all that is folded open."""

from itertools import product
from pathlib import Path

import msgspec
import pytest
from browser import Browser, browsing, heads_of_more_than_two_lines
from studies.cost.test_cost_drafts import LITTLE, question
from studies.fake_study import Squares
from studies.peak.test_peak_drafts import SIMULATED
from studies.test_study_of_sharing import OF_ALL, draft
from studies.test_study_page import section as squares_section
from studies.test_study_runs import studied
from tiny import Tiny

from proteus_cli.studies.cost.drafts import cost_draft
from proteus_cli.studies.kinds import SECTIONS
from proteus_cli.studies.pages.page import page
from proteus_cli.studies.peak.drafts import device_draft
from proteus_cli.studies.study import Study, Telemetry

pytestmark = [pytest.mark.browser, pytest.mark.extended]

DESK, PHONE = 1280, 390
LOAD = {"cpu_cores": 0.98, "machine_cores": 1.52, "memory_bytes": 3.0e8, "mhz": 2400.0, "gpu_memory_bytes@gpu0": 2.0e9}
LONG_NAME = "vision-transformer-large-patch14-336-distilled-int8"


def studies(tiny: Tiny) -> list[Study]:
    """What sharing costs, peaks, costs of traffic, and a study with a failed cell and missing ones."""
    share = studied(tiny.root, draft(tiny, *OF_ALL))
    peak = studied(tiny.root, device_draft(tiny.place, "shapes", ["shapes-s", "shapes-l"], "cpu0", SIMULATED))
    trace = tiny.root / "t.csv"
    trace.write_text(LITTLE)
    cost = studied(tiny.root, cost_draft(tiny.place, trace, question(tiny)))
    squares = msgspec.structs.replace(
        studied(tiny.root, Squares(broken={3}).draft(1, 2, 3)), missing=tuple(f"{LONG_NAME}-{n}" for n in range(12))
    )
    return [with_load(study) for study in (share, peak, cost, squares)]


def with_load(study: Study) -> Study:
    """With telemetry as of a machine with a GPU, and a long name among its facts."""
    cells = tuple(msgspec.structs.replace(cell, load=LOAD) for cell in study.cells)
    ran = Telemetry(study.cells[0].begun_unix_s - 1, 0.5, {measure: (value,) * 20 for measure, value in LOAD.items()})
    subject = {**study.subject, "model": LONG_NAME}
    return msgspec.structs.replace(study, cells=cells, telemetry=(ran,), subject=subject)


def wider_than_the_screen(browser: Browser) -> list[str]:
    """What reaches beyond the right edge, but for what scrolls by itself."""
    found: list[str] = browser.run(
        "return [...document.querySelectorAll('body *')].filter((at) => !at.closest('.scroll, .cells > div, svg')"
        " && at.getBoundingClientRect().right > innerWidth + 1).map((at) => at.outerHTML.slice(0, 80))"
    )
    return found


def tables_that_hide_their_cells(browser: Browser) -> list[str]:
    """Those that scroll below a first column which leaves less than half of the width to the others."""
    found: list[str] = browser.run(
        "return [...document.querySelectorAll('.scroll')].filter((at) => at.scrollWidth > at.clientWidth"
        " && at.querySelector('tbody th').offsetWidth > at.clientWidth / 2).map((at) => at.textContent.slice(0, 80))"
    )
    return found


def test_the_page_of_studies_fits_a_desk_and_a_phone(tiny: Tiny, tmp_path: Path) -> None:
    sections, found = {**SECTIONS, "squares": squares_section}, studies(tiny)
    path = tmp_path / "studies.html"
    with browsing() as browser:
        for shown, width, dark in product((found, found[:1]), (DESK, PHONE), (False, True)):
            path.write_text(page(shown, sections), encoding="utf-8")
            browser.look(width=width, dark=dark)
            browser.driver.get(path.as_uri())
            browser.run("for (const each of document.querySelectorAll('details')) each.open = true;")
            assert len(browser.all("section > .plots figure svg")) >= len(shown)
            assert browser.run("return document.documentElement.scrollWidth") <= width
            assert wider_than_the_screen(browser) == []
            assert tables_that_hide_their_cells(browser) == []
            assert heads_of_more_than_two_lines(browser) == []
            assert browser.complaints() == []
