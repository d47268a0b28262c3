"""How long queries wait for a host: as planning predicts it, and as it is simulated.

So many alike hosts serve one family from one queue, with the largest batches that planning allows (`slo_fraction`).
Arrivals are Poisson, at a part of what the hosts carry in full batches. A wait is from the arrival of a query to the
start of its batch; the plan never changes, and all that is lost counts.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console

from benchmarks.machine import machine
from benchmarks.planner_instances import NOBODY
from benchmarks.tables import Aim, Table, conclude, rich_table
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog.catalog import Catalog, Family, Variant
from proteus_cli.domain.device import Device
from proteus_cli.domain.plan.plan import PLAN_FORMAT, Placement, Plan, Solver
from proteus_cli.domain.plan.rules import Rules
from proteus_cli.domain.profile.capacity import slo_fraction
from proteus_cli.domain.profile.profile import BackendInfo, Point, Profile, VariantProfile
from proteus_cli.domain.request import Outcome
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
LOST_PERCENT = 100 * (1 - DEFAULT_ATTAINMENT)


@dataclass(frozen=True, slots=True)
class Waited:
    """Of one run: the wait that as few queries exceed as may be late, in full batches, and the part that is lost."""

    longest: float
    lost_frac: float


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
        cells = [f"{each.longest:.2f} / {100 * each.lost_frac:.2f}" for each in found.values()]
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
        "simulated / % of queries late, dropped or refused."
    )
    Console(width=110).print(machine(), rich_table(Table("Waits for a host", columns, tuple(rows), note)))
    return conclude(aims)


def simulated(hosts: int, load: float, queries: int, jitter: float | None = None) -> Waited:
    """One run of so many queries at a part of the hosts' capacity; with ``jitter``, batch times scatter by `TAIL`."""
    plan, profiles, catalog = made_up(hosts, STEADY if jitter is None else TAIL)
    rate_qps = load * sum(placement.capacity_qps for placement in plan.placements)
    trace = make_trace(
        "waits", Poisson(), rate_qps=rate_qps, duration_s=queries / rate_qps, shares={"a": 1.0},
        rng=np.random.default_rng([SEED, hosts, round(100 * load)]),
    )  # fmt: skip
    policy = replace(policy_named("proteus"), replanning=None)
    found = simulate(
        trace,
        plan,
        catalog,
        profiles,
        policy,
        _never,
        conditions=Conditions(0.0, jitter),
        rng=np.random.default_rng(SEED),
    )
    waits_s = [at_s - request.arrival_s for at_s, launch in found.launches for request in launch.requests]
    lost = sum(record.outcome is not Outcome.SERVED for record in found.ended)
    full_s = profiles["w0"].variants[0].points[-1].p95_s
    return Waited(float(np.quantile(waits_s, DEFAULT_ATTAINMENT)) / full_s, lost / len(trace))


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
