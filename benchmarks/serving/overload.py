"""More than can be carried: what is answered on time at three times the capacity, and how soon the rest is refused."""

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.serving import load
from benchmarks.serving.lab import SLO_S
from benchmarks.serving.load import Target
from benchmarks.serving.peers import Peer
from benchmarks.serving.results import Overload, Workload
from benchmarks.serving.server import Lab, serving

TIMES = (1.0, 3.0)
REFUSED = 429
CONNECTIONS = 512  # more than may wait within the SLO, so that none waits in the client
SETTLED_S = 0.5
TICK_S = 1e-3  # the client shares the cores: a wake-up for each request and answer would take half of its CPU time


def overload(peer: Peer, lab: Lab, workload: Workload, *, rounds: int, load_s: float) -> Iterator[Overload]:
    """At 1× and 3× what it takes at saturation, in turns."""
    with serving(peer, [workload.route], lab) as server:
        server.require_right(workload.route)
        target = server.target(workload.route)
        load.saturate(target, SETTLED_S)
        capacity_qps = load.saturate(target, load_s).rps
        for number in range(rounds):
            for times in TIMES if number % 2 == 0 else reversed(TIMES):
                yield _at(target, workload, times, capacity_qps * times, number, load_s)
                time.sleep(SETTLED_S)


def _at(target: Target, workload: Workload, times: float, rate_qps: float, number: int, load_s: float) -> Overload:
    replies = load.play(target, rate_qps, load_s, seed=number, connections=CONNECTIONS, tick_s=TICK_S)
    if replies.wrong:
        raise load.WrongAnswer("under overload", replies.wrong[0])
    on_time = replies.answered & (replies.latency_s <= SLO_S)
    refused = replies.status == REFUSED
    took_ms = 1000 * (replies.latency_s - replies.lag_s)[refused]
    p50_ms, p99_ms = np.percentile(took_ms, (50, 99)) if len(took_ms) else (0.0, 0.0)
    return Overload(
        workload.name,
        times,
        number,
        rate_qps=rate_qps,
        requests=len(replies.status),
        goodput_qps=float(on_time.sum()) / load_s,
        refused=int(refused.sum()),
        refused_p50_ms=float(p50_ms),
        refused_p99_ms=float(p99_ms),
    )
