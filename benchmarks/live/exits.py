"""Random bounds on the multi-exit model of the sample zoo, on one core: 10,000 requests of one row.

The model is split and profiled as users do it, and its most accurate operating point is hosted. Each request has a
bound on its latency, drawn evenly from the lowest that an answer of the first exit keeps to one and a half times the
time of the whole chain. A virtual core may be slower for some seconds than when it was profiled, so both are measured
anew before each round of 500 requests. Requests go through the controller and the chain, in one thread. Behind each
request its batch goes through the whole chain, for an oracle that takes the last exit in time of that very batch.

Measured, the aims are of a quiet machine: of rounds in which other programs took no more than 5 % of all cores, and no
more than one in 500 stages took over twice their median. Other rounds are repeated, up to five times as many in all.
Emulated, the chain runs in virtual time on cores of four kinds, and the aims are judged on the quiet one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from os import cpu_count
from pathlib import Path
from time import monotonic, perf_counter, process_time
from typing import Protocol

import numpy as np
from msgspec.structs import replace

from benchmarks.frame import Aim, Found, Run, Table, percent, proteus
from benchmarks.worlds import measured, plan_by_hand, profile
from proteus_cli.arrays import Bools, Floats, Ints
from proteus_cli.backends.affinity import pinned, usable_cores
from proteus_cli.backends.base import NamedArrays
from proteus_cli.backends.discovery import discover
from proteus_cli.backends.exits.runner import EXIT_NOTE, ExitRunner
from proteus_cli.backends.registry import open_backend
from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Launch
from proteus_cli.control.policies import Policy
from proteus_cli.control.topology.hosting import hosted_by
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.conditions import Condition, Metric
from proteus_cli.domain.plan import Placement
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Request
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.pace import StagePace
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.domain.stages.walk import ProfiledChain
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace
from proteus_cli.store.eval_splits import labelled_rows
from proteus_cli.studies.telemetry import read_machine
from proteus_cli.variants.zoo import EXIT_SAMPLE

REQUESTS, QUICK, SEED = 10_000, 500, 2026
WARM_UP, PER_ROUND = 400, 500
KEY = VariantKey(EXIT_SAMPLE.family, "digits-exits-accurate")
LONGEST = 1.5
"""The longest bound, in times of the whole chain."""
OTHERS_FRAC, INTERRUPTED_FRAC, MAX_TIMES = 0.05, 0.002, 5
WITHIN_PERCENT, BELOW_ORACLE_POINTS = 99.5, 0.5
AT_ONCE = Policy("at once", "all", GreedyBatcher(answer_frac=0.0), None)
"""Answers go nowhere here, so no time is kept back for that."""


# --- outcomes of requests, beside the oracle


@dataclass(frozen=True, slots=True)
class Samples:
    """By sample the exit at which its condition holds; by exit and sample, whether the answer of that exit is right."""

    stops_at: Ints
    right: Bools


@dataclass(frozen=True, slots=True)
class Requests:
    """By request its sample, its bound and how long it took, both in seconds, and the exit that answered.

    A request that was refused took for ever, and no exit answered it: 0. ``reached`` is the last exit that the same
    batch had passed within the bound when all of it was run; 0 where not even the first had.
    """

    sample: Ints
    bound_s: Floats
    took_s: Floats
    exit: Ints
    reached: Ints

    @property
    def within_percent(self) -> float:
        """Of all requests, also of those that were refused."""
        return 100 * float(np.mean(self.took_s <= self.bound_s))

    @property
    def answered(self) -> Bools:
        answered: Bools = self.exit > 0
        return answered

    def accuracy_percent(self, samples: Samples) -> float:
        """Of the requests that were answered."""
        return self._accuracy_percent(samples, self.exit)

    def oracle_percent(self, samples: Samples) -> float:
        """The accuracy of an oracle that answers the same requests, each in the same batch, of the same device.

        It takes the last exit that this batch reaches in time, and goes no further than a sample's own exit. Where not
        even the first is in time, that counts.
        """
        return self._accuracy_percent(samples, np.clip(self.reached, 1, samples.stops_at[self.sample]))

    @property
    def possible_percent(self) -> float:
        """Of all requests, those that the first exit was in time for: what who knows each batch before keeps."""
        return 100 * float(np.mean(self.reached > 0))

    def _accuracy_percent(self, samples: Samples, exits: Ints) -> float:
        return 100 * float(np.mean(samples.right[exits - 1, self.sample][self.answered]))


def together(parts: Sequence[Requests]) -> Requests:
    """The requests of all parts, one after another."""
    columns = zip(*((each.sample, each.bound_s, each.took_s, each.exit, each.reached) for each in parts), strict=True)
    return Requests(*map(np.concatenate, columns))


# --- a device that serves one request at a time


class Chain(Protocol):
    """What runs batches of one row, by its own clock: an engine, or an emulation.

    ``way_s``: how long the last answer was on its way to the server.
    """

    way_s: float

    def clock(self) -> float:
        """Now, in seconds."""
        ...

    def arrives(self, sample: int) -> None:
        """The next request is of that sample."""
        ...

    def run(self, bounds: ExitBounds) -> int:
        """Run it, and return the exit that answered."""
        ...

    def ends_s(self) -> Floats:
        """When each exit would have answered, had the batch gone through all stages, in seconds from its start."""
        ...


class EngineChain:
    """The engine of a device; behind a request, its batch is run once more, to see what its other stages take.

    What a request passed counts as it was: a run that was interrupted is no other for the oracle.
    """

    def __init__(self, runner: ExitRunner, rows: NamedArrays, exits: int) -> None:
        self._runner, self._rows, self._inputs = runner, rows, rows
        self.way_s = 0.0
        never = tuple(ExitProfile(points=(StagePoint(1, 1.0, 1.0),)) for _ in range(exits))
        self._all = ExitBounds((math.inf,), (1,), never, stop_when=Condition(Metric.EXIT, ">=", float(exits)))
        self._passed_s: list[float] = []

    def clock(self) -> float:
        return monotonic()

    def arrives(self, sample: int) -> None:
        self._inputs = {name: values[sample : sample + 1] for name, values in self._rows.items()}
        self._passed_s = []

    def run(self, bounds: ExitBounds) -> int:
        exit_, self._passed_s, self.way_s = self._timed(bounds)
        return exit_

    def ends_s(self) -> Floats:
        _, all_s, _ = self._timed(self._all)
        passed = len(self._passed_s)
        later_s = np.array(all_s[passed:]) + (self._passed_s[-1] - all_s[passed - 1] if passed else 0.0)
        return np.array([*self._passed_s, *later_s])

    def _timed(self, bounds: ExitBounds) -> tuple[int, list[float], float]:
        """The exit that answered, and when each exit up to that would have, in seconds from the start.

        Then how long the answer was on its way, as servers tell it: from the last moment that the chain looks at.
        """
        moments_s: list[float] = []

        def noting() -> float:
            moments_s.append(monotonic())
            return moments_s[-1]

        start_s = monotonic()
        exit_ = int(self._runner.infer(self._inputs, bounds, noting)[EXIT_NOTE][0])
        end_s = monotonic()
        out_s = end_s - moments_s[-2]
        return exit_, [moment_s - start_s + out_s for moment_s in moments_s[1:-1]], end_s - moments_s[-1]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request: seconds from its arrival until the chain began, and until its answer; its exit.

    Refused: the last two are infinite, and 0.
    """

    begun_s: float
    took_s: float
    exit: int


