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
"""The first rate of a search, as a fraction of the profiled capacity."""
SEARCH = 5
"""Counts the changes of the search that change results: cells of an earlier search are measured anew."""
MIN_REQUESTS = 50
"""Minimum size of a stretch that is cut to the time that is left."""
LONGEST_FRAC, LONGEST_SLOS = 0.05, 20.0
"""Maximum length of a stretch, as a fraction of the allowed time or in SLOs, whichever is longer. Many short stretches
meet the slow moments of a machine alike."""
LATENCIES = 20
MAX_QPS = 20_000.0
"""Maximum rate that this load generator is asked for: it can send some thousand requests per second."""
_FIRST_OF_ONE_BY_ONE = 0.5
"""The first rate of a search, as a fraction of the rate of requests that are sent one after another."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class PeakQuestion:
    """``batchings`` are names of batching rules. ``jitter`` of simulated devices is a name of `JITTERS`, or empty."""

    rules: PeakRules
    mode: CellMode = "measured"
    batchings: Sequence[str] = ("greedy",)
    jitter: str = "p99"
    seed: int = 0

    def options(self) -> dict[str, Scalar]:
        """The options that decide the results."""
        jitter = self.jitter if self.mode == "simulated" else ""
        rules: dict[str, Scalar] = msgspec.to_builtins(self.rules)
        return {**rules, "search": SEARCH, "mode": self.mode, "jitter": jitter, "seed": self.seed}

    def words(self) -> dict[str, str]:
        """The question in words."""
        words = {"within the SLO": f"at least {format_percent(1 - self.rules.allowed_frac)} of the requests"}
        if self.rules.min_accuracy:
            words["accuracy"] = f"at least {format_percent(self.rules.min_accuracy)}, asked for by each request"
        return words


# --- carriers


class Carrier(Protocol):
    """Something that requests are offered to. ``slo_s``: their longest SLO. ``is_real_time``: offers take real time."""

    @property
    def slo_s(self) -> float: ...

    @property
    def is_real_time(self) -> bool: ...

    def carry(self, offer: Offer, rng: np.random.Generator) -> Stretch:
        """Offer requests; returns what became of them."""
        ...


Run = Callable[[Trace, np.random.Generator], tuple[list[RequestRecord], float]]
"""Sends the requests of a trace; returns them once all have ended, and the p99 by which they were late."""


@dataclass(frozen=True, slots=True)
class RequestCarrier:
    """Offers requests by ``run``. ``mix``: the part of each family of the requests."""

    run: Run
    mix: Mapping[str, float]
    slo_s: float
    min_accuracy: float = 0.0
    is_real_time: bool = True

    def carry(self, offer: Offer, rng: np.random.Generator) -> Stretch:
        length_s = duration_s(offer, self.slo_s)
        count = int(rng.poisson(offer.rate_qps * length_s))
        trace = Trace(
            name="peak",
            families=tuple(self.mix),
            arrival_s=np.sort(rng.uniform(0.0, length_s, count)),
            family=rng.choice(len(self.mix), count, p=np.array(list(self.mix.values())) / sum(self.mix.values())),
            slo_s=np.full(count, np.nan),
            min_accuracy=np.full(count, self.min_accuracy),
        )
        records, lag_s = self.run(trace, rng)
        arrival_s = np.array([record.arrival_s for record in records], dtype=np.float64)
        missed = np.array([record.outcome is not Outcome.SERVED for record in records], dtype=np.float64)
        accuracy = np.array([record.accuracy for record in records], dtype=np.float64)  # NaN of None
        return stretch_of(offer, self.slo_s, arrival_s, missed, lag_s, accuracy)


def simulated(
    plan: Plan, catalog: Catalog, profiles: Mapping[str, Profile], batching: Batcher, conditions: Conditions
) -> Run:
    """Runs requests on a plan in virtual time."""
    policy = replace(PROTEUS, batching=batching, replanning=None, standbys=False)

    def planner(*_arguments: object, **_known: object) -> Plan:
        raise AssertionError("a policy without re-planning asked for a plan")

    def run(trace: Trace, rng: np.random.Generator) -> tuple[list[RequestRecord], float]:
        found = simulate(trace, plan, catalog, profiles, policy, planner, conditions=conditions, rng=rng)
        if found.interrupted_s is not None:
            raise KeyboardInterrupt
        return found.ended, 0.0

    return run


# --- the peak of a carrier


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
    search, end_s, slo_s = PeakSearch(rules, first_qps, carrier.slo_s), now_s() + allowed_s, carrier.slo_s
    rng = np.random.default_rng(seed)
    while (offer := search.next()) is not None:
        left_s = end_s - now_s()
        if left_s <= 0:
            break
        if carrier.is_real_time:
            fewest_s = duration_s(Offer(offer.rate_qps, MIN_REQUESTS), slo_s)
            offer = fitted(offer, slo_s, min(left_s, max(LONGEST_FRAC * allowed_s, LONGEST_SLOS * slo_s, fewest_s)))
            if offer is None:
                break
        passed_frac = 0.0 if math.isinf(allowed_s) else 1 - left_s / allowed_s
        doing = f"{counted(offer.requests, 'request')} at {format_rate(offer.rate_qps)}"
        advance(doing, max(search.done_frac, passed_frac))
        search.saw(carrier.carry(offer, rng.spawn(1)[0]))
    peak = search.found()
    if not peak.probes:
        raise EngineError("There was no time to offer any requests.", hint="give a longer `--budget`")
    return peak


def fitted(offer: Offer, slo_s: float, left_s: float) -> Offer | None:
    """The offer, cut to the time that is left; None where too few requests fit."""
    if duration_s(offer, slo_s) <= left_s:
        return offer
    counted_s = (left_s - WARM_UP_SLOS * slo_s) / (1 + WARM_UP_FRAC)
    requests = max(MIN_REQUESTS, int(counted_s * offer.rate_qps * (1 - _ROUNDING)))
    cut = Offer(offer.rate_qps, min(requests, offer.requests))
    return cut if duration_s(cut, slo_s) <= left_s else None


# --- servers


@dataclass(frozen=True, slots=True)
class Server:
    """A server and the way to it. ``slo_s``: None if the server says it."""

    url: str
    token: str | None = None
    tls: ssl.SSLContext | None = None
    slo_s: float | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan to offer requests to, with its inputs; ``mix`` is the part of each family of the requests."""

    workspace: Workspace
    catalog: Catalog
    profiles: Mapping[str, Profile]
    plan: Plan
    mix: Demand

    @property
    def slo_s(self) -> float:
        """The longest SLO of the families."""
        return max(self.catalog.slo_s()[family] for family in self.mix)

    @property
    def first_qps(self) -> float:
        """A guess of the peak."""
        return FIRST_OF_CAPACITY * sum(self.plan.capacity_qps(family) for family in self.mix)


