"""Carriers offer requests to the simulator or to a server, and measure its peak."""

import asyncio
import math
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import msgspec
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
from proteus_cli.errors import EngineError, ServerError, UsageError
from proteus_cli.progress import Advance
from proteus_cli.replay.http_client import HttpClient
from proteus_cli.replay.loadgen import replay
from proteus_cli.replay.local_server import local_server
from proteus_cli.replay.target import HttpTarget, Target, is_proteus
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.simulation.run import simulate
from proteus_cli.store import Workspace, write_json
from proteus_cli.studies.frame import JobTurn
from proteus_cli.studies.peak.fit import WARM_UP_FRAC, WARM_UP_SLOS, Offer, duration_s, stretch_of
from proteus_cli.studies.peak.search import PeakSearch
from proteus_cli.studies.results import Peak, PeakRules, Stretch
from proteus_cli.studies.study import CellMode, Scalar
from proteus_cli.units import counted, format_percent, format_rate

FIRST_OF_CAPACITY = 0.7
"""Of what the profile says that batches can carry: where the search begins."""

SEARCH = 4
"""Counts changes of the search that change results: cells of an earlier one are measured anew."""


@dataclass(frozen=True, slots=True)
class PeakQuestion:
    """``batchings`` are names of batching rules. ``jitter`` is of simulated devices, a name of `JITTERS`, or empty."""

    rules: PeakRules
    mode: CellMode = "measured"
    batchings: Sequence[str] = ("greedy",)
    jitter: str = "p99"
    seed: int = 0

    def options(self) -> dict[str, Scalar]:
        """What decides the results."""
        asked: dict[str, Scalar] = msgspec.to_builtins(self.rules)
        return {
            **asked,
            "search": SEARCH,
            "mode": self.mode,
            "jitter": self.jitter if self.mode == "simulated" else "",
            "seed": self.seed,
        }

    def words(self) -> dict[str, str]:
        """The question in words."""
        words = {"within the SLO": f"at least {format_percent(1 - self.rules.allowed_frac)} of the requests"}
        if self.rules.min_accuracy:
            words["accuracy"] = f"at least {format_percent(self.rules.min_accuracy)}, asked for by each request"
        return words


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan to offer requests to, and what it is made of; ``mix`` is the part of each family of the requests."""

    workspace: Workspace
    catalog: Catalog
    profiles: Mapping[str, Profile]
    plan: Plan
    mix: Demand

    @property
    def slo_s(self) -> float:
        """The longest of the families that are asked for."""
        return max(self.catalog.slo_s()[family] for family in self.mix)

    @property
    def first_qps(self) -> float:
        """A guess of the peak."""
        return FIRST_OF_CAPACITY * sum(self.plan.capacity_qps(family) for family in self.mix)


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


MIN_REQUESTS = 50
"""A stretch that is cut to what is left of the time has so many, or is left out."""
LONGEST_FRAC, LONGEST_SLOS = 0.05, 20.0
"""Of the time, a stretch takes at most this part, or so many times the SLO where that is longer: a long one would count
how fast the machine was just then, which differs from minute to minute."""
_ROUNDING = 1e-9


def measured_peak(
    carrier: Carrier,
    rules: PeakRules,
    first_qps: float,
    allowed_s: float,
    seed: int,
    advance: Advance,
    now_s: Callable[[], float] = time.monotonic,
) -> Peak:
    """Search until enough is known, or until the time is over: the interval is wider then.

    Raises `EngineError` where there is no time for a single stretch.
    """
    search, begun_s = PeakSearch(rules, first_qps, carrier.slo_s), now_s()
    rng = np.random.default_rng(seed)
    while (offer := search.next()) is not None:
        left_s = allowed_s - (now_s() - begun_s)
        longest_s = min(left_s, _longest_s(offer.rate_qps, carrier.slo_s, allowed_s))
        fitting = fitted(offer, carrier.slo_s, longest_s) if carrier.is_real_time else offer
        if fitting is None or left_s <= 0:
            break
        doing = f"{counted(fitting.requests, 'request')} at {format_rate(fitting.rate_qps)}"
        passed_frac = 0.0 if math.isinf(allowed_s) else 1 - left_s / allowed_s
        advance(doing, max(search.done_frac, passed_frac))
        search.saw(carrier.carry(fitting, rng.spawn(1)[0]))
    peak = search.found()
    if not peak.probes:
        raise EngineError("There was no time to offer any requests.", hint="give a longer `--budget`")
    return peak


def fitted(offer: Offer, slo_s: float, left_s: float) -> Offer | None:
    """As many of the requests as there is time for; None where these are too few to say anything."""
    if duration_s(offer, slo_s) <= left_s:
        return offer
    counted_s = (left_s - WARM_UP_SLOS * slo_s) / (1 + WARM_UP_FRAC)
    requests = max(MIN_REQUESTS, int(counted_s * offer.rate_qps * (1 - _ROUNDING)))
    cut = Offer(offer.rate_qps, min(requests, offer.requests))
    return cut if duration_s(cut, slo_s) <= left_s else None


def _longest_s(rate_qps: float, slo_s: float, allowed_s: float) -> float:
    """Seconds that a stretch may take where all of the time is left: the fewest requests always fit."""
    fewest_s = duration_s(Offer(rate_qps, MIN_REQUESTS), slo_s)
    return max(LONGEST_FRAC * allowed_s, LONGEST_SLOS * slo_s, fewest_s)


_FIRST_OF_ONE_BY_ONE = 0.5
"""Where the search begins, as a part of the rate of requests that are sent one after another."""
MAX_QPS = 20_000.0
"""The highest rate that this load generator is asked for: it can send some thousand requests per second."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is, and how to talk to it. ``slo_s``: None where the server is to say it."""

    url: str
    token: str | None = None
    tls: ssl.SSLContext | None = None
    slo_s: float | None = None