class OneDevice:
    """A controller with one host, and the chain of its model. It serves a request of one row at a time.

    The device hosts the variant ``key``, as a planner would have it that asks for nothing but accuracy.
    """

    def __init__(self, key: VariantKey, known: Profile, catalog: Catalog, chain: Chain) -> None:
        attainment = {family.name: family.attainment for family in catalog.families}
        self._controller = Controller(catalog.slo_s(), {known.device.id: 1}, AT_ONCE, attainment=attainment)
        device, placement = known.device, Placement(known.device.id, key.family, key.variant, 1, 1.0, 1.0, 1.0)
        plan = plan_by_hand([placement], device.type, [device.id])
        (self.host,) = hosted_by(plan, {known.device.id: known}, attainment)
        self._controller.adopt(plan, (self.host,), chain.clock())
        self.chain, self._numbers = chain, 0
        self._stages_s: list[Floats] = []

    def serve(self, sample: int, bound_s: float) -> Answer:
        """Let it in or refuse it, run it within its bound, and learn from it: as the data plane does."""
        self.chain.arrives(sample)
        host, clock, start_s = self.host, self.chain.clock, self.chain.clock()
        request = Request(self._numbers, host.family, start_s, start_s + bound_s)
        self._numbers += 1
        self._controller.offer(request, start_s)
        launch = self._controller.decide(host.device, start_s)
        if not isinstance(launch, Launch):
            return Answer(0.0, math.inf, 0)
        bounds, begun_s = self._controller.dispatch.exit_bounds(launch), clock()
        assert bounds is not None
        if math.isinf(bound_s):  # it may not be cut short
            bounds = replace(bounds, due_s=(math.inf,))
        exit_ = self.chain.run(bounds)
        end_s, way_s = clock(), self.chain.way_s
        exits = np.array([exit_])
        self._controller.dispatch.answers_came(launch, way_s)
        self._controller.finished(launch, end_s - way_s - begun_s, exits)
        return Answer(begun_s - start_s, end_s - start_s, exit_)

    def ends_s(self) -> Floats:
        """As `Chain.ends_s`, of the last request that was served."""
        ends_s = self.chain.ends_s()
        self._stages_s.append(np.diff(ends_s, prepend=0.0))
        return ends_s

    def interrupted_frac(self) -> float:
        """The part of all stages since this was asked last that took over twice their median."""
        stages_s, self._stages_s = np.array(self._stages_s), []
        return float(np.mean(stages_s > 2 * np.median(stages_s, axis=0)))


