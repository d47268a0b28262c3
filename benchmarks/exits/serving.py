"""Requests with bounds, one after another, through the decisions of a server and the engine of a device."""

import math
from dataclasses import dataclass
from time import monotonic

import numpy as np

from benchmarks.exits.judging import Requests
from proteus_cli.arrays import Floats, Ints
from proteus_cli.backends.base import NamedArrays
from proteus_cli.backends.exits.runner import EXIT_NOTE, ExitRunner
from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Host, Launch
from proteus_cli.control.policies import Policy
from proteus_cli.control.topology.hosting import hosted_by
from proteus_cli.domain.catalog.catalog import Catalog
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.domain.profile.profile import Profile
from proteus_cli.domain.request import Request
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.forecast import ExitBounds, profiled_s

AT_ONCE = Policy("at once", "all", GreedyBatcher(answer_frac=0.0), None)
"""Answers go nowhere here, so no time is kept back for that."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request: seconds from its arrival until the engine began, and until its answer; its exit.

    Refused: the last two are infinite, and 0.
    """

    begun_s: float
    took_s: float
    exit: int


class OneDevice:
    """A controller with one host, and the runner of its model. It serves a request of one row at a time."""

    def __init__(self, plan: Plan, profile: Profile, catalog: Catalog, runner: ExitRunner) -> None:
        attainment = {family.name: family.attainment for family in catalog.families}
        self._controller = Controller(catalog.slo_s(), {profile.device.id: 1}, AT_ONCE, attainment=attainment)
        (self.host,) = hosted_by(plan, {profile.device.id: profile}, attainment)
        self._controller.adopt(plan, (self.host,), monotonic())
        self._runner, self._numbers = runner, 0

    def serve(self, inputs: NamedArrays, bound_s: float) -> Answer:
        """Let it in or refuse it, run it within its bound, and learn from it: as the data plane does."""
        host, start_s = self.host, monotonic()
        request = Request(self._numbers, host.family, start_s, start_s + bound_s)
        self._numbers += 1
        self._controller.offer(request, start_s)
        launch = self._controller.decide(host.device, start_s)
        if not isinstance(launch, Launch):
            return Answer(math.inf, math.inf, 0)
        bounds, begun_s = self._controller.exit_bounds(launch), monotonic()
        exits = self._runner.infer(inputs, bounds)[EXIT_NOTE]
        end_s = monotonic()
        self._controller.finished(launch, end_s - begun_s, profiled_s(host.exits, exits))
        return Answer(begun_s - start_s, end_s - start_s, int(exits[0]))


def ends_s(host: Host, runner: ExitRunner, inputs: NamedArrays) -> Floats:
    """When each exit would have answered a batch that goes through the whole chain, in seconds from its start."""
    moments_s: list[float] = []

    def noting() -> float:
        moments_s.append(monotonic())
        return moments_s[-1]

    never = tuple(ExitProfile(points=(StagePoint(1, 1.0, 1.0),)) for _ in host.exits)
    bounds = ExitBounds((math.inf,), (1,), never, stop_when=f"exit >= {len(never)}")
    start_s = monotonic()
    runner.infer(inputs, bounds, noting)
    out_s = monotonic() - moments_s[-2]
    return np.array(moments_s[1:-1]) - start_s + out_s


def run(device: OneDevice, runner: ExitRunner, rows: NamedArrays, sample: Ints, bound_s: Floats) -> Requests:
    """Serve requests one after another; after each, the same batch goes through the whole chain, for the oracle."""
    count = len(sample)
    took_s, exits, reached = np.full(count, math.inf), np.zeros(count, np.int64), np.ones(count, np.int64)
    for place in range(count):
        inputs = {name: values[sample[place] : sample[place] + 1] for name, values in rows.items()}
        answer = device.serve(inputs, float(bound_s[place]))
        took_s[place], exits[place] = answer.took_s, answer.exit
        whole_s = answer.begun_s + ends_s(device.host, runner, inputs)
        reached[place] = max(int(np.count_nonzero(whole_s <= bound_s[place])), 1)
    return Requests(sample, bound_s, took_s, exits, reached)


def kept_s(device: OneDevice, runner: ExitRunner, rows: NamedArrays, count: int, share: float) -> tuple[float, float]:
    """Within what times that share of requests has the answers of the first and the last exit, of so many, now."""
    found = []
    for place in range(count):
        inputs = {name: values[place : place + 1] for name, values in rows.items()}
        begun_s, whole_s = device.serve(inputs, 1.0).begun_s, ends_s(device.host, runner, inputs)
        found.append((begun_s + whole_s[0], begun_s + whole_s[-1]))
    first_s, last_s = np.percentile(found, 100 * share, axis=0)
    return float(first_s), float(last_s)
