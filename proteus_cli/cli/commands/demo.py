"""``proteus demo``: profile, plan, serve and replay on this machine, with the commands that a user would type."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proteus_cli.cli import console
from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups import plan as options
from proteus_cli.errors import ProteusError

if TYPE_CHECKING:
    from proteus_cli.store import Workspace

BUDGET = "40s"
BURST_FACTOR = 2.5  # rate of the burst, over the capacity of the most accurate variants
BASE_FRAC = 0.16  # rate of the bundled trace outside its burst, over that of the burst
HEADROOM = 1.5  # more than the default: here the front end and the load share the cores with the models
MAX_QPS = 2000.0  # what the load generator can send beside the server on a small machine

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The directory of the demo's workspace.")]


def demo(
    directory: Directory = Path("proteus-demo"),
    headroom: common.Headroom = HEADROOM,
    residency: options.Residency = "memory",
    cascades: options.Cascades = False,
) -> None:
    """Profile, plan, serve and replay a burst with the sample models: accuracy falls, the SLO holds, accuracy returns.

    The same trace is replayed with only the most accurate variants, which miss the SLO. Takes about two minutes. By
    default plans host as many variants on each core as fit, and have no cascades, which take longest to find in a
    burst.
    """
    from proteus_cli.store import Workspace

    workspace = Workspace(directory)
    if not workspace.catalog_path.is_file():
        _run("init", str(directory))
    in_workspace = ("--workspace", str(directory))
    _run("profile", "--budget", BUDGET, *in_workspace)
    peak_qps = burst_qps(workspace)
    _run(*plan_command(peak_qps * BASE_FRAC, headroom, residency, cascades=cascades), *in_workspace)
    page = directory / "report.html"
    _run(
        "replay", str(directory / "traces" / "burst.csv"), "--scale-to", f"{peak_qps:.0f}qps", "--serve", "plan.json",
        "--policy", "proteus,most-accurate", "--report", str(page), "-o", str(directory / "report.json"), *in_workspace,
    )  # fmt: skip
    console.say(f"\nthe report with plots: {page.resolve()}")


def plan_command(demand_qps: float, headroom: float, residency: str, *, cascades: bool) -> list[str]:
    """The command that makes the first plan; those that the server makes have the same rules."""
    command = ["plan", "--demand", f"{demand_qps:.0f}qps", "--headroom", f"{headroom:g}"]
    if residency != "1":
        command += ["--residency", residency]
    return [*command, "--cascades"] if cascades else command


def _run(*arguments: str) -> None:
    """Run a `proteus` command in a process of its own. Raises `ProteusError` if it fails."""
    console.say(f"\n$ proteus {shlex.join(arguments)}")
    sys.stdout.flush()
    code = subprocess.run([sys.executable, "-m", "proteus_cli", *arguments], check=False).returncode
    if code != 0:
        raise ProteusError(f"`proteus {arguments[0]}` ended with exit code {code}.", hint="its error is above")


def burst_qps(workspace: "Workspace") -> float:
    """A rate that overloads the most accurate variants on this machine."""
    from proteus_cli.domain.plan.rules import Rules

    profiles, catalog = workspace.profiles(), workspace.catalog()
    if len(profiles) < len(catalog.families):
        raise ProteusError(
            f"The demo needs a device for each of its {len(catalog.families)} families; this machine has "
            f"{len(profiles)}.",
            hint="it needs at least two cores",
        )
    first = next(iter(profiles.values()))
    best = [
        Rules().capacity_within(family.slo_s, first.points_of(measured), attainment=family.attainment).qps
        for family in catalog.families
        if (measured := first.of(family.name, family.variants[-1].name)) is not None
    ]
    return min(MAX_QPS, BURST_FACTOR * min(best) * len(profiles))