def served_peak(planned: Planned, rule: str, question: PeakQuestion, turn: JobTurn) -> Peak:
    """The peak of a plan that is served here, in a process of its own, on real or emulated devices."""
    ends_s = time.monotonic() + turn.allowed_s
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "plan.json"
        write_json(path, planned.plan)
        options = ["--replan", "off", f"--set=batching={rule}"]
        if planned.workspace.state is not None:
            options.append(f"--set=state={planned.workspace.state}")
        turn.advance("a server starts", 0.0)
        with local_server(path, planned.workspace.root, emulate=question.mode == "emulated", options=options) as url:
            return server_peak(Server(url), planned.mix, question, planned.first_qps, ends_s, turn.advance)


def require_served(server: Server, family: str, min_accuracy: float = 0.0) -> None:
    """Raise `ServerError` where there is no such server or family.

    Raises `UsageError` where no SLO is known, or the server takes no least accuracy.
    """
    with _prepared(server, (family,)) as (_, target, _):
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
    """The peak of a server, until the clock (`time.monotonic`) says ``ends_s``; None: no first rate is known.

    Raises `ServerError`, and `UsageError` where no SLO is known.
    """
    rules, least = question.rules, question.rules.min_accuracy
    with _prepared(server, tuple(mix)) as (runner, target, slo_s):
        longest_s = max(slo_s.values())
        if first_qps is None:
            advance("requests one by one", 0.0)
            first_qps = _FIRST_OF_ONE_BY_ONE / runner.run(_one_by_one_s(target, next(iter(mix)), longest_s, least))

        def run(trace: Trace, _rng: np.random.Generator) -> tuple[list[RequestRecord], float]:
            result = runner.run(replay(trace, target, slo_s))
            return result.records, result.lag_p99_s

        carrier = RequestCarrier(run, mix, longest_s, least)
        rules = msgspec.structs.replace(rules, most_qps=min(rules.most_qps, MAX_QPS))
        peak = measured_peak(carrier, rules, first_qps, ends_s - time.monotonic(), question.seed, advance)
        return msgspec.structs.replace(peak, slo_s=longest_s, family=", ".join(mix))


@contextmanager
def _prepared(
    server: Server, families: tuple[str, ...]
) -> Iterator[tuple[asyncio.Runner, HttpTarget, Mapping[str, float]]]:
    """An event loop, a target in it with requests for these families, and their SLOs."""
    stack = AsyncExitStack()

    async def prepare() -> tuple[HttpTarget, Mapping[str, float]]:
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

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            yield runner, *runner.run(prepare())
        finally:
            runner.run(stack.aclose())


async def _one_by_one_s(target: Target, family: str, slo_s: float, min_accuracy: float) -> float:
    """The mean time of requests that are sent one after another. Raises `ServerError` where one is not answered."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    for number in range(LATENCIES):
        reply = await target.send(family, number, slo_s, min_accuracy)
        if reply.outcome is Outcome.FAILED:
            raise ServerError(f"A request to `{family}` failed, alone.", hint="the server's log says why")
    return (loop.time() - begun_s) / LATENCIES
