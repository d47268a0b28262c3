"""One server and many agents, each with eight emulated devices: what an idle one costs, and what it carries.

Agents share a few processes, but each has its own port, its own connection over TLS, and its own heartbeats. wrk asks
as much as the server takes.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.cluster.live import LiveServer, make_emulated_hosts, one_row, serving, write_hosts
from benchmarks.cluster.processes import cpu_s, wake_ups
from benchmarks.tables import Aim, Table
from proteus_cli.domain.plan import Plan
from proteus_cli.serving.cluster.new_key import write_key

DEVICES = 8
HOSTS = (10, 100)
PROCESSES = 5  # for all agents
PLANNED_QPS = 3000.0  # about what a server carries; ten hosts carry 8,000 as accurately as can be
CONNECTIONS = 128
SCRIPT = Path(__file__).parents[1] / "serving" / "saturation.lua"


@dataclass(frozen=True, slots=True)
class Scale:
    """Of a server with so many hosts: seconds to solve for a plan, and until it is ready.

    CPU in cores while nobody asks, of the server and of all agents together, and how often the server wakes up in a
    second; requests per second at saturation, and of these how many failed; the server's CPU for each, in seconds, and
    the cores that it had meanwhile.
    """

    hosts: int
    solve_s: float
    ready_s: float
    idle_cores: float
    idle_agents_cores: float
    idle_wake_ups: float
    rps: float
    failed: int
    request_s: float
    busy_cores: float


def measure(idle_s: float, load_s: float) -> list[Scale]:
    """Few hosts, then many."""
    return [_scale(hosts, idle_s, load_s) for hosts in HOSTS]


def table(found: Sequence[Scale]) -> Table:
    columns = (
        "hosts", "devices", "to solve, s", "to start, s", "idle: server, % of a core", "agents, %", "wake-ups/s",
        "requests/s", "server's CPU per request, µs", "cores that it had",
    )  # fmt: skip
    rows = tuple(
        (f"{each.hosts}", f"{each.hosts * DEVICES}", f"{each.solve_s:.2f}", f"{each.ready_s:.1f}",
         f"{100 * each.idle_cores:.1f}", f"{100 * each.idle_agents_cores:.1f}", f"{each.idle_wake_ups:,.0f}",
         f"{each.rps:,.0f}", f"{1e6 * each.request_s:.0f}", f"{each.busy_cores:.2f}")
        for each in found
    )  # fmt: skip
    note = f"emulated devices; {CONNECTIONS} connections of wrk, which takes a part of the cores, as the agents do"
    return Table("One server and many agents", columns, rows, note)


def aims(found: Sequence[Scale]) -> list[Aim]:
    few, many = found
    return [
        Aim(f"{many.hosts} hosts: to solve for a plan", many.solve_s, 1.0, "s", is_most=True),
        Aim(f"{many.hosts} hosts: idle server", 100 * many.idle_cores, 5.0, "% of a core", is_most=True),
        Aim(f"throughput, {many.hosts} hosts / {few.hosts} hosts", many.rps / few.rps, 1.0, "×", is_most=False),
    ]


def _scale(hosts: int, idle_s: float, load_s: float) -> Scale:
    with tempfile.TemporaryDirectory() as directory:
        names = [f"h{number}" for number in range(hosts)]
        place = make_emulated_hosts(Path(directory) / "ws", names, PLANNED_QPS, DEVICES)
        solve_s = msgspec.json.decode(place.plan_path(Path("plan")).read_bytes(), type=Plan).solver.solve_s
        with agents_of(Path(directory), names) as (listed, pids):
            start_s = time.monotonic()
            options = ("--emulate", "--cluster", str(listed), "--set=resume=false", "--replan=off")
            with serving(place.root, Path("plan"), *options) as live:
                ready_s = time.monotonic() - start_s
                found = _measured(live, pids, idle_s, load_s, place.root)
                assert live.stop() == 0
    return Scale(hosts, solve_s, ready_s, *found)


@contextmanager
def agents_of(directory: Path, names: Sequence[str]) -> Iterator[tuple[Path, list[int]]]:
    """A hosts.toml with an agent for each name, and the processes that they share."""
    key = directory / "cluster.pem"
    write_key(key)
    with ExitStack() as stack:
        ports, pids = list[int](), list[int]()
        for number in range(PROCESSES):
            count = len(names[number::PROCESSES])
            command = [sys.executable, "-m", "benchmarks.cluster.many_agents", str(count)]
            command += [str(key), str(directory / f"agents-{number}")]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.callback(_end, process)
            assert process.stdout is not None
            ports += map(int, process.stdout.readline().split())
            pids.append(process.pid)
        yield write_hosts(directory, dict(zip(names, ports, strict=True)), key), pids


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _measured(
    live: LiveServer, agents: Sequence[int], idle_s: float, load_s: float, root: Path
) -> tuple[float, float, float, float, int, float, float]:
    assert all(device["breaker"] == "closed" for device in live.status()["devices"].values())
    time.sleep(1.0)
    idle = _idle(live.process.pid, agents, idle_s)
    asked(live, 1.0, root)
    server_s = cpu_s(live.process.pid)
    requests, seconds, failed = asked(live, load_s, root)
    server_s = cpu_s(live.process.pid) - server_s
    return *idle, requests / seconds, failed, server_s / requests, server_s / seconds


def _idle(server: int, agents: Sequence[int], idle_s: float) -> tuple[float, float, float]:
    """CPU in cores, of the server and of all agents, and the wake-ups of the server in a second."""

    def now() -> tuple[float, float, float, float]:
        return time.monotonic(), cpu_s(server), sum(map(cpu_s, agents)), wake_ups(server)

    start_s, *before = now()
    time.sleep(idle_s)
    end_s, *after = now()
    server_cores, agents_cores, woken = [(b - a) / (end_s - start_s) for a, b in zip(before, after, strict=True)]
    return server_cores, agents_cores, woken


def asked(live: LiveServer, seconds: float, root: Path, connections: int = CONNECTIONS) -> tuple[int, float, int]:
    """As much as the server takes: requests that were answered, seconds, and failures."""
    body = one_row(0)
    head = f"POST /v2/models/shapes/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    request, file = head.encode() + body, root / "requests"
    file.write_bytes(b"%d\n%b" % (len(request), request))
    command = ("wrk", "-t1", f"-c{connections}", f"-d{round(seconds)}s", "--timeout", "10s", "-s", str(SCRIPT))
    said = subprocess.run(
        (*command, f"http://127.0.0.1:{live.port}", "--", str(file)), capture_output=True, text=True, check=True
    ).stdout
    done = msgspec.json.decode(said.strip().splitlines()[-1])
    failed = sum(done[what] for what in ("status", "connect", "read", "write", "timeout"))
    return done["requests"] - done["status"], done["duration_us"] / 1e6, failed
