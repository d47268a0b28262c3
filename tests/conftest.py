"""Fixtures, options and rules that all tests share."""

import gc
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from forking import program
from hypothesis import settings
from hypothesis.internal.conjecture import providers
from installed import HOW_TO_ADD, missing_for_the_page, skip_lines
from tiny import DEVICES, Tiny, add_profiles, make_workspace

from proteus_cli.backends.affinity import usable_cores
from proteus_cli.cli.console import loudness

pytest_plugins = ("contract.reporting",)

CONTRACT = Path(__file__).parent / "contract"
FIRST = (
    "contract/runtime/test_runtime.py",
    "live/test_readme.py",
    "live/test_openapi.py",
    "live/test_cluster.py",
    "live/test_page.py",
    "live/test_live_catalog.py",
    "planning/test_plan_is_best.py",
    "cli/test_replay_command.py",
)
"""Files that take longest, so that no worker is left with one at the end. The first one compiles pycuda; …"""
LAST = ("contract/api/test_pycuda.py", "contract/e2e/test_gpu0.py", "contract/runtime/test_devices.py")
"""… and these wait for that."""
COLLECTED_AFTER = 10_000
"""Objects that are made and not gone."""
FOUND_BY_TEXT = ("alone", "extended", "hosts", "ray")
SET_IN_NAME = re.compile(r"\{\([^{}:]*\)\}|\{'[^{}:]*'\}|frozenset\(")

# `make test` draws the same examples each time; `make fuzz` draws new ones (tests/fuzz.py).
settings.register_profile("same examples", deadline=None, derandomize=True, database=None)
settings.register_profile("new examples", deadline=None, derandomize=False, database=None)
settings.load_profile("same examples")

# Hypothesis draws some values from the source of all modules that are imported by then: with the same seed, other
# examples where other tests have run before. It has no switch for that.
_constants_of_modules = providers._get_local_constants


def _constants() -> Any:
    is_fuzzed = settings.get_current_profile_name() == "new examples"
    return _constants_of_modules() if is_fuzzed else providers._local_constants


providers._get_local_constants = _constants


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", default="6s", help="how long the chaos lasts")
    parser.addoption("--soak", default="30s", help="how long the soak lasts")
    parser.addoption("--soak-seed", default="1", help="seed of the soak's faults and demand")
    parser.addoption("--soak-real", action="store_true", help="on this machine's CPUs instead of emulated devices")
    parser.addoption("--golden", action="store_true", help="rewrite the golden files instead of comparing with them")
    parser.addoption("--nothing-skipped", action="store_true", help="fail where a test is skipped or left out")


def pytest_configure() -> None:
    """Programs that the tests start hear Ctrl-C, which a shell has its background jobs ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the contract's tests as extended; leave the page's tests out where there is no browser."""
    _check_where_markers_stand(items)
    _check_names(items)
    items.sort(key=_place)
    for item in items:
        if CONTRACT in item.path.parents:
            item.add_marker("extended")
    if missing_for_the_page() and not config.getoption("--nothing-skipped"):
        left_out = [item for item in items if item.get_closest_marker("browser")]
        items[:] = [item for item in items if not item.get_closest_marker("browser")]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """What is imported and collected stays until the end: no garbage collection visits it, neither now nor later.

    Later ones are rarer than by default, where they take a twentieth of the time of tests that draw or solve much.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(COLLECTED_AFTER)
        gc.enable()


def _place(item: pytest.Item) -> int:
    """Below 0 for `FIRST`, above for `LAST`."""
    file = item.path.relative_to(Path(__file__).parent).as_posix()
    return FIRST.index(file) - len(FIRST) if file in FIRST else LAST.index(file) + 1 if file in LAST else 0


def _check_where_markers_stand(items: Sequence[pytest.Item]) -> None:
    """The Makefile finds the files with tests of some markers by their text."""
    for marker in FOUND_BY_TEXT:
        for path in {item.path for item in items if item.get_closest_marker(marker)}:
            if f"pytest.mark.{marker}" not in path.read_text():
                raise pytest.UsageError(f"{path} has tests marked `{marker}`, and must say `pytest.mark.{marker}`")


def _check_names(items: Sequence[pytest.Item]) -> None:
    """A set is written in another order in each process, and those of one run must find the same tests."""
    for item in items:
        if SET_IN_NAME.search(item.name):
            raise pytest.UsageError(f"{item.nodeid} has a set in its name: give its parameters `ids`")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With `--nothing-skipped`, a run with a skipped test fails."""
    if session.config.getoption("--nothing-skipped") and _skipped(session.config) and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was skipped or left out, and why: a line for each reason."""
    if terminalreporter.config.getoption("--nothing-skipped"):
        for report in _skipped(terminalreporter.config):
            terminalreporter.write_line(f"skipped, though nothing may be: {report.nodeid}: {report.longrepr}")
        return
    for line in skip_lines(_skipped(terminalreporter.config)):
        terminalreporter.write_line(line)
    if missing_for_the_page():
        terminalreporter.write_line(
            f"left out: the tests of the page, as {' and '.join(missing_for_the_page())} is not installed; to add "
            f"them: {HOW_TO_ADD}"
        )


def _skipped(config: pytest.Config) -> Sequence[pytest.TestReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return reporter.stats.get("skipped", []) if reporter is not None else []


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep `PROTEUS_*` variables, the loudness and the level of logs of an earlier test away from this one."""
    ours = logging.getLogger("proteus")
    level = ours.level
    for name in [name for name in os.environ if name.startswith("PROTEUS_")]:
        monkeypatch.delenv(name)
    yield
    ours.setLevel(level)
    loudness.quiet = loudness.verbose = loudness.debug = False


@pytest.fixture(autouse=True)
def _children_are_forked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers, and processes of devices and of solvers, are started from nothing only by tests that are about them."""
    if request.node.get_closest_marker("from_nothing"):
        monkeypatch.setattr(program, "are_children_forked", False)
    else:
        for (module, name), ours in program.STARTING_CHILDREN.items():
            if module in sys.modules:
                monkeypatch.setattr(sys.modules[module], name, ours)


@pytest.fixture(scope="session")
def _tiny_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "ws"
    add_profiles(make_workspace(root))
    return root


@pytest.fixture
def tiny(_tiny_template: Path, tmp_path: Path) -> Tiny:
    """A workspace of its own with two tiny families and their profiles, to be changed at will."""
    if len(usable_cores()) < len(DEVICES):
        pytest.skip("needs two cores")
    return Tiny(Path(shutil.copytree(_tiny_template, tmp_path / "ws")))


@pytest.fixture
def bare(tiny: Tiny) -> Tiny:
    """The workspace without profiles."""
    for path in tiny.place.profiles_dir.iterdir():
        path.unlink()
    return tiny
