"""Programs outside Python that some tests need, and whether this machine has them."""

import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
HOW_TO_ADD = "apt-get install chromium chromium-driver"


def chromium() -> str | None:
    """The path of a browser that the tests of the page can drive."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def missing_for_the_page() -> list[str]:
    """The names of the programs that the tests of the page need and this machine lacks."""
    names = [] if chromium() else [BROWSERS[0]]
    return names if shutil.which(DRIVER) else [*names, DRIVER]
