"""Prints at the end what the contract tests checked."""

import pytest
from contract import figures


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines := figures.lines():
        terminalreporter.section("what the contract checked")
        for line in lines:
            terminalreporter.write_line(line)
