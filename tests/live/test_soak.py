"""The server for as long as you like, while demand varies and things break: no request is lost, nothing leaks."""

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import uvloop
from chaos import Chaos
from footprint import Footprint, Watch, footprint
from injecting import until
from live_server import LiveServer, serving
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from soak import (
    Injector,
    Site,
    conditions,
    diurnal_with_bursts,
    emulated_site,
    joined,
    real_site,
    schedule,
)
from trend import Growth, growth

from proteus_cli.cli.simulating import Scenario, simulated
from proteus_cli.control.policies import PROTEUS
from proteus_cli.domain.report import Report
from proteus_cli.domain.request import Bounds, Outcome
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.loadgen import LEAD_S, ReplayResult, replay
from proteus_cli.replay.target import Reply, Target, http_target
from proteus_cli.reporting.measures import report
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.units import parse_duration

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.extended, pytest.mark.from_nothing]

RUDE_PAUSE = 10.0
WARM_UP_FRAC = 1 / 3  # in which caches fill, and everything has happened once
MAX_GAP = 1.0  # points of violations, and of relative accuracy, in `LONG_S`: live against what simulations find
LONG_S = 300.0
SIMULATIONS = 3
SHIFT_S = 0.05  # the most that their arrivals are moved by, as nothing is on time on a busy machine

# The most that the whole run may have grown by, after the warm-up, with 95 % confidence. What leaks grows with the
# length of a run, what scatters doesn't: the longer it lasts, the smaller the leak that is found. Memory scatters by
# some MiB as allocators keep what they had at the last peak; of threads, files and processes not one may stay.
MAX_GROWTH = {"resident_bytes": 16 * 2.0**20, "threads": 1.0, "files": 1.0, "processes": 1.0}
MAX_SHARED = 4  # files by device: two slots, each with memory there and back

Told = dict[str, Counter[str]]
"""How many requests ended how, by family."""


@dataclass
class Counting:
    """Passes requests on, and counts how the server said that they ended."""

    target: Target
    told: Told

    async def send(
        self, family: str, number: int, timeout_s: float, min_accuracy: float, bounds: Bounds | None = None
    ) -> Reply:
        reply = await self.target.send(family, number, timeout_s, min_accuracy, bounds)
        self.told[family][reply.outcome.value] += 1
        return reply


@dataclass(frozen=True)
class Bound:
    """The most ``violations``, as a fraction, and the ``gap`` of relative accuracy to simulations, in points.

    On a machine whose plans are slow, simulations find more violations than the site allows: then they are the measure.
    """

    violations: float
    gap: float


@dataclass(frozen=True)
class Run:
    """What came of it, as its clients saw it; ``start_s``: of the trace, by `time.monotonic`."""

    load: ReplayResult
    told: Told
    start_s: float


