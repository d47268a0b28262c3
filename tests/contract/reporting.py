"""A plugin of pytest: no test of the contract is skipped, and at the end a table says what was checked.

`tests/conftest.py` loads it, so it is there in the process that prints when pytest-xdist has others run the tests.
"""

from collections import Counter, defaultdict
from typing import Any

import pytest
from contract import figures
from contract.figures import TITLES, ContractPart

HERE = "tests/contract/"
SENT = "contract figures"

_seconds: dict[ContractPart, float] = defaultdict(float)
_ended: dict[ContractPart, Counter[str]] = defaultdict(Counter)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.nodeid.startswith(HERE):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    report = yield
    if report.skipped and collector.nodeid.startswith(HERE):
        _fail(report)
    return report


def _fail(report: Any) -> None:
    report.outcome = "failed"
    *_, why = report.longrepr  # file, line and reason
    report.longrepr = f"the contract can't be skipped: {why}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    part = _part_of(report.nodeid)
    if part is not None:
        _seconds[part] += report.duration
        if report.failed or report.when == "call":
            _ended[part][report.outcome] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process of pytest-xdist's: send the figures to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[SENT] = figures.sent()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    figures.receive(getattr(node, "workeroutput", {}).get(SENT, ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _ended:
        return
    terminalreporter.section("what the contract checked")
    for part in (part for part in ContractPart if part in _ended):
        rows = [*figures.lines(part), ("tests", _tests(part)), ("time", f"{_seconds[part]:.0f} s")]
        width = max(len(about) for about, _ in rows)
        terminalreporter.write_line(TITLES[part])
        for about, shown in rows:
            terminalreporter.write_line(f"    {about:{width}}  {shown}")
    terminalreporter.write_line(f"in all {sum(_seconds.values()):.0f} s, of all processes that ran tests")


def _tests(part: ContractPart) -> str:
    return ", ".join(f"{number} {outcome}" for outcome, number in sorted(_ended[part].items(), reverse=True))


def _part_of(nodeid: str) -> ContractPart | None:
    if not nodeid.startswith(HERE):
        return None
    return next((part for part in ContractPart if nodeid.startswith(HERE + part)), ContractPart.MADE)
