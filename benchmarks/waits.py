"""How long queries wait for a host, and how many are in time: as planning predicts it, and as it is simulated.

So many alike hosts serve one family from one queue, with the largest batches that planning allows (`slo_fraction`).
Arrivals are Poisson, at a part of what the hosts carry in full batches. A wait is from the arrival of a query to the
start of its batch; the plan never changes, and all that is lost counts.

The attainment that plans expect (`planning.analysis.expectation`) is compared with the simulated one for these hosts,
and by family for plans that the planner makes for the paper's cluster, whose hosts of a family are unlike.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from rich.console import Console

from benchmarks.machine import machine
from benchmarks.planner_instances import NOBODY, PAPER, paper_fleet, synthetic_mix
from benchmarks.tables import Aim, Table, conclude, rich_table
from proteus_cli.control.policies import Policy, policy_named
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.capacity import slo_fraction
from proteus_cli.domain.catalog import Catalog, Family, Variant
from proteus_cli.domain.device import Device
from proteus_cli.domain.plan import PLAN_FORMAT, Placement, Plan, Solver
from proteus_cli.domain.profile import BackendInfo, Point, Profile, VariantProfile
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.analysis.expectation import expecting
from proteus_cli.planning.analysis.explain import max_multiple
from proteus_cli.planning.planner import Planner
from proteus_cli.replay.synthesis import Poisson, make_trace
from proteus_cli.simulation.conditions import JITTERS, Conditions
from proteus_cli.simulation.run import simulate

SEED = 2026
SLO_S = 0.1
MAX_ROWS = 16  # of a batch
FIXED_PART = 0.2  # of a full batch, whatever its rows
HOSTS = (1, 2, 4, 8, 16, 60)
LOADS = (0.5, 0.7, 0.85, 0.95)
USUAL_LOAD, HIGH_LOAD = 0.7, 0.85  # at more, queries wait for each other, not for a host
CLOSE = 0.1  # batches; a wait that is longer than predicted by less is as predicted
QUERIES = 40_000
STEADY = (1.0, 1.0, 1.0, 1.0, 1.0)  # mean, p50, p90, p95, p99 over the p95
TAIL = (0.90, 0.86, 0.97, 1.0, 1.08)  # the mean is that of times between these percentiles
HEADROOMS = (1.0, 1.05, 1.2)  # of plans for the paper's cluster
MIX_SEED, OF_LARGEST = 6, 0.8  # of the largest multiple of that mix that can be served
LOST_PERCENT = 100 * (1 - DEFAULT_ATTAINMENT)


@dataclass(frozen=True, slots=True)
class Waited:
    """Of one run: the wait that as few queries exceed as may be late, in full batches, and the part that is lost."""

    longest: float
    lost_frac: float
    expected_lost_frac: float


def main() -> int:
    """Print a row for each number of hosts, and a line per aim; exit with 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the queries, and no host numbers beyond 8")
    parser.add_argument("--jitter", choices=tuple(JITTERS), help="batch times scatter up to this percentile")
    options = parser.parse_args()
    queries = QUERIES // 10 if options.quick else QUERIES
    rows, aims = [], []
    for hosts in [count for count in HOSTS if count <= 8 or not options.quick]:
        predicted = 1 / slo_fraction(hosts) - 1
        found = {load: simulated(hosts, load, queries, JITTERS.get(options.jitter)) for load in LOADS}
        cells = [
            f"{each.longest:.2f} / {_percent(each.lost_frac)} ({_percent(each.expected_lost_frac)})"
            for each in found.values()
        ]
        rows.append((str(hosts), f"{slo_fraction(hosts):.2f}", f"{predicted:.2f}", *cells))
        longest, lost = found[HIGH_LOAD].longest, 100 * found[USUAL_LOAD].lost_frac
        limit = round(predicted + CLOSE, 2)
        aims += [
            Aim(f"{hosts} hosts, longest wait at {HIGH_LOAD:.0%}", longest, limit, "batches", is_most=True),
            Aim(f"{hosts} hosts, lost at {USUAL_LOAD:.0%}", lost, LOST_PERCENT, "%", is_most=True),
        ]
    columns = ("hosts", "part of the SLO", "predicted", *(f"load {load:.0%}" for load in LOADS))
    note = (
        f"Predicted: the wait, in full batches, that {LOST_PERCENT:g} % of queries may exceed. Loads: that wait as "
        "simulated / % of queries late, dropped or refused (in brackets: as the plan expects)."
    )
    console = Console(width=130)
    console.print(machine(), rich_table(Table("Waits for a host", columns, tuple(rows), note)))
    if PAPER.exists():
        console.print(rich_table(by_family(queries)))
    return conclude(aims)


