"""The demo types what a user would: the command of its plan has just what was asked for, and it is understood."""

import re
import shlex
from pathlib import Path

import pytest
from command_line import proteus
from tiny import FAMILIES, SHAPES, TONES, Tiny, TinyFamily, TinyVariant, add_profiles, make_workspace
from typer.testing import CliRunner

from proteus_cli.cli.demo import BURST_FACTOR, HEADROOM, burst_qps, plan_command
from proteus_cli.cli.main import app
from proteus_cli.errors import ArtefactError, ProteusError


def test_what_is_not_asked_for_is_left_to_the_plan() -> None:
    assert plan_command(182.4, HEADROOM, None, cascades=None) == ["plan", "--demand", "182qps", "--headroom", "1.5"]


@pytest.mark.parametrize(("residency", "cascades"), [("memory", True), ("2", False)])
def test_what_is_asked_for_is_passed_on_and_understood(tmp_path: Path, residency: str, *, cascades: bool) -> None:
    """There is nothing to plan for in an empty directory, but that is what the command gets to."""
    command = plan_command(100.0, 1.25, residency, cascades=cascades)
    assert command[4:] == ["1.25", "--residency", residency, "--cascades" if cascades else "--no-cascades"]
    found = CliRunner().invoke(app, [*command, "-w", str(tmp_path)])
    assert isinstance(found.exception, ArtefactError)
    assert "catalog.toml" in found.exception.message


def demo_workspace(root: Path, *families: TinyFamily) -> Tiny:
    made = make_workspace(root, families)
    add_profiles(made)
    return made


def slow(name: str) -> TinyVariant:
    """Its batch of one takes more of the 200 ms than the wait for the batch before leaves."""
    return TinyVariant(name, 0.99, hidden=4, first_s=0.190)


def test_the_burst_is_a_multiple_of_what_the_most_accurate_variants_carry(tmp_path: Path) -> None:
    """Both carry the same: 8 rows in 90 ms on each of two devices."""
    made = demo_workspace(tmp_path, *FAMILIES)
    assert burst_qps(made.place) == pytest.approx(BURST_FACTOR * 2 * 8 / 0.090)


def test_where_a_variant_has_no_capacity_the_demo_says_which_and_how_to_measure_anew(tmp_path: Path) -> None:
    made = demo_workspace(tmp_path / "a demo", SHAPES, TinyFamily("slow", (*TONES.variants, slow("slow-xl"))))
    with pytest.raises(
        ProteusError, match=r"measured on cpu0 of: slow-xl\. This machine is too slow .* too busy"
    ) as error:
        burst_qps(made.place)
    assert "stop other programs" in error.value.hint
    found = re.search("`proteus (.+?)`", error.value.hint)
    assert found is not None
    listed = proteus(*shlex.split(found[1]), "--dry-run", "--json").document()
    assert {cell["variant"] for cell in listed[0]["cells"]} >= {"shapes-l", "slow-xl"}


def test_a_variant_that_was_not_measured_in_the_budget_has_no_capacity_either(tmp_path: Path) -> None:
    made = demo_workspace(tmp_path, SHAPES)
    text = made.place.catalog_path.read_text()
    made.place.catalog_path.write_text(text.replace('"shapes-l"', '"shapes-xl"'))
    with pytest.raises(ProteusError, match="of: shapes-xl"):
        burst_qps(made.place)
