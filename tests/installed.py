"""Programs outside Python that some tests need, whether this machine has them, and how they are added."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

from proteus_cli.units import counted

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
HOW_TO_ADD = "apt-get install chromium chromium-driver"
DEBIAN_PACKAGES = {
    "curl": "curl",
    "h2load": "nghttp2-client",
    "promtool": "prometheus",
    "systemd-analyze": "systemd",
    "wrk": "wrk",
}


def chromium() -> str | None:
    """The path of a browser that the tests of the page can drive."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def missing_for_the_page() -> list[str]:
    """The names of the programs that the tests of the page need and this machine lacks."""
    names = [] if chromium() else [BROWSERS[0]]
    return names if shutil.which(DRIVER) else [*names, DRIVER]


def lacking(*programs: str) -> str:
    """Why a test that needs these programs is skipped, and how to add them; empty where all are there."""
    missing = [name for name in programs if shutil.which(name) is None]
    if not missing:
        return ""
    packages = " ".join(DEBIAN_PACKAGES[name] for name in missing)
    verb, them = ("is", "it") if len(missing) == 1 else ("are", "them")
    return f"{' and '.join(missing)} {verb} not installed; to add {them}: apt-get install {packages}"


def needs(*programs: str) -> pytest.MarkDecorator:
    """Marks a test that is skipped where one of these programs is missing."""
    why = lacking(*programs)
    return pytest.mark.skipif(bool(why), reason=why)


def skip_lines(reports: Iterable[pytest.TestReport]) -> Iterator[str]:
    """A line for each reason for which tests were skipped, with the number of these tests."""
    reasons = Counter(_reason(report) for report in reports)
    for reason, tests in sorted(reasons.items()):
        yield f"skipped {counted(tests, 'test')}: {reason}"


def _reason(report: pytest.TestReport) -> str:
    """Pytest has the place of a skip and its reason as (path, line, "Skipped: reason")."""
    assert isinstance(report.longrepr, tuple)
    return report.longrepr[2].removeprefix("Skipped: ")