def by_family(queries: int) -> Table:
    """What plans for the paper's cluster expect to be lost of each family, beside what is, at each headroom."""
    fleet = paper_fleet()
    profiles, families = fleet.profiles(), fleet.catalog.names
    mix = synthetic_mix(fleet, np.random.default_rng([SEED, MIX_SEED]))
    multiple = max_multiple(Planner(fleet.catalog, profiles, policy_named("proteus"), headroom=1.0, inputs={}), mix)
    demand_qps = {family: OF_LARGEST * multiple * part for family, part in mix.items()}
    cells: dict[str, list[str]] = {family: [family] for family in families}
    for headroom in HEADROOMS:
        planner = Planner(fleet.catalog, profiles, policy_named("proteus"), headroom=headroom, inputs={}, spares=False)
        plan = expecting(planner(demand_qps), fleet.catalog, profiles)
        rng = np.random.default_rng([SEED, round(100 * headroom)])
        total_qps = sum(demand_qps.values())
        trace = make_trace(
            "mix", Poisson(), rate_qps=total_qps, duration_s=len(families) * queries / total_qps,
            shares={family: qps / total_qps for family, qps in demand_qps.items()}, rng=rng,
        )  # fmt: skip
        ended = simulate(
            trace, plan, fleet.catalog, profiles, _kept("proteus"), _never, conditions=Conditions(0.0), rng=rng
        ).ended
        for family in families:
            mine = [record.outcome is not Outcome.SERVED for record in ended if record.family == family]
            expected = plan.expected_attainment.get(family)
            hosts, load = (
                sum(p.family == family for p in plan.placements),
                demand_qps[family] / plan.capacity_qps(family),
            )
            told = f"{_percent(1 - (expected or 0.0))} / {_percent(sum(mine) / len(mine))}"
            cells[family].append(f"{hosts} at {load:.0%}: {told}")
    columns = "family", *(f"headroom {headroom:g}" for headroom in HEADROOMS)
    note = "Hosts and their load: % of queries that the plan expects to be lost / % simulated."
    return Table("Attainment by family, the paper's cluster", columns, tuple(map(tuple, cells.values())), note)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _kept(policy: str) -> Policy:
    """A policy by which the plan never changes."""
    return replace(policy_named(policy), replanning=None)


def simulated(hosts: int, load: float, queries: int, jitter: float | None = None) -> Waited:
    """One run of so many queries at a part of the hosts' capacity; with ``jitter``, batch times scatter by `TAIL`."""
    plan, profiles, catalog = made_up(hosts, STEADY if jitter is None else TAIL)
    rate_qps = load * sum(placement.capacity_qps for placement in plan.placements)
    trace = make_trace(
        "waits", Poisson(), rate_qps=rate_qps, duration_s=queries / rate_qps, shares={"a": 1.0},
        rng=np.random.default_rng([SEED, hosts, round(100 * load)]),
    )  # fmt: skip
    found = simulate(
        trace,
        plan,
        catalog,
        profiles,
        _kept("proteus"),
        _never,
        conditions=Conditions(0.0, jitter),
        rng=np.random.default_rng(SEED),
    )
    waits_s = [at_s - request.arrival_s for at_s, launch in found.launches for request in launch.requests]
    lost = sum(record.outcome is not Outcome.SERVED for record in found.ended)
    full_s = profiles["w0"].variants[0].points[-1].p95_s
    asked = expecting(msgspec.structs.replace(plan, demand_qps={"a": rate_qps}), catalog, profiles)
    expected_lost = 1 - (asked.expected_attainment.get("a") or 0.0)
    return Waited(float(np.quantile(waits_s, DEFAULT_ATTAINMENT)) / full_s, lost / len(trace), expected_lost)


def made_up(hosts: int, tail: tuple[float, ...] = STEADY) -> tuple[Plan, Mapping[str, Profile], Catalog]:
    """So many hosts of one variant, of which a full batch takes just the part of the SLO that planning allows.

    ``tail``: the mean and the percentiles 50, 90, 95 and 99, as parts of the p95.
    """
    full_s = slo_fraction(hosts) * SLO_S * (1 - 1e-9)
    times_s = {rows: full_s * (FIXED_PART + (1 - FIXED_PART) * rows / MAX_ROWS) for rows in (1, 4, 8, MAX_ROWS)}
    mean, p50, p90, p95, p99 = tail
    points = tuple(
        Point(rows, 1, mean * s, p50 * s, p90 * s, p95 * s, p99 * s, qps=rows / (mean * s))
        for rows, s in times_s.items()
    )
    measured = VariantProfile("a", "v", 1.0, None, "", None, 0.0, 0.0, 0, points)
    devices = tuple(f"w{place}" for place in range(hosts))
    profiles = {
        device: Profile(FORMAT, NOBODY, Device(device, "w", "cpu", "", 0, (0,)), "w0", BackendInfo("", {}), (measured,))
        for device in devices
    }
    within = Rules().capacity_within(SLO_S, points, hosts)
    placements = tuple(
        Placement(device, "a", "v", within.max_batch, within.qps, 1 / hosts, within.qps) for device in devices
    )
    catalog = Catalog(FORMAT, (Family("a", f"{SLO_S:g}s", (Variant("v", 1.0, "v.onnx"),)),))
    return _plan(placements, devices), profiles, catalog


def _plan(placements: tuple[Placement, ...], devices: tuple[str, ...]) -> Plan:
    demand_qps = {"a": sum(placement.rate_qps for placement in placements)}
    return Plan(
        format=PLAN_FORMAT,
        made_by=NOBODY,
        policy="proteus",
        objective="by hand",
        rules=Rules(),
        headroom=1.0,
        demand_qps=demand_qps,
        served_qps=demand_qps,
        unserved_qps={"a": 0.0},
        effective_accuracy=1.0,
        relative_accuracy=1.0,
        solver=Solver("by hand", "optimal", 0.0, 0.0),
        fleet={"w": devices},
        placements=placements,
        inputs={},
    )


def _never(*_asked: object) -> Plan:
    raise AssertionError("the plan never changes")


if __name__ == "__main__":
    sys.exit(main())
