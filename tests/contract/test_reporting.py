"""What a run reports that checks the contract, also where several processes ran the tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract import figures
from contract.figures import ContractPart

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(figures, "_told", {})
        patch.setattr(figures, "_totals", {})
        yield


def test_a_figure_that_is_noted_twice_counts_once() -> None:
    for _ in range(2):
        figures.tell(ContractPart.RUN, "scenarios", "swap", "answers", of=3)
    assert figures.lines(ContractPart.RUN) == [("scenarios", "2 of 3")]
    assert figures.lines(ContractPart.API) == []


def test_figures_of_several_processes_are_added_up() -> None:
    figures.tell(ContractPart.RUN, "slots run", "swap", each=4)
    sent = figures.sent()
    figures.tell(ContractPart.RUN, "slots run", "answers", each=3)
    figures.receive(sent)
    assert figures.lines(ContractPart.RUN) == [("slots run", "7")]


def test_texts_are_printed_unchanged() -> None:
    figures.note(ContractPart.API, "bindings", "one 10.13")
    figures.note(ContractPart.API, "bindings", "one 11.4")
    assert figures.lines(ContractPart.API) == [("bindings", "one 10.13; one 11.4")]


@pytest.mark.parametrize("options", [(), ("-p", "xdist.plugin", "-n", "1")], ids=["one process", "pytest-xdist"])
def test_a_run_ends_with_a_table_and_a_skip_is_a_failure(tmp_path: Path, options: tuple[str, ...]) -> None:
    tests = tmp_path / "tests" / "contract" / "runtime" / "test_it.py"
    tests.parent.mkdir(parents=True)
    tests.write_text(
        "import pytest\nfrom contract import figures\n"
        "def test_a(): figures.tell(figures.ContractPart.RUN, 'scenarios', 'swap', of=1)\n"
        "def test_b(): pytest.skip('no network')\n"
    )
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {ROOT / 'tests'}\n")
    (tmp_path / "tests" / "conftest.py").write_text("pytest_plugins = ('contract.reporting',)\n")
    pytest_here = [sys.executable, "-m", "pytest", *options, "tests"]
    bare = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they take longer to import than all of this
    ended = subprocess.run(pytest_here, cwd=tmp_path, env=bare, text=True, capture_output=True, check=False)
    assert ended.returncode == 1
    assert "the contract can't be skipped: Skipped: no network" in ended.stdout
    lines = [line.split(maxsplit=1) for line in ended.stdout.splitlines()]
    assert ["scenarios", "1 of 1"] in lines
    assert ["tests", "1 passed, 1 failed"] in lines
