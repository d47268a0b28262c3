"""The demo types what a user would: the command of its plan has just what was asked for, and it is understood."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from proteus_cli.cli.commands.demo import HEADROOM, plan_command
from proteus_cli.cli.main import app
from proteus_cli.errors import ArtefactError


def test_one_variant_on_a_core_and_no_cascade_is_what_plans_have_anyway() -> None:
    assert plan_command(182.4, HEADROOM, "1", cascades=False) == ["plan", "--demand", "182qps", "--headroom", "1.5"]


@pytest.mark.parametrize(("residency", "cascades"), [("memory", True), ("2", False)])
def test_what_is_asked_for_is_passed_on_and_understood(tmp_path: Path, residency: str, *, cascades: bool) -> None:
    """There is nothing to plan for in an empty directory, but that is what the command gets to."""
    command = plan_command(100.0, 1.25, residency, cascades=cascades)
    assert command[4:] == ["1.25", "--residency", residency, *(["--cascades"] if cascades else [])]
    found = CliRunner().invoke(app, [*command, "-w", str(tmp_path)])
    assert isinstance(found.exception, ArtefactError)
    assert "catalog.toml" in found.exception.message
