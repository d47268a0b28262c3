"""Round trips through a network with latency: by `tc netem` in a network namespace where that is permitted.

Else a relay in this process delays all that it passes on. `python -m benchmarks.cluster.delays KEY SIZE TIMES` is what
runs in a namespace.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.cluster.channels import SIZES, RoundTrips, tls_round_trips
from benchmarks.cluster.live import Relay
from benchmarks.tables import Table
from proteus_cli.serving.cluster.new_key import write_key

DELAYS_S = (0.001, 0.01)
"""Each way: within a building, and between towns."""

NETEM, RELAY = "tc netem", "a relay in the benchmark's process"


@dataclass(frozen=True, slots=True)
class Delayed:
    delay_s: float
    by: str
    found: RoundTrips


def measure(times: int) -> list[Delayed]:
    """Both sizes with each delay."""
    by = NETEM if _may_delay() else RELAY
    with tempfile.TemporaryDirectory() as directory:
        key = Path(directory) / "cluster.pem"
        write_key(key)
        measure_one = _in_namespace if by == NETEM else _through_relay
        return [Delayed(delay_s, by, measure_one(key, size, times, delay_s)) for delay_s in DELAYS_S for size in SIZES]


def table(found: list[Delayed]) -> Table:
    rows = tuple(
        (f"{1e3 * each.delay_s:.0f} ms each way, {each.found.size / 1000:.0f} KB", f"{1e3 * each.found.p50_s:.2f}",
         f"{1e3 * each.found.p99_s:.2f}", f"{1e3 * (each.found.p50_s - 2 * each.delay_s):.2f}")
        for each in found
    )  # fmt: skip
    columns = ("network", "p50, ms", "p99, ms", "p50 less the latency, ms")
    return Table("Round trips, one at a time, with latency", columns, rows, f"latency by {found[0].by}")


def _namespace(delay_s: float, command: str) -> list[str]:
    """A command with a loopback of its own, which delays packets."""
    netem = f"tc qdisc add dev lo root netem delay {1e6 * delay_s:.0f}us"
    return ["unshare", "--map-root-user", "--net", "sh", "-c", f"ip link set lo up && {netem} && {command}"]


def _may_delay() -> bool:
    try:
        return subprocess.run(_namespace(0.001, "true"), capture_output=True, check=False).returncode == 0
    except FileNotFoundError:  # no unshare here
        return False


def _in_namespace(key: Path, size: int, times: int, delay_s: float) -> RoundTrips:
    command = f"exec {sys.executable} -m benchmarks.cluster.delays {key} {size} {times}"
    said = subprocess.run(_namespace(delay_s, command), capture_output=True, check=True).stdout
    return msgspec.json.decode(said, type=RoundTrips)


def _through_relay(key: Path, size: int, times: int, delay_s: float) -> RoundTrips:
    @contextmanager
    def delayed(port: int) -> Iterator[int]:
        with closing(Relay(port)) as relay:
            relay.latency_s = delay_s
            yield relay.port

    return tls_round_trips(key, size, times, delayed)


if __name__ == "__main__":
    there = tls_round_trips(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    print(msgspec.json.encode(there).decode())