def served_peak(planned: Planned, rule: str, question: PeakQuestion, turn: JobTurn) -> Peak:
    """The peak of a plan that is served here, in a process of its own, on devices that are emulated or not."""
    ends_s = time.monotonic() + turn.allowed_s
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "plan.json"
        write_json(path, planned.plan)
        options = ["--replan", "off", "--batching", rule]
        if planned.workspace.state is not None:
            options += ["--state", str(planned.workspace.state)]
        turn.advance("a server starts", 0.0)
        with local_server(path, planned.workspace.root, emulate=question.mode == "emulated", options=options) as url:
            return server_peak(Server(url), planned.mix, question, planned.first_qps, ends_s, turn.advance)


def require_served(server: Server, family: str, min_accuracy: float = 0.0) -> None:
    """Raise `ServerError` where there is no such server or family.

    Raises `UsageError` where no SLO is known, or where the server takes no least accuracy.
    """
    with event_loop() as (runner, stack):
        target, _ = runner.run(_prepared(server, (family,), stack))
        if min_accuracy and target.is_plain:
            raise UsageError(
                f"The server at `{server.url}` takes no `--min-accuracy`: it is no Proteus server.", hint="leave it out"
            )


def server_peak(
    server: Server,
    mix: Demand,
    question: PeakQuestion,
    first_qps: float | None,
    ends_s: float,
    advance: Advance,
) -> Peak:
    """The peak of a server, until the clock (`time.monotonic`) says ``ends_s``; None: no rate is known to begin with.

    Raises `ServerError`; and `UsageError` where nobody says an SLO.
    """
    with event_loop() as (runner, stack):
        target, slo_s = runner.run(_prepared(server, tuple(mix), stack))
        longest_s = max(slo_s.values())
        if first_qps is None:
            advance("requests one by one", 0.0)
            first_qps = _FIRST_OF_ONE_BY_ONE / float(
                runner.run(one_by_one_s(target, next(iter(mix)), longest_s, question.rules.min_accuracy)).mean()
            )
        carrier = LiveCarrier(target, runner, slo_s, mix, longest_s, question.rules.min_accuracy)
        rules = msgspec.structs.replace(question.rules, most_qps=min(question.rules.most_qps, MAX_QPS))
        peak = measured_peak(carrier, rules, first_qps, ends_s - time.monotonic(), question.seed, advance)
        return msgspec.structs.replace(peak, slo_s=longest_s, family=", ".join(mix))


async def _prepared(
    server: Server, families: tuple[str, ...], stack: AsyncExitStack
) -> tuple[HttpTarget, Mapping[str, float]]:
    """A target, with requests for these families, and their SLOs."""
    client = await stack.enter_async_context(aclosing(HttpClient(server.url, server.token, server.tls)))
    target = HttpTarget(client)
    if await is_proteus(client):
        said = (await target.prepare(families)).slo_s
        return target, {family: server.slo_s or said[family] for family in families}
    if server.slo_s is None:
        raise UsageError(f"The server at `{server.url}` says no SLO.", hint="give one: `--slo 50ms`")
    if len(families) > 1:
        raise UsageError("Requests go to one model of a server.", hint="name one with `--family`")
    await target.prepare_plain(families[0])
    return target, {families[0]: server.slo_s}
