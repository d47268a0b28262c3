"""What carries requests: the simulator, or a server. Each offers a stretch, and says what became of it."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import uvloop

from proteus_cli.arrays import Floats
from proteus_cli.control.batching import Batcher
from proteus_cli.control.policies import PROTEUS
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import ServerError
from proteus_cli.replay.loadgen import replay
from proteus_cli.replay.target import Target
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.simulation.run import simulate
from proteus_cli.studies.peak.search import Offer
from proteus_cli.studies.peak.stretches import duration_s, stretch_of
from proteus_cli.studies.results import Stretch


class Carrier(Protocol):
    """``slo_s``: the longest of what requests have. ``is_real_time``: a stretch takes as long as it lasts."""

    @property
    def slo_s(self) -> float: ...

    @property
    def is_real_time(self) -> bool: ...

    def carry(self, offer: Offer, rng: np.random.Generator) -> Stretch:
        """Offer requests; what became of them."""
        ...


def arrivals(
    offer: Offer, slo_s: float, mix: Mapping[str, float], rng: np.random.Generator, min_accuracy: float = 0.0
) -> Trace:
    """Requests at random (Poisson) for a stretch; ``mix`` is the part of each family."""
    length_s = duration_s(offer, slo_s)
    count = int(rng.poisson(offer.rate_qps * length_s))
    return Trace(
        name="peak",
        families=tuple(mix),
        arrival_s=np.sort(rng.uniform(0.0, length_s, count)),
        family=rng.choice(len(mix), count, p=np.array(list(mix.values())) / sum(mix.values())),
        slo_s=np.full(count, np.nan),
        min_accuracy=np.full(count, min_accuracy),
    )


def stretch_of_records(offer: Offer, slo_s: float, records: list[RequestRecord], lag_s: float = 0.0) -> Stretch:
    """A stretch of requests that have all ended."""
    arrival_s = np.array([record.arrival_s for record in records], dtype=np.float64)
    missed = np.array([record.outcome is not Outcome.SERVED for record in records], dtype=np.float64)
    accuracy = np.array([record.accuracy for record in records], dtype=np.float64)  # NaN of None
    return stretch_of(offer, slo_s, arrival_s, missed, lag_s, accuracy)


@dataclass(frozen=True, slots=True)
class SimulatedCarrier:
    """A plan in virtual time. ``mix``: the part of each family of what is offered."""

    plan: Plan
    catalog: Catalog
    profiles: Mapping[str, Profile]
    batching: Batcher
    mix: Demand
    slo_s: float
    conditions: Conditions
    min_accuracy: float = 0.0
    is_real_time: bool = False

    def carry(self, offer: Offer, rng: np.random.Generator) -> Stretch:
        policy = replace(PROTEUS, batching=self.batching, replanning=None, standbys=False)
        found = simulate(
            arrivals(offer, self.slo_s, self.mix, rng, self.min_accuracy),
            self.plan,
            self.catalog,
            self.profiles,
            policy,
            _never,
            conditions=self.conditions,
            rng=rng,
        )
        if found.interrupted_s is not None:
            raise KeyboardInterrupt
        return stretch_of_records(offer, self.slo_s, found.ended)


def _never(*_arguments: object, **_known: object) -> Plan:
    raise AssertionError("a policy without re-planning asked for a plan")


@dataclass(frozen=True, slots=True)
class LiveCarrier:
    """A server that runs; ``slo_s_by_family`` are its latency targets."""

    target: Target
    runner: asyncio.Runner
    slo_s_by_family: Mapping[str, float]
    mix: Demand
    slo_s: float
    min_accuracy: float = 0.0
    is_real_time: bool = True

    def carry(self, offer: Offer, rng: np.random.Generator) -> Stretch:
        trace = arrivals(offer, self.slo_s, self.mix, rng, self.min_accuracy)
        result = self.runner.run(replay(trace, self.target, self.slo_s_by_family))
        return stretch_of_records(offer, self.slo_s, result.records, result.lag_p99_s)


@contextmanager
def event_loop() -> Iterator[tuple[asyncio.Runner, AsyncExitStack]]:
    """A loop that lives as long as the block, and a stack of what is closed in it at the end."""
    stack = AsyncExitStack()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            yield runner, stack
        finally:
            runner.run(stack.aclose())


LATENCIES = 20


async def one_by_one_s(target: Target, family: str, slo_s: float, min_accuracy: float = 0.0) -> Floats:
    """Seconds of requests that are sent one after another. Raises `ServerError` where one is not answered."""
    loop, found = asyncio.get_running_loop(), []
    for number in range(LATENCIES):
        begun_s = loop.time()
        reply = await target.send(family, number, slo_s, min_accuracy)
        found.append(loop.time() - begun_s)
        if reply.outcome is Outcome.FAILED:
            raise ServerError(f"A request to `{family}` failed, alone.", hint="the server's log says why")
    return np.array(found)