def served(device: OneDevice, sample: Ints, bound_s: Floats) -> Requests:
    """Serve requests one after another, and note what the whole chain would have taken, for the oracle."""
    count = len(sample)
    took_s, exits, reached = np.full(count, math.inf), np.zeros(count, np.int64), np.zeros(count, np.int64)
    for place in range(count):
        answer = device.serve(int(sample[place]), float(bound_s[place]))
        took_s[place], exits[place] = answer.took_s, answer.exit
        reached[place] = np.count_nonzero(answer.begun_s + device.ends_s() <= bound_s[place])
    return Requests(sample, bound_s, took_s, exits, reached)


def kept_s(device: OneDevice, count: int, share: float) -> tuple[float, float]:
    """Within what times that share of requests has the answers of the first and the last exit, of so many, now."""
    found = []
    for sample in range(count):
        begun_s, whole_s = device.serve(sample, 1.0).begun_s, device.ends_s()
        found.append((begun_s + whole_s[0], begun_s + whole_s[-1]))
    first_s, last_s = np.percentile(found, 100 * share, axis=0)
    return float(first_s), float(last_s)


# --- a chain in virtual time

STAGES_S = (73e-6, 177e-6, 108e-6, 154e-6)
"""Mean times of the four stages of the sample zoo, as `proteus profile` found them on a core without other programs."""
BEFORE_S, BEHIND_S, BETWEEN_S = 15e-6, 5e-6, 0.7e-3
"""From the arrival of a request to its first stage, from the last to the answer, and to the next request."""
WAY_SCATTER, WAY_INTERRUPTED = 0.3, 0.01
"""From the chain to a server: how much the logarithm of the time scatters, and the part of ways that is interrupted,
for as long as a stage; of the stages of live runs, 1 to 3 % took over twice their median."""
PROFILED = 2000
"""Runs of the profile."""
DRIFT_S, FAST_S, SLOW_S = 1.0, 20.0, 5.0
"""The level forgets within the first; a fast time lasts for the second in the mean, a slow one for the third."""


@dataclass(frozen=True, slots=True)
class Core:
    """How a core behaves: standard deviations of the logarithms of its level and of a stage; how many times longer a
    stage takes in a slow time; how often a second of work is interrupted, and for how long in the mean; and how long
    answers are on their way to a server.
    """

    name: str
    drift: float
    scatter: float
    slow: float
    interruptions: float
    interrupted_s: float
    way_s: float = 0.0


CORES = (
    Core("quiet", 0.05, 0.05, 1.2, 1.0, 0.3e-3),
    Core("shared", 0.10, 0.08, 1.5, 3.0, 1e-3),
    Core("busy", 0.15, 0.12, 2.0, 20.0, 4e-3),
    Core("served", 0.05, 0.05, 1.2, 1.0, 0.3e-3, way_s=50e-6),
)


