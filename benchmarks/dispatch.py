"""Worlds in which demand is above a plan's capacity; a part of `benchmarks.simulator`, and of tests.

Workers of one family host six variants, from fast to accurate; the plan is written down here and never changes. Batches
are as large as fits a part of the SLO that grows with the workers. Goodput is compared with a bound that holds even if
the arrivals are known (`most_answered`). The benchmark shows goodput and cost at 0.9 to 2 times the capacity, for up to
6,000 workers. `tests/simulation/test_overload.py` has slow devices, surges and the time after them.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from benchmarks.frame import Aim, Found, Table, percent
from benchmarks.frame import Run as Options
from benchmarks.worlds import FAMILY, measured, never, plan_by_hand, profile, slowed
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.capacity import slo_fraction
from proteus_cli.domain.catalog import Catalog, Family, Variant
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.trace import Trace
from proteus_cli.simulation.conditions import Conditions, SlowSpan
from proteus_cli.simulation.fleet import SimulationResult
from proteus_cli.simulation.run import simulate

SLO_S = 0.15
ROW_S = (0.022, 0.030, 0.040, 0.055, 0.075, 0.100)  # a batch of one row, by variant; each further row takes 0.6 of it
BATCHES = range(1, 17)
LOADS = (0.9, 1.0, 1.3, 2.0)  # times the capacity
WARM_UP_S = 1.0
SLOW_S, SLOW_FACTORS = (1.0, 4.0), (1.05, 1.15, 1.3)  # devices are slow for a while
BACK_S = (6.0, 8.0)  # goodput is looked at from 2 s after that on
LEARNED_S = 3.0  # s after which a slowdown is known: each batch counts for a tenth of what is known
QUERIES = 30_000  # of each run, about
MANY, FEW = (60, 600, 6000), (2, 12)
MIN_GOODPUT_FRAC = 0.95  # of what is possible
MAX_GROWTH = 1.5  # of the cost of a query, from the fewest of the many workers to the most


@dataclass(frozen=True, slots=True)
class Run:
    """Of the requests after a warm-up. ``goodput_frac``: of what is possible."""

    served: int
    goodput_frac: float
    violations_frac: float
    query_s: float
    result: SimulationResult


@dataclass(frozen=True, slots=True)
class World:
    """So many alike ``workers``, with a plan for them of ``capacity_qps``."""

    workers: int
    catalog: Catalog
    profiles: dict[str, Profile]
    plan: Plan
    capacity_qps: float

    @property
    def duration_s(self) -> float:
        """For about `QUERIES` at capacity, and long enough for the end of a surge to show."""
        return max(QUERIES / self.capacity_qps, 3 * WARM_UP_S)

    def run(
        self,
        loads: list[tuple[float, float]],
        *,
        slower: float | SlowSpan = 1.0,
        seed: int = 1,
        warm_up_s: float = WARM_UP_S,
    ) -> Run:
        """Simulate Poisson arrivals: so many times the capacity for so many seconds each.

        Batches take ``slower`` times as long as profiled. Where that is for a while only, what is possible is bounded
        by what is without it.
        """
        slow, lasting = (slower, 1.0) if isinstance(slower, SlowSpan) else (SlowSpan(slower), slower)
        trace = self.trace(loads, seed)
        count = len(trace)
        policy = replace(policy_named("proteus"), replanning=None)
        conditions = Conditions(slow=slow)
        before_s = time.process_time()
        result = simulate(trace, self.plan, self.catalog, self.profiles, policy, never, conditions=conditions)
        query_s = (time.process_time() - before_s) / count
        assert len(result.ended) == count, "each request ends once"
        counted = [ended for ended in result.ended if ended.arrival_s >= warm_up_s]
        served = Counter(ended.outcome for ended in counted)[Outcome.SERVED]
        possible = most_answered(trace.arrival_s.tolist(), self.rate_qps(lasting), warm_up_s)
        return Run(served, served / possible, 1 - served / len(counted), query_s, result)

    def trace(self, loads: Sequence[tuple[float, float]], seed: int) -> Trace:
        """Poisson arrivals: so many times the capacity for so many seconds each."""
        rng, parts, start_s = np.random.default_rng(seed), [], 0.0
        for load, for_s in loads:
            count = rng.poisson(load * self.capacity_qps * for_s)
            parts.append(np.sort(rng.uniform(start_s, start_s + for_s, count)))
            start_s += for_s
        arrival_s = np.concatenate(parts)
        count = len(arrival_s)
        return Trace(
            "poisson", (FAMILY,), arrival_s, np.zeros(count, np.int64), np.full(count, np.nan), np.zeros(count)
        )

    def informed(self, slower: float) -> "World":
        """Workers with the same variants and the same demand, whose plan and profiles have the true times."""
        placements = tuple(
            _placement(placed.device, _place(placed), self.workers, slower) for placed in self.plan.placements
        )
        profiles = dict.fromkeys(self.profiles, slowed(self.profiles["d0"], slower))
        return replace(self, plan=msgspec.structs.replace(self.plan, placements=placements), profiles=profiles)

    def rate_qps(self, slower: float) -> float:
        """What the workers carry at most where batches take so many times as long as profiled.

        That may be less than their capacity divided by it, as fewer rows are in time.
        """
        return sum(_rate_qps(placement, slower) for placement in self.plan.placements)


def world(workers: int, mix: Sequence[int] = range(len(ROW_S))) -> World:
    """Workers that host the variants of the ``mix`` in turn; instead of one that is too slow for them, the fastest."""
    variants = tuple(Variant(f"v{place}", 0.70 + 0.03 * place, f"v{place}.onnx") for place in range(len(ROW_S)))
    catalog = Catalog(FORMAT, (Family(FAMILY, f"{SLO_S * 1e3:g}ms", variants),))
    known = [
        measured(FAMILY, each.name, each.accuracy, {rows: _takes_s(row_s, rows) for rows in BATCHES})
        for each, row_s in zip(variants, ROW_S, strict=True)
    ]
    profiles = {f"d{n}": profile("d", known, f"d{n}") for n in range(workers)}
    limit_s = slo_fraction(workers) * SLO_S
    places = [mix[n % len(mix)] for n in range(workers)]
    placements = [
        _placement(device, place if _takes_s(ROW_S[place], 1) <= limit_s else 0, workers)
        for device, place in zip(profiles, places, strict=True)
    ]
    capacity_qps = sum(placement.capacity_qps for placement in placements)
    plan = plan_by_hand(placements, "d", list(profiles))
    return World(workers, catalog, profiles, plan, capacity_qps)


def most_answered(arrival_s: Iterable[float], rate_qps: float, from_s: float) -> int:
    """The most requests that workers which carry ``rate_qps`` answer in time, if they knew all arrivals: a bound.

    So many are answered one by one, each in ``1 / rate_qps``, in order, as far as they can be made. Any schedule of
    batches is also one in which the rows of a batch progress alike, together never faster than this. Of the requests
    ``from_s`` on, only who gives up earlier ones for them could answer more, by what is answered in an SLO.
    """
    free_s, count = 0.0, 0
    for each_s in arrival_s:
        end_s = max(free_s, each_s) + 1 / rate_qps
        if end_s <= each_s + SLO_S:
            free_s = end_s
            count += each_s >= from_s
    return count


def _placement(device: str, place: int, workers: int, slower: float = 1.0) -> Placement:
    """The variant of that place with the largest batch that planning allows, or one row, in true times."""
    times_s = {rows: slower * _takes_s(ROW_S[place], rows) for rows in BATCHES}
    rows = max((rows for rows, takes_s in times_s.items() if takes_s <= slo_fraction(workers) * SLO_S), default=1)
    qps = rows / times_s[rows]
    return Placement(device, FAMILY, f"v{place}", rows, qps, 1 / workers, qps)


def _place(placement: Placement) -> int:
    return int(placement.variant.removeprefix("v"))


def _rate_qps(placement: Placement, slower: float) -> float:
    row_s = ROW_S[_place(placement)]
    times_s = {rows: slower * _takes_s(row_s, rows) for rows in range(1, placement.max_batch + 1)}
    return max((rows / takes_s for rows, takes_s in times_s.items() if takes_s <= SLO_S), default=0.0)


def overload(options: Options) -> Found:
    """Goodput and cost in overload."""
    counts, rows, costs, aims = (*FEW, *(MANY[:1] if options.is_quick else MANY)), [], {}, list[Aim]()
    for workers in counts:
        each = world(workers)
        runs = [each.run([(load, each.duration_s)]) for load in LOADS]
        for load, run in zip(LOADS, runs, strict=True):
            what = f"{workers} workers, {load:g} × capacity: goodput"
            aims.append(Aim(what, run.goodput_frac, MIN_GOODPUT_FRAC, "of what is possible", is_most=False))
        costs[workers] = sum(run.query_s for run in runs) / len(runs)
        cells = [f"{percent(run.goodput_frac, 1)} / {run.query_s * 1e6:.1f} µs" for run in runs]
        rows.append((f"{workers}", f"{each.capacity_qps:,.0f}", *cells))
    first, last = counts[len(FEW)], counts[-1]
    what = f"{last} workers: CPU per query over that of {first}"
    aims.append(Aim(what, costs[last] / costs[first], MAX_GROWTH, "times", is_most=True))
    columns = ("workers", "capacity, qps", *(f"{load:g} ×" for load in LOADS))
    title = "Goodput of what is possible / CPU per query of the simulation"
    return Found((Table(title, columns, tuple(rows)),), tuple(aims))


def recovered_fracs(each: World, load: float, *, seed: int = 1) -> dict[float, float]:
    """By `SLOW_FACTORS`: goodput in `BACK_S` with batches that long in `SLOW_S`, of what it is without these."""
    loads = [(load, BACK_S[1])]
    slow = {factor: each.run(loads, slower=SlowSpan(factor, *SLOW_S), seed=seed) for factor in SLOW_FACTORS}
    usual = _served(each.run(loads, seed=seed).result, *BACK_S)
    return {factor: _served(run.result, *BACK_S) / usual for factor, run in slow.items()}


def _served(result: SimulationResult, from_s: float, to_s: float) -> int:
    """How many of the requests that arrived then were answered in time."""
    return sum(ended.outcome is Outcome.SERVED for ended in result.ended if from_s <= ended.arrival_s < to_s)


def violations_frac(result: SimulationResult, from_s: float, to_s: float) -> float:
    """The part of the requests that arrived then which was not answered in time."""
    outcomes = [ended.outcome for ended in result.ended if from_s <= ended.arrival_s < to_s]
    return 1 - outcomes.count(Outcome.SERVED) / len(outcomes)


def _takes_s(row_s: float, rows: int) -> float:
    return row_s * (0.4 + 0.6 * rows)
