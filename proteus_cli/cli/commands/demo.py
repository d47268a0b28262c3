"""``proteus demo``: the whole main job on this machine, by the commands that a user would type."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proteus_cli.cli import console
from proteus_cli.errors import ProteusError

if TYPE_CHECKING:
    from proteus_cli.store import Workspace

BUDGET = "40s"
BURST_OF_BEST = 2.5  # the burst, of what the most accurate variants can take …
CALM_OF_BURST = 0.16  # … and the rest of the bundled trace, of the burst
HEADROOM = "1.5"  # more than the default: here the front end and the load share the cores with the models
MAX_QPS = 2000.0  # what the load generator can send beside the server on a small machine


def demo(
    directory: Annotated[Path, typer.Argument(help="Where to make the demo's workspace.")] = Path("proteus-demo"),
) -> None:
    """Profile, plan, serve and replay a burst with the sample zoo: accuracy falls, the SLO holds, accuracy returns.

    Beside it the same trace with the most accurate variants only, which miss the SLO. Takes about two minutes.
    """
    from proteus_cli.store import Workspace

    place = Workspace(directory)
    if not place.catalog_path.is_file():
        _run("init", str(directory))
    there = ("--workspace", str(directory))
    _run("profile", "--budget", BUDGET, *there)
    burst_qps = _burst_qps(place)
    _run("plan", "--demand", f"{burst_qps * CALM_OF_BURST:.0f}qps", "--headroom", HEADROOM, *there)
    page = directory / "report.html"
    _run(
        "replay", str(directory / "traces" / "burst.csv"), "--scale-to", f"{burst_qps:.0f}qps", "--serve", "plan.json",
        "--policy", "proteus,most-accurate", "--report", str(page), "-o", str(directory / "report.json"), *there,
    )  # fmt: skip
    console.say(f"\nthe page with the plots: {page.resolve()}")


def _run(*arguments: str) -> None:
    """Run one of our commands as a user would, in a process of its own. Raises `ProteusError` where it fails."""
    console.say(f"\n$ proteus {shlex.join(arguments)}")
    sys.stdout.flush()
    code = subprocess.run([sys.executable, "-m", "proteus_cli", *arguments], check=False).returncode
    if code != 0:
        raise ProteusError(f"`proteus {arguments[0]}` ended with exit code {code}.", hint="it says above why")


def _burst_qps(place: "Workspace") -> float:
    """A rate that overloads the most accurate variants on this machine, whatever its speed."""
    from proteus_cli.domain.profile import capacity

    profiles, catalog = place.profiles(), place.catalog()
    if len(profiles) < len(catalog.families):
        raise ProteusError(
            f"The demo needs a device for each of its {len(catalog.families)} families; this machine has "
            f"{len(profiles)}.",
            hint="it takes two cores at least",
        )
    first = next(iter(profiles.values()))
    best = [
        capacity(first.points_of(measured), family.slo_s).qps
        for family in catalog.families
        if (measured := first.of(family.name, family.variants[-1].name)) is not None
    ]
    return min(MAX_QPS, BURST_OF_BEST * min(best) * len(profiles))
