"""Random bounds on the multi-exit model of the sample zoo, in virtual time: 10,000 requests of one row.

The model is split as users do it, and its most accurate operating point is hosted, on cores of four kinds with the
answers of the model itself. Each request has a bound on its latency, drawn evenly from the lowest that an answer of the
first exit keeps to one and a half times the time of the whole chain; both are measured anew before each round of 500
requests. Requests go through the controller and the chain. An oracle takes the last exit in time of the very same
batch. The figures do not depend on the machine, and the aims are judged on the quiet core.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from benchmarks.frame import Aim, Found, Run, Table, proteus
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
from proteus_cli.variants.zoo import EXIT_SAMPLE

REQUESTS, QUICK, SEED = 10_000, 500, 2026
WARM_UP, PER_ROUND = 400, 500
KEY = VariantKey(EXIT_SAMPLE.family, "digits-exits-accurate")
LONGEST = 1.5
"""The longest bound, in times of the whole chain."""
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

    def __init__(self, key: VariantKey, known: Profile, catalog: Catalog, chain: "EmulatedChain") -> None:
        attainment = {family.name: family.attainment for family in catalog.families}
        self._controller = Controller(catalog.slo_s(), {known.device.id: 1}, AT_ONCE, attainment=attainment)
        device, placement = known.device, Placement(known.device.id, key.family, key.variant, 1, 1.0, 1.0, 1.0)
        plan = plan_by_hand([placement], device.type, [device.id])
        (self.host,) = hosted_by(plan, {known.device.id: known}, attainment)
        self._controller.adopt(plan, (self.host,), chain.clock())
        self.chain, self._numbers = chain, 0

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


def served(device: OneDevice, sample: Ints, bound_s: Floats) -> Requests:
    """Serve requests one after another, and note what the whole chain would have taken, for the oracle."""
    count = len(sample)
    took_s, exits, reached = np.full(count, math.inf), np.zeros(count, np.int64), np.zeros(count, np.int64)
    for place in range(count):
        answer = device.serve(int(sample[place]), float(bound_s[place]))
        took_s[place], exits[place] = answer.took_s, answer.exit
        reached[place] = np.count_nonzero(answer.begun_s + device.chain.ends_s() <= bound_s[place])
    return Requests(sample, bound_s, took_s, exits, reached)


def kept_s(device: OneDevice, count: int, share: float) -> tuple[float, float]:
    """Within what times that share of requests has the answers of the first and the last exit, of so many, now."""
    found = []
    for sample in range(count):
        begun_s, whole_s = device.serve(sample, 1.0).begun_s, device.chain.ends_s()
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


def exits(run: Run) -> Found:
    """A row for each kind of core."""
    place = workspace(run.directory / "exits")
    with runner_of(place) as runner:
        samples = samples_of(runner, *labelled_rows(place.root / EXIT_SAMPLE.eval, runner.signature.inputs))
    found, seed = dict[str, Requests](), run.options.seed
    for core in CORES:
        chain = EmulatedChain(core, samples.stops_at, np.random.default_rng(seed))
        device = OneDevice(KEY, profile_of(chain), place.catalog(), chain)
        count = (QUICK if run.is_quick else REQUESTS) // PER_ROUND
        found[core.name] = together(list(islice(rounds(device, samples, seed), count)))
    return Found((table(found, samples),), aims(found[CORES[0].name], samples))


def rounds(device: OneDevice, samples: Samples, seed: int) -> Iterator[Requests]:
    """Serve rounds without end."""
    rng = np.random.default_rng(seed)
    while True:
        lowest_s, whole_s = kept_s(device, WARM_UP, device.host.attainment)
        sample = rng.integers(0, len(samples.stops_at), PER_ROUND)
        yield served(device, sample, rng.uniform(lowest_s, LONGEST * whole_s, PER_ROUND))


def table(found: Mapping[str, Requests], samples: Samples) -> Table:
    rows = []
    for name, of in found.items():
        figures = of.within_percent, of.possible_percent, of.accuracy_percent(samples), of.oracle_percent(samples)
        refused = 100 - 100 * float(np.mean(of.answered))
        rows.append((name, f"{len(of.sample):,}", *(f"{value:.2f}" for value in (*figures, refused))))
    columns = ("core", "requests", "in time, %", "possible", "accuracy, %", "the oracle's", "refused, %")
    return Table("Bounds on the multi-exit model, emulated", columns, tuple(rows))


def aims(of: Requests, samples: Samples) -> tuple[Aim, ...]:
    """Possible is what an oracle keeps; it has no accuracy below its own."""
    below = of.oracle_percent(samples) - of.accuracy_percent(samples)
    count = f"{len(of.sample):,} requests"
    return (
        Aim(f"{count} within their bound", of.within_percent, WITHIN_PERCENT, "%", False, of.possible_percent),
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
