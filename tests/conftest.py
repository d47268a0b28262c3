"""Fixtures that tests of several packages share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tiny import DEVICES, Tiny, add_profiles, make_workspace

from proteus_cli.backends.affinity import usable_cores
from proteus_cli.cli.console import loudness

pytest_plugins = ("contract.reporting",)

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", default="6s", help="how long the chaos lasts")
    parser.addoption("--without-browser", action="store_true", help="leave out the tests that need Chromium")
    parser.addoption("--soak", default="30s", help="how long the soak lasts")
    parser.addoption("--soak-seed", default="1", help="what it does when, and what is asked")
    parser.addoption("--soak-real", action="store_true", help="on this machine's CPUs instead of emulated devices")
    parser.addoption("--golden", action="store_true", help="rewrite the golden files instead of comparing with them")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither the shell of whoever runs the tests nor the test before decides what a command does."""
    for name in [name for name in os.environ if name.startswith("PROTEUS_")]:
        monkeypatch.delenv(name)
    yield
    loudness.quiet = loudness.verbose = loudness.debug = False


@pytest.fixture(scope="session")
def _tiny_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "ws"
    add_profiles(make_workspace(root))
    return root


@pytest.fixture
def tiny(_tiny_template: Path, tmp_path: Path) -> Tiny:
    """A workspace of its own with two tiny families and their profiles; change it as you like."""
    if len(usable_cores()) < len(DEVICES):
        pytest.skip("needs two cores")
    return Tiny(Path(shutil.copytree(_tiny_template, tmp_path / "ws")))
