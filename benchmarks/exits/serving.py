"""Requests with bounds, one after another, through the decisions of a server and a chain of exits."""

import math
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import numpy as np
from msgspec.structs import replace

from benchmarks.exits.judging import Requests
from benchmarks.planner_instances import NOBODY
from proteus_cli.arrays import Floats, Ints
from proteus_cli.backends.base import NamedArrays
from proteus_cli.backends.exits.runner import EXIT_NOTE, ExitRunner
from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Launch
from proteus_cli.control.policies import Policy
from proteus_cli.control.topology.hosting import hosted_by
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.conditions import Condition, Metric
from proteus_cli.domain.device import Device
from proteus_cli.domain.plan import PLAN_FORMAT, Placement, Plan, Solver
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Request
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.stage_forecast import ExitBounds

AT_ONCE = Policy("at once", "all", GreedyBatcher(answer_frac=0.0), None)
"""Answers go nowhere here, so no time is kept back for that."""


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

    def __init__(self, key: VariantKey, profile: Profile, catalog: Catalog, chain: Chain) -> None:
        attainment = {family.name: family.attainment for family in catalog.families}
        self._controller = Controller(catalog.slo_s(), {profile.device.id: 1}, AT_ONCE, attainment=attainment)
        plan = _hosting(key, profile.device)
        (self.host,) = hosted_by(plan, {profile.device.id: profile}, attainment)
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


def _hosting(key: VariantKey, device: Device) -> Plan:
    return Plan(
        format=PLAN_FORMAT, made_by=NOBODY, policy="proteus", objective="by hand", rules=Rules(), headroom=1.0,
        demand_qps={key.family: 1.0}, served_qps={key.family: 1.0}, unserved_qps={key.family: 0.0},
        effective_accuracy=None, relative_accuracy=None, solver=Solver("by hand", "optimal", 0.0, 0.0),
        fleet={device.type: (device.id,)}, inputs={},
        placements=(Placement(device.id, key.family, key.variant, 1, 1.0, 1.0, 1.0),),
    )  # fmt: skip


def run(device: OneDevice, sample: Ints, bound_s: Floats) -> Requests:
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
