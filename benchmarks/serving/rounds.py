"""Rounds over all peers and workloads, in turns: saturation, then latency at half of it."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from benchmarks.serving import load
from benchmarks.serving.load import LoadFailed, Target
from benchmarks.serving.peers import Peer
from benchmarks.serving.processes import NotStarted
from benchmarks.serving.results import Failure, Latency, Load, Workload
from benchmarks.serving.server import Lab, Server, serving

RIVALS = ("mosec", "triton")  # at half of what these take, proteus is measured too
OURS = "proteus"


@dataclass
class Rounds:
    """What was measured so far. ``client_qps``: Poisson arrivals that the client can make, by workload."""

    lab: Lab
    load_s: float
    client_qps: dict[str, float]
    say: Callable[[str], None]
    loads: list[Load] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    _rps: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def run(self, number: int, peers: Sequence[Peer], workloads: Sequence[Workload]) -> None:
        """One round, in this order of peers in even rounds and the other way round in odd ones."""
        for peer in peers if number % 2 == 0 else reversed(peers):
            left = [each for each in workloads if each.kind in peer.speaks and not self._has_failed(peer, each)]
            for together in groups(peer, left):
                self._visit(number, peer, together)

    def capacity_qps(self, peer: str, workload: str) -> float | None:
        """The median at saturation so far."""
        found = self._rps[peer, workload]
        return median(found) if found else None

    def _has_failed(self, peer: Peer, workload: Workload) -> bool:
        return any(each.peer == peer.name and each.workload in {"", workload.name} for each in self.failures)

    def _visit(self, number: int, peer: Peer, workloads: Sequence[Workload]) -> None:
        try:
            with serving(peer, [workload.route for workload in workloads], self.lab) as server:
                for workload in workloads:
                    self.say(f"round {number + 1}: {peer.name}, {workload.name}")
                    self._measure_or_note(number, server, workload)
        except NotStarted as error:
            names = [workload.name for workload in workloads] if peer.alone else [""]
            self.failures += [Failure.of(peer.name, name, error) for name in names]

    def _measure_or_note(self, number: int, server: Server, workload: Workload) -> None:
        try:
            server.require_right(workload.route)
            self._measure(number, server, workload)
        except LoadFailed as error:
            self.failures.append(Failure.of(server.peer.name, workload.name, error))

    def _measure(self, number: int, server: Server, workload: Workload) -> None:
        peer, target = server.peer.name, server.target(workload.route)
        load.saturate(target, server.peer.warm_up_s)
        found = load.saturate(target, self.load_s)
        self.loads.append(Load(peer, workload.name, number, found.rps, found.cpu_us, found.client_cpu_us, found.failed))
        self._rps[peer, workload.name].append(found.rps)
        for of in (peer, *(RIVALS if peer == OURS else ())):
            capacity_qps = self.capacity_qps(of, workload.name)
            if capacity_qps is not None:
                self.latencies.append(self._latency(number, target, peer, workload.name, of, capacity_qps / 2))

    def _latency(self, number: int, target: Target, peer: str, workload: str, of: str, rate_qps: float) -> Latency:
        possible_qps = min(rate_qps, self.client_qps.get(workload, rate_qps))
        replies = load.play(target, possible_qps, self.load_s, seed=number)
        if replies.wrong:
            raise load.WrongAnswer("at half load", replies.wrong[0])
        if not replies.answered.any():
            raise LoadFailed(f"no answer at half load, {possible_qps:.0f}/s")
        return Latency(
            peer,
            workload,
            of,
            number,
            rate_qps=possible_qps,
            capped=possible_qps < rate_qps,
            p50_ms=replies.percentile_ms(50),
            p99_ms=replies.percentile_ms(99),
            lag_p99_ms=1000 * float(np.percentile(replies.lag_s, 99)),
            requests=len(replies.status),
            unanswered=int(np.sum(~replies.answered)),
        )


def groups(peer: Peer, workloads: Sequence[Workload]) -> list[list[Workload]]:
    """What one start of the peer serves: all workloads, or those of one family, and gRPC by itself."""
    together: dict[tuple[str, bool], list[Workload]] = defaultdict(list)
    for workload in workloads:
        together[(workload.family, workload.kind == "grpc") if peer.alone else ("", False)].append(workload)
    return list(together.values())
