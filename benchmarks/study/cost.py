"""PERSEUS's case in kind: what a million queries of the zoo cost, dedicated and shared, through the real server.

The zoo is profiled here, and what its larger variants cost each other on a device is measured. The zoo is then profiled
again, right before it is served; by how much batches differ says how much the speed of this machine drifts. The search
of `study cost` finds the cheapest fleets among the devices of this machine, with the headroom that plans have by
default. Each is served as `proteus serve` does, the trace is sent over HTTP in an open loop, and its misses are
counted: costs and SLOs are measured, not modelled. The same server with emulated devices, which take what was
profiled, tells what part of the misses is due to the cores.
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.study.parts import Found
from benchmarks.tables import Aim
from proteus_cli.cli.options import HEADROOM
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.report import Report
from proteus_cli.domain.rules import Rules
from proteus_cli.replay.local_server import local_server
from proteus_cli.replay.trace import read_trace
from proteus_cli.store import Workspace, read_json, write_json
from proteus_cli.store.sharing import with_sharing
from proteus_cli.studies.cost.drafts import USAGES, priced
from proteus_cli.studies.cost.search import PlanTrials, cheapest_fleet
from proteus_cli.studies.results import Usage

ROOT = Path(__file__).parents[2]
PRICE_PER_HOUR = 0.03  # of a core; it cancels where both usages have devices of one type
ALLOWED_FRAC = 0.01  # p99
STUDIED = "digits-xl,digits-xxl,signals-xl,signals-xxl"
LEAST_ACCURATE = {"digits": 0.97, "signals": 0.95}
"""So that cheap answers do not make a fleet cheap: the two largest variants of each family."""


@dataclass(frozen=True, slots=True)
class Size:
    """How long is measured, and how long the trace is."""

    profile: str
    share: str
    trace: str
    rate: str = "160qps"


FULL, QUICK = Size("2min", "3min", "60s"), Size("15s", "10s", "5s")


@dataclass(frozen=True, slots=True)
class _Served:
    """A plan, and what the server made of the trace, on the devices and on emulated ones."""

    usage: Usage
    plan: Plan
    report: Report
    emulated: Report

    @property
    def devices(self) -> int:
        return sum(bool(placed) for placed in self.plan.by_device().values())

    @property
    def per_million(self) -> float:
        return 1e6 * self.devices * PRICE_PER_HOUR * self.report.duration_s / 3600 / self.report.served


def measure(is_quick: bool) -> Found:  # noqa: FBT001 - a part of the benchmark
    """Profile, measure sharing, plan, serve and send the trace."""
    size = QUICK if is_quick else FULL
    with TemporaryDirectory() as directory:
        root = Path(directory)
        copytree(ROOT / "engines", root / "engines")
        _profile(root, size.profile)
        shared_by = ("--device", "cpu0", "--variants", STUDIED)
        _proteus(root, "study", "share", *shared_by, "--budget", size.share)
        drift = _drift(Workspace(root), size.profile)
        trace = root / "trace.csv"
        _proteus(root, "trace", "make", "poisson", "--families", "digits,signals", "--rate", size.rate,
                 "--duration", size.trace, "--seed", "7", "-o", str(trace))  # fmt: skip
        served = {each.usage: each for each in _served(Workspace(root), trace)}
    dedicated, shared = served["dedicated"], served["shared"]
    ratio, missed_percent = shared.per_million / dedicated.per_million, 100 * _worst_missed_frac(shared.report)
    return Found(
        [
            f"profiled again: batches take {drift:.3f} times as long on the slowest device; headroom {HEADROOM:g}",
            *map(_line, served.values()),
        ],
        [
            Aim("cost per million, shared over dedicated", ratio, 1.0, "", is_most=True),
            Aim("misses on the shared fleet", missed_percent, 100 * ALLOWED_FRAC, "% of a family", is_most=True),
        ],
    )


def _drift(workspace: Workspace, budget: str) -> float:
    """How many times as long as a few minutes ago batches take: the median over studied variants, of the worst core."""
    before = _batches_s(workspace)
    _profile(workspace.root, budget, "--force")
    now = _batches_s(workspace)
    by_device: dict[str, list[float]] = {}
    for cell in before.keys() & now.keys():
        by_device.setdefault(cell[0], []).append(now[cell] / before[cell])
    return max(map(median, by_device.values()))


def _batches_s(workspace: Workspace) -> dict[tuple[str, str, int], float]:
    """The mean time of each batch of the studied variants, by device, variant and size."""
    return {
        (device, measured.variant, point.batch): point.mean_s
        for device, profile in workspace.profiles().items()
        for measured in profile.variants
        if measured.variant in STUDIED.split(",")
        for point in measured.points
    }


def _served(workspace: Workspace, path: Path) -> Iterator[_Served]:
    """The cheapest fleet of each usage among the devices that are here, served."""
    profiles, trace = with_sharing(workspace, workspace.profiles()), read_trace(path)
    prices = {profile.device.type: PRICE_PER_HOUR for profile in profiles.values()}
    catalog = priced(workspace.catalog(), profiles, prices)
    trials = PlanTrials(catalog, profiles, trace, ALLOWED_FRAC, "p95", 0, HEADROOM)
    for usage in USAGES:
        rules = Rules(minimize="cost", residency=1 if usage == "dedicated" else 3, min_accuracy=LEAST_ACCURATE)
        found = cheapest_fleet(workspace, trials, rules, trace.peak_demand())
        if found is None:
            raise SystemExit(f"no {usage} fleet of this machine's devices keeps the SLO, even simulated")
        name = workspace.root / f"{usage}.json"
        write_json(name, found.plan.plan)
        measured, emulated = (_replayed(workspace, name, path, emulate=emulate) for emulate in (False, True))
        yield _Served(usage, found.plan.plan, measured, emulated)


def _replayed(workspace: Workspace, plan: Path, trace: Path, *, emulate: bool) -> Report:
    """The trace, sent over HTTP to a server with that plan, which stays as it is."""
    found = workspace.root / "report.json"
    with local_server(plan, workspace.root, emulate=emulate, options=("--replan", "off")) as url:
        _proteus(workspace.root, "replay", str(trace), "--url", url, "-o", str(found))
    return read_json(found, Report, hint="`proteus replay` writes it")


def _line(served: _Served) -> str:
    held = [" + ".join(p.variant for p in placed) for placed in served.plan.by_device().values() if placed]
    latencies = {name: family.latency_s.p99 for name, family in served.report.families.items() if family.latency_s}
    p99 = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in latencies.items())
    return (
        f"{served.usage}: {served.per_million:.4f} per million, {served.devices} devices ({'; '.join(held)}), "
        f"{_missed(served.report)}, p99 {p99}; emulated {_missed(served.emulated)}"
    )


def _worst_missed_frac(report: Report) -> float:
    return max(1 - family.served / family.requests for family in report.families.values() if family.requests)


def _missed(report: Report) -> str:
    ends = f"{report.rejected} refused, {report.dropped} given up, {report.late} late of {report.requests}"
    return f"{100 * _worst_missed_frac(report):.2f} % of the worst family missed ({ends})"


def _profile(root: Path, budget: str, *options: str) -> None:
    _proteus(root, "profile", "--budget", budget, "--max-batch", "16", "--accept-noise", *options)


def _proteus(root: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "proteus_cli", *arguments]
    done = subprocess.run([*command, "-w", str(root)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"`proteus {' '.join(arguments)}` failed: {done.stderr[-2000:]}")