class EmulatedChain:
    """Answers of samples are those at the exits where they stop (``stops_at``), unless they are cut short before."""

    def __init__(self, core: Core, stops_at: Ints, rng: np.random.Generator) -> None:
        self._core, self._stops_at, self._rng = core, stops_at, rng
        self._level, self._is_slow, self._now_s, self._pace = 0.0, False, 0.0, StagePace()
        self.way_s = 0.0
        self.exits = self._profiled(np.bincount(stops_at, minlength=len(STAGES_S) + 1)[1:] / len(stops_at))
        stages = [lambda _rows, place=place: float(self._stages_s[place]) for place in range(len(STAGES_S))]
        self._chain = ProfiledChain(self.exits, stages)

    def clock(self) -> float:
        return self._now_s

    def arrives(self, sample: int) -> None:
        self._now_s += BETWEEN_S
        self._sample = sample
        self._draw()

    def run(self, bounds: ExitBounds) -> int:
        begun_s = self._now_s + self._before_s
        walk = self._chain.walk(self._stops_at[[self._sample]], bounds, self._pace, begun_s, out_s=self._behind_s)
        self._now_s = begun_s + walk.took_s + self._behind_s + self.way_s
        return int(walk.exits[0])

    def ends_s(self) -> Floats:
        ends_s: Floats = self._before_s + np.cumsum(self._stages_s) + self._behind_s + self.way_s
        return ends_s

    def _draw(self) -> None:
        """The times of the next request."""
        core, rng, took_s = self._core, self._rng, BETWEEN_S + sum(STAGES_S)
        kept = math.exp(-took_s / DRIFT_S)
        self._level = kept * self._level + core.drift * math.sqrt(1 - kept**2) * rng.normal()
        if rng.random() < took_s / (SLOW_S if self._is_slow else FAST_S):
            self._is_slow = not self._is_slow
        level = math.exp(self._level) * (core.slow if self._is_slow else 1.0)
        self._before_s, self._behind_s = level * np.array((BEFORE_S, BEHIND_S)) * np.exp(rng.normal(0.0, 0.2, 2))
        times_s = level * np.array(STAGES_S) * np.exp(rng.normal(0.0, core.scatter, len(STAGES_S)))
        for place, count in enumerate(rng.poisson(core.interruptions * times_s)):
            times_s[place] += rng.exponential(core.interrupted_s, count).sum()
        self._stages_s = times_s
        if core.way_s:
            self.way_s = level * core.way_s * math.exp(rng.normal(0.0, WAY_SCATTER))
            if rng.random() < WAY_INTERRUPTED:
                self.way_s += rng.exponential(core.interrupted_s)

    def _profiled(self, shares: Floats) -> tuple[ExitProfile, ...]:
        measured_s = np.array([self._measure() for _ in range(PROFILED)])
        tails_s = np.percentile(measured_s, (95, 99, 99.5), axis=0).T.tolist()
        each = zip(shares.tolist(), measured_s.mean(axis=0).tolist(), tails_s, strict=True)
        return tuple(ExitProfile(share, points=(StagePoint(1, mean_s, *tails),)) for share, mean_s, tails in each)

    def _measure(self) -> Floats:
        self._draw()
        return self._stages_s


def profile_of(chain: EmulatedChain) -> Profile:
    """As if it had been measured."""
    mean_s = sum(each.points[0].mean_s for each in chain.exits)
    p95_s = sum(each.points[0].p95_s for each in chain.exits)
    whole = measured(KEY.family, KEY.variant, 1.0, {1: mean_s}, tail=p95_s / mean_s)
    return profile("cpu", [replace(whole, exits=chain.exits)], "cpu0")


# --- rounds


@dataclass(frozen=True, slots=True)
class Round:
    """Requests; the part of all cores that others took meanwhile, and the part of all stages that were interrupted."""

    requests: Requests
    others_frac: float
    interrupted_frac: float

    @property
    def is_quiet(self) -> bool:
        return self.others_frac <= OTHERS_FRAC and self.interrupted_frac <= INTERRUPTED_FRAC


def exits(run: Run) -> Found:
    """On the first core of this machine."""
    place, wanted = workspace(run.directory / "exits"), (QUICK if run.is_quick else REQUESTS) // PER_ROUND
    proteus("profile", "-w", str(place.root), "--max-batch", "1", "--accept-noise")
    with runner_of(place) as runner:
        rows, labels = labelled_rows(place.root / EXIT_SAMPLE.eval, runner.signature.inputs)
        samples = samples_of(runner, rows, labels)
        device = OneDevice(KEY, place.profile("cpu0"), place.catalog(), EngineChain(runner, rows, len(STAGES_S)))
        done, quiet = list[Round](), list[Round]()
        for each in islice(rounds(device, samples, others_core_s, run.options.seed), MAX_TIMES * wanted):
            done.append(each)
            quiet += [each] if each.is_quiet else []
            if len(quiet) == wanted:
                break
    enough = Aim("quiet rounds", len(quiet), wanted, "", is_most=False)
    both = {f"all {len(done)} rounds": done, f"{len(quiet)} quiet rounds": quiet}
    others, interrupted = np.mean([(each.others_frac, each.interrupted_frac) for each in done], axis=0)
    remark = f"Others took {percent(others)} of the cores; {percent(interrupted)} of the stages were interrupted."
    return Found(
        (table("Bounds on the multi-exit model, measured", {name: of for name, of in both.items() if of}, samples),),
        (enough, *(aims(quiet, samples) if quiet else ())),
        (remark,),
    )