@pytest.mark.timeout(0)
def test_soak(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    lasts_s = parse_duration(request.config.getoption("--soak"))
    seed = int(request.config.getoption("--soak-seed"))
    show(f"\nsoak for {lasts_s:.0f} s, seed {seed}")
    to_ask, to_break = np.random.default_rng(seed).spawn(2)
    site = (real_site if request.config.getoption("--soak-real") else emulated_site)(tmp_path / "ws")
    trace = diurnal_with_bursts(site, lasts_s, to_ask)
    with serving(site.root, Path("plan"), *site.options) as live:
        live.until(lambda status: status["solver"]["is_warm"])
        before = footprint(live.process.pid, live.port, 0)
        injector = Injector(live, site, schedule(site.kinds, lasts_s, to_break))
        watch = Watch(live.process.pid, live.port)
        chaos = Chaos(live.port, seed, family=site.rude_family or site.busy[0], pause=RUDE_PAUSE)
        with watch.looking(), chaos.raging(chaos.rude_kinds):
            run = asked(live, trace, injector)
        assert live.process.poll() is None, live.log.read_text()
        status = live.until(lambda status: status["inside"] == 0 and all_there(status))
        until(lambda: footprint(live.process.pid, live.port, 0).files <= before.files, "files stay open")
        counted: Told = {
            family: Counter({name: n for name, n in outcomes.items() if n})
            for family, outcomes in status["outcomes"].items()
        }
        measured = in_metrics(live)
        assert live.stop() == 0
        left = watch.left_behind()
        log = live.log.read_text()

    found = reported(run, site, trace)
    rude = counted.get(site.rude_family or "", Counter[str]()).total()
    plans_s = [int(ms) / 1e3 for ms in re.findall(r"new plan after (\d+) ms", log)]
    given = conditions(injector.done, plans_s, median(status["pace"].values()))
    expected = expectations(site, trace, given, rude, np.random.default_rng(seed))
    grown = {name: growth_of(watch.samples, name) for name in MAX_GROWTH}
    gap = max_gap_of(lasts_s)
    worst = max(site.max_violations, max(each.slo_violation_ratio for each in expected) + gap / 100)
    summary(site, injector, run, counted, found, given, expected, grown, watch.samples, Bound(worst, gap))

    assert "Traceback" not in log, log
    assert "a bug" not in log, log
    assert measured == counted
    assert live.ended() == {outcome.value: sum(of[outcome.value] for of in counted.values()) for outcome in Outcome}
    ended_once(run, trace, counted, chaos, site)
    assert found.failed == 0
    if kept_time(run):
        assert found.slo_violation_ratio <= worst
        lowest, highest = span([points(each, site.busy) for each in expected])
        assert lowest - gap <= points(found) <= highest + gap
    assert {name: round(each.most, 2) for name, each in grown.items() if each.most > MAX_GROWTH[name]} == {}
    assert max(each.shared for each in watch.samples) <= MAX_SHARED * len(site.profiles)
    assert left == []


# --- the run


def asked(live: LiveServer, trace: Trace, injector: Injector) -> Run:
    """The whole trace, while faults are injected."""

    async def run() -> Run:
        async with http_target(f"http://127.0.0.1:{live.port}") as target:
            status = await target.prepare(trace.families)
            told: Told = {family: Counter() for family in trace.families}
            start_s = time.monotonic() + LEAD_S
            with injector.injecting(start_s):
                load = await replay(trace, Counting(target, told), status.slo_s)
            return Run(load, told, start_s)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def kept_time(run: Run) -> bool:
    """Whether requests were sent on time. Simulations know no machine that stands still for longer than that."""
    return run.load.lag_p99_s <= SHIFT_S


def all_there(status: dict[str, dict[str, dict[str, str]]]) -> bool:
    return {device["breaker"] for device in status["devices"].values()} == {"closed"}


def in_metrics(live: LiveServer) -> Told:
    """How requests ended, as the metrics say."""
    found: Told = {}
    for metric in text_string_to_metric_families(live.get("/metrics").body.decode()):
        if metric.name == "proteus_requests":
            for sample in metric.samples:
                if sample.value:
                    outcomes = found.setdefault(sample.labels["family"], Counter())
                    outcomes[sample.labels["outcome"]] += int(sample.value)
    return found


# --- what it should have been


def reported(run: Run, site: Site, trace: Trace) -> Report:
    catalog = site.place.catalog()
    return report(
        run.load.records,
        policy=PROTEUS.name,
        mode="emulated" if "--emulate" in site.options else "live",
        trace=trace.name,
        duration_s=trace.duration_s,
        slo_s={family: catalog.slo_s()[family] for family in site.busy},
        best_accuracy=best_accuracies(site),
    )


def best_accuracies(site: Site) -> dict[str, float]:
    families = site.place.catalog().families
    return {family.name: max(variant.accuracy for variant in family.variants) for family in families}


def expectations(site: Site, trace: Trace, conditions: Conditions, rude: int, rng: np.random.Generator) -> list[Report]:
    """What simulations make of the same: what bad clients asked for is spread evenly over the time.

    When a plan changes, and to what, hangs on single arrivals: so there are several simulations, of arrivals that are
    as late as a busy machine makes them, and what they find is an interval.
    """
    parts = [trace]
    if site.rude_family is not None and rude:
        at_s = (np.arange(rude) + 0.5) * trace.duration_s / rude
        parts.append(Trace("rude", (site.rude_family,), at_s, np.zeros(rude, np.int64), np.full(rude, np.nan)))
    plan = site.place.plan(Path("plan"))
    found: list[Report] = []
    for _ in range(SIMULATIONS):
        late = [replace(part, arrival_s=np.sort(part.arrival_s + rng.uniform(0, SHIFT_S, len(part)))) for part in parts]
        asked = joined(late, [0.0] * len(late))
        scenario = Scenario(site.place, site.profiles, asked, plan, plan.headroom, conditions, 0)
        found += simulated(scenario, [PROTEUS])
    return found


def span(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def points(found: Report, families: Sequence[str] = ()) -> float:
    """Relative accuracy over what was answered of these families, of all by default; in percent."""
    chosen = [summary for family, summary in found.families.items() if not families or family in families]
    answers = [each.served + each.late for each in chosen]
    total = sum(n * (each.relative_accuracy or 0.0) for n, each in zip(answers, chosen, strict=True))
    return 100 * total / sum(answers)


def ended_once(run: Run, trace: Trace, counted: Told, chaos: Chaos, site: Site) -> None:
    """What clients were told is what was counted; only bad clients don't wait to be told."""
    sent = sum(outcomes.total() for outcomes in run.told.values())
    assert len(run.load.records) == len(trace)
    unsent = sum(each.outcome is Outcome.DROPPED for each in run.load.records)  # or told so
    assert sent <= len(trace) <= sent + unsent
    for family in site.busy:
        assert run.told[family] == counted[family], family
    if site.rude_family is None:
        assert chaos.tally.ended == Counter()
    else:
        rude = counted.get(site.rude_family, Counter[str]())
        assert 0 <= rude.total() - chaos.tally.ended.total() <= chaos.tally.unknown


def max_gap_of(lasts_s: float) -> float:
    """In a shorter run, more hangs on the moments of single faults and plans: as means do, it scatters by 1/√time."""
    return MAX_GAP * max(1.0, math.sqrt(LONG_S / lasts_s))


def growth_of(samples: Sequence[Footprint], name: str) -> Growth:
    """Files and the like are compared where as many processes are there: each that is replaced takes some along."""
    later = samples[int(len(samples) * WARM_UP_FRAC) :]
    if name != "processes":
        usual, _ = Counter(each.processes for each in later).most_common(1)[0]
        later = [each for each in later if each.processes == usual]
    return growth([each.at_s for each in later], [float(getattr(each, name)) for each in later])


# --- what is shown


def summary(
    site: Site,
    injector: Injector,
    run: Run,
    counted: Told,
    found: Report,
    given: Conditions,
    expected: Sequence[Report],
    grown: dict[str, Growth],
    samples: Sequence[Footprint],
    bound: Bound,
) -> None:
    faults = Table("at, s", "fault", "device or model", title="what was done")
    for injected in injector.done:
        faults.add_row(f"{injected.at_s:.1f}", injected.kind.value, injected.target)
    requests = Table("", *(outcome.value for outcome in Outcome), title="how requests ended")
    for family in site.busy:
        for who, outcomes in (("told to clients", run.told[family]), ("counted by the server", counted[family])):
            requests.add_row(f"{family}: {who}", *(str(outcomes[outcome.value]) for outcome in Outcome))
    measures = Table("", found.mode, "simulated", "bound", title=f"{found.requests:,} requests")
    rows: tuple[tuple[str, Callable[[Report], float], str], ...] = (
        ("SLO violations, %", lambda each: 100 * each.slo_violation_ratio, f"≤ {100 * bound.violations:.2g}"),
        ("relative accuracy, %", lambda each: points(each, site.busy), f"within {bound.gap:.1f}"),
        ("mean batch", lambda each: each.mean_batch or 0.0, ""),
    )
    for name, read, limit in rows:
        lowest, highest = span([read(each) for each in expected])
        measures.add_row(name, f"{read(found):.2f}", f"{lowest:.2f} to {highest:.2f}", limit)
    held = Table("", "first", "last", "growth (95 %)", "limit", title="what the server held, after the warm-up")
    for name, each in grown.items():
        unit, scale = ("MiB", 2**20) if name == "resident_bytes" else ("", 1)
        ends = (getattr(samples[place], name) / scale for place in (int(len(samples) * WARM_UP_FRAC), -1))
        interval = f"{each.likely / scale:.2f} ({each.least / scale:.2f} to {each.most / scale:.2f})"
        first, last = (f"{value:.1f}" if unit else f"{value:.0f}" for value in ends)
        held.add_row(f"{name} {unit}".strip(), first, last, interval, f"≤ {MAX_GROWTH[name] / scale:g}")
    show(f"a plan took {1000 * given.solve_s:.0f} ms, a batch {given.slow.factor:.2f} times what was profiled")
    for table in (faults, requests, measures, held):
        show(table)
    judged = "" if kept_time(run) else " (too late to judge violations and accuracy)"
    lag = f"generator lag p99 {1000 * run.load.lag_p99_s:.1f} ms{judged}"
    show(f"{lag}; not done, as nobody was there: {dict(injector.missed)}")


def show(what: object) -> None:
    Console(width=120).print(what)
