"""More than can be carried: what is answered on time, how soon the rest is refused, and what a refusal costs."""

import os
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator

import numpy as np

from benchmarks.serving import load
from benchmarks.serving.lab import SLO_S
from benchmarks.serving.load import Target
from benchmarks.serving.peers import Peer
from benchmarks.serving.results import Overload, RefusalCost, Workload
from benchmarks.serving.server import Lab, Server, serving

TIMES = (1.0, 3.0)
REFUSED = (429, 8)  # in HTTP and gRPC
CONNECTIONS = 512  # more than may wait within the SLO, so that none waits in the client
AT_ONCE = (64, 640)  # requests, for a few refusals and for many
SETTLED_S = 0.5
TICK_S = 1e-3  # the client shares the cores: a wake-up for each request and answer would take half of its CPU time
_COUNTED = re.compile(r'^proteus_requests_total\{.*outcome="(\w+)".*\} (\S+)$', re.MULTILINE)


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


def refusal_costs(peer: Peer, lab: Lab, workload: Workload, *, rounds: int, load_s: float) -> Iterator[RefusalCost]:
    """Two loads with different parts of refusals give the cost of both kinds of requests."""
    with serving(peer, [workload.route], lab) as server:
        server.require_right(workload.route)
        target = server.target(workload.route)
        load.flood(target, SETTLED_S, AT_ONCE[0])
        for number in range(rounds):
            requests, cpu_us = zip(*(_flooded(server, target, load_s, at_once) for at_once in AT_ONCE), strict=True)
            answered_us, refused_us = np.linalg.solve(requests, cpu_us)
            yield RefusalCost(workload.name, number, float(answered_us), float(refused_us))


def _flooded(server: Server, target: Target, load_s: float, at_once: int) -> tuple[tuple[int, int], float]:
    """The requests that were answered and those that were refused, and the CPU of all in microseconds."""
    counted, cpu_s = _outcomes(server), target.tree.cpu_s()
    load.flood(target, load_s, at_once)
    cpu_s = target.tree.cpu_s() - cpu_s
    counted = _outcomes(server) - counted
    refused = counted["rejected"]
    return (counted.total() - refused, refused), 1e6 * cpu_s


def _outcomes(server: Server) -> Counter[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=load.FIRST_WITHIN_S) as page:
        text = page.read().decode()
    counted = Counter[str]()
    for outcome, count in _COUNTED.findall(text):
        counted[outcome] += int(float(count))
    return counted


def _at(target: Target, workload: Workload, times: float, rate_qps: float, number: int, load_s: float) -> Overload:
    replies = load.play(target, rate_qps, load_s, seed=number, connections=CONNECTIONS, tick_s=TICK_S)
    if replies.wrong:
        raise load.WrongAnswer("under overload", replies.wrong[0])
    answered_s = replies.due_s + replies.latency_s
    on_time = replies.answered & (replies.latency_s <= SLO_S) & (answered_s >= SLO_S) & (answered_s < load_s)
    refused = np.isin(replies.status, REFUSED)
    took_ms = 1000 * (replies.latency_s - replies.lag_s)[refused]
    p50_ms, p99_ms = np.percentile(took_ms, (50, 99)) if len(took_ms) else (0.0, 0.0)
    return Overload(
        workload.name,
        times,
        number,
        rate_qps=rate_qps,
        requests=len(replies.status),
        goodput_qps=float(on_time.sum()) / (load_s - SLO_S),
        refused=int(refused.sum()),
        refused_p50_ms=float(p50_ms),
        refused_p99_ms=float(p99_ms),
        cores_left=len(os.sched_getaffinity(0)) - replies.client_cpu_s / load_s,
    )