def exits_emulated(run: Run) -> Found:
    """In virtual time, with the answers of the same model; the figures do not depend on the machine."""
    place = workspace(run.directory / "exits-emulated")
    with runner_of(place) as runner:
        samples = samples_of(runner, *labelled_rows(place.root / EXIT_SAMPLE.eval, runner.signature.inputs))
    found, seed = dict[str, list[Round]](), run.options.seed
    for core in CORES:
        chain = EmulatedChain(core, samples.stops_at, np.random.default_rng(seed))
        device = OneDevice(KEY, profile_of(chain), place.catalog(), chain)
        count = (QUICK if run.is_quick else REQUESTS) // PER_ROUND
        found[core.name] = list(islice(rounds(device, samples, lambda: 0.0, seed), count))
    return Found((table("Bounds, emulated", found, samples),), aims(found[CORES[0].name], samples))


def rounds(device: OneDevice, samples: Samples, others_s: Callable[[], float], seed: int) -> Iterator[Round]:
    """Serve rounds without end; ``others_s``: seconds that others have had of all cores, until now."""
    rng = np.random.default_rng(seed)
    while True:
        before_s, begun_s = others_s(), perf_counter()
        lowest_s, whole_s = kept_s(device, WARM_UP, device.host.attainment)
        sample = rng.integers(0, len(samples.stops_at), PER_ROUND)
        requests = served(device, sample, rng.uniform(lowest_s, LONGEST * whole_s, PER_ROUND))
        others_frac = (others_s() - before_s) / ((perf_counter() - begun_s) * (cpu_count() or 1))
        yield Round(requests, others_frac, device.interrupted_frac())


def others_core_s() -> float:
    """Seconds of cores that other programs, and the host of a virtual machine, have had since it started."""
    totals = read_machine().totals
    return totals["machine_cores"] + totals["steal_cores"] - process_time()


def table(title: str, found: dict[str, list[Round]], samples: Samples) -> Table:
    rows = []
    for name, of in found.items():
        all_ = together([each.requests for each in of])
        figures = (
            all_.within_percent,
            all_.possible_percent,
            all_.accuracy_percent(samples),
            all_.oracle_percent(samples),
        )
        refused = 100 - 100 * float(np.mean(all_.answered))
        rows.append((name, f"{len(all_.sample):,}", *(f"{value:.2f}" for value in (*figures, refused))))
    columns = ("", "requests", "in time, %", "possible", "accuracy, %", "the oracle's", "refused, %")
    return Table(title, columns, tuple(rows))


def aims(of: Sequence[Round], samples: Samples) -> tuple[Aim, ...]:
    """Possible is what an oracle keeps; it has no accuracy below its own."""
    requests = together([each.requests for each in of])
    below = requests.oracle_percent(samples) - requests.accuracy_percent(samples)
    within, possible = requests.within_percent, requests.possible_percent
    count = f"{len(requests.sample):,} requests"
    return (
        Aim(f"{count} within their bound", within, WITHIN_PERCENT, "%", is_most=False, possible=possible),
        Aim(f"{count}, accuracy below the oracle's", below, BELOW_ORACLE_POINTS, "points", is_most=True),
    )


def workspace(root: Path) -> Workspace:
    """A workspace with the multi-exit model alone, on the first core."""
    sample = EXIT_SAMPLE
    proteus("init", str(root))
    (root / "proteus.toml").write_text(f"[devices]\ncpu = [[{usable_cores()[0]}]]\n")
    (root / "engines" / "catalog.toml").unlink()
    made_of = ["--at", sample.at, "--slo", sample.slo, "--eval", str(root / sample.eval)]
    proteus("catalog", "split", sample.family, str(root / sample.model), *made_of, "-w", str(root))
    return Workspace(root)


@contextmanager
def runner_of(place: Workspace) -> Iterator[ExitRunner]:
    """The chain, loaded on the first core, where this thread runs meanwhile."""
    (device,) = discover(read_settings(place.root).devices)
    path = place.loaded_paths()[KEY]
    with pinned(device.cores), open_backend(device).runner(path) as runner:
        assert isinstance(runner, ExitRunner)
        yield runner


def samples_of(runner: ExitRunner, rows: NamedArrays, labels: Ints) -> Samples:
    """The answers of each exit to each row, without bounds."""
    stops_at = runner.infer(rows)[EXIT_NOTE].astype(np.int64)
    right = [next(iter(each.outputs.values())).argmax(axis=1) == labels for each in runner.passed(rows)]
    return Samples(stops_at, np.array(right))
