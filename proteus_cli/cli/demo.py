"""``proteus demo``: profile, plan, serve and replay on this machine, with the commands that a user would type."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proteus_cli.cli import console, options, plan
from proteus_cli.errors import ProteusError

if TYPE_CHECKING:
    from proteus_cli.domain.catalog import Family, VariantKey
    from proteus_cli.domain.profile import Profile
    from proteus_cli.store import Workspace

BUDGET = "50s"  # enough for the answers of all variants on a slow core
BURST_FACTOR = 2.5  # rate of the burst, over the capacity of the most accurate variants
BASE_FRAC = 0.16  # rate of the bundled trace outside its burst, over the rate of the burst
HEADROOM = 1.5  # more than the default: here the front end and the load share the cores with the models
MAX_QPS = 2000.0  # what the load generator can send beside the server on a small machine


def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of the demo's workspace.")] = Path(
        "proteus-demo"
    ),
    headroom: options.Headroom = HEADROOM,
    residency: plan.Residency = None,
    cascades: plan.Cascades = None,
) -> None:
    """Profile, plan, serve and replay a burst with the sample models: accuracy falls, the SLO holds, accuracy returns.

    The same trace is replayed with only the most accurate variants, which miss the SLO. Takes about two minutes.
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


def plan_command(demand_qps: float, headroom: float, residency: str | None, *, cascades: bool | None) -> list[str]:
    """The command that makes the first plan. Plans of the server have the same rules."""
    command = ["plan", "--demand", f"{demand_qps:.0f}qps", "--headroom", f"{headroom:g}"]
    if residency is not None:
        command += ["--residency", residency]
    if cascades is not None:
        command.append("--cascades" if cascades else "--no-cascades")
    return command


def _run(*arguments: str) -> None:
    """Run a `proteus` command in a process of its own. Raises `ProteusError` if it fails."""
    console.say(f"\n$ proteus {shlex.join(arguments)}")
    sys.stdout.flush()
    code = subprocess.run([sys.executable, "-m", "proteus_cli", *arguments], check=False).returncode
    if code != 0:
        raise ProteusError(f"`proteus {arguments[0]}` ended with exit code {code}.", hint="its error is above")


def burst_qps(workspace: "Workspace") -> float:
    """A rate that overloads the most accurate variants on this machine.

    Raises `ProteusError` if there are fewer devices than families, or if such a variant has no capacity.
    """
    from proteus_cli.domain.catalog import VariantKey

    profiles, catalog = workspace.profiles(), workspace.catalog()
    if len(profiles) < len(catalog.families):
        raise ProteusError(
            f"The demo needs a device for each of its {len(catalog.families)} families; this machine has "
            f"{len(profiles)}.",
            hint="it needs at least two cores",
        )
    first = next(iter(profiles.values()))
    best = [(family, VariantKey(family.name, family.variants[-1].name)) for family in catalog.families]
    best_qps = {catalog.label(key): _capacity_qps(first, family, key) for family, key in best}
    if without := [variant for variant, qps in best_qps.items() if qps <= 0]:
        raise ProteusError(
            f"No capacity within the SLO was measured on {first.device.id} of: {', '.join(without)}. This machine is "
            "too slow for the demo, or too busy now.",
            hint=f"stop other programs, measure anew with `proteus profile --force --budget {BUDGET} --workspace "
            f"{shlex.quote(str(workspace.root))}`, then run the demo again",
        )
    return min(MAX_QPS, BURST_FACTOR * min(best_qps.values()) * len(profiles))


def _capacity_qps(profile: "Profile", family: "Family", key: "VariantKey") -> float:
    """The rate that a device carries of a variant within the SLO of its family; 0 for an unmeasured variant."""
    from proteus_cli.domain.rules import Rules

    measured = profile.of(key.family, key.variant)
    if measured is None:
        return 0.0
    points = profile.points_of(measured)
    return Rules().capacity_within(family.slo_s, points, attainment=family.attainment).qps
