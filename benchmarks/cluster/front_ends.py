"""One server and then two, of the same agents: what they answer together, as much as they take, and at what cost.

Servers, agents and wrk share the cores of this machine. Where there are few of these, the CPU for a request says what
servers on machines of their own would answer.
"""

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cluster.live import LiveServer, make_emulated_hosts, serving, until
from benchmarks.cluster.processes import cpu_s
from benchmarks.cluster.scale import CONNECTIONS, DEVICES, agents_of, asked
from benchmarks.tables import Table

HOSTS = 10
SERVERS = (1, 2)
PLANNED_QPS = 3000.0  # of all servers together, as in `scale`


@dataclass(frozen=True, slots=True)
class FrontEnds:
    """So many servers of the same agents: requests per second of each, the seconds of its CPU for one, failures."""

    rps: tuple[float, ...]
    request_s: tuple[float, ...]
    failed: int

    @property
    def most_rps(self) -> float:
        """Of all, if each had a core of its own."""
        return sum(1.0 / each for each in self.request_s)


def measure(load_s: float) -> list[FrontEnds]:
    return [_measured(servers, load_s) for servers in SERVERS]


def table(found: Sequence[FrontEnds]) -> Table:
    columns = (
        "servers",
        "requests/s",
        "server's CPU per request, µs",
        "failed",
        "requests/s, were each to have a core",
    )
    rows = tuple(
        (f"{len(each.rps)}", f"{sum(each.rps):,.0f}", " and ".join(f"{1e6 * took_s:.0f}" for took_s in each.request_s),
         f"{each.failed}", f"{each.most_rps:,.0f}")
        for each in found
    )  # fmt: skip
    note = f"{HOSTS} hosts of {DEVICES} emulated devices, {CONNECTIONS} connections; all on the cores of this machine"
    return Table("What a second server brings", columns, rows, note)


def _measured(servers: int, load_s: float) -> FrontEnds:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        root, names = Path(directory), [f"h{number}" for number in range(HOSTS)]
        listed, _ = stack.enter_context(agents_of(root, names))
        live = []
        for number in range(servers):
            place = make_emulated_hosts(root / f"ws{number}", names, PLANNED_QPS / servers, DEVICES)
            options = ("--emulate", "--cluster", str(listed), "--set=resume=false", "--replan=off")
            live.append(stack.enter_context(serving(place.root, Path("plan"), *options)))
        for each in live:
            until(lambda each=each: _is_one_of(each, servers), f"{servers} servers")
        _ask(live, 1.0)
        found = _ask(live, load_s)
        for each in live:
            assert each.stop() == 0
    return FrontEnds(*found)


def _is_one_of(live: LiveServer, servers: int) -> bool:
    return all(host["servers"] == servers for host in live.status()["hosts"].values())


def _ask(live: Sequence[LiveServer], load_s: float) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """All at once: requests per second of each server, its CPU for one, and failures."""

    def ask(each: LiveServer) -> tuple[float, float, int]:
        taken_s = cpu_s(each.process.pid)
        requests, seconds, failed = asked(each, load_s, each.log.parent, CONNECTIONS // len(live))
        return requests / seconds, (cpu_s(each.process.pid) - taken_s) / requests, failed

    with ThreadPoolExecutor(len(live)) as threads:
        rps, request_s, failed = zip(*threads.map(ask, live), strict=True)
    return rps, request_s, sum(failed)
