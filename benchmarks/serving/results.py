"""What was measured, as values (``--json``)."""

import statistics
from collections.abc import Iterable
from typing import Self

from benchmarks.serving.load import WrongAnswer
from proteus_cli.domain.base import MadeBy, Value


class Workload(Value, frozen=True):
    """Requests of a family in one kind of dialect: json, binary or grpc."""

    name: str
    family: str
    kind: str

    @property
    def route(self) -> tuple[str, str]:
        return self.family, self.kind


class Load(Value, frozen=True):
    """One round at saturation; CPU in microseconds per request, of the server and of the client."""

    peer: str
    workload: str
    round: int
    rps: float
    cpu_us: float
    client_cpu_us: float
    failed: int


class Latency(Value, frozen=True):
    """One round of Poisson arrivals at half of what ``of`` takes. ``capped``: at what the client can, which is less.

    ``lag_p99_ms``: how late the client itself was. ``unanswered``: refused, failed or lost.
    """

    peer: str
    workload: str
    of: str
    round: int
    rate_qps: float
    capped: bool
    p50_ms: float
    p99_ms: float
    lag_p99_ms: float
    requests: int
    unanswered: int


class Failure(Value, frozen=True):
    """What a peer couldn't do, or isn't asked; ``workload`` is empty where it is the peer itself."""

    peer: str
    workload: str
    error: str
    is_wrong: bool = False

    @classmethod
    def of(cls, peer: str, workload: str, error: Exception) -> Self:
        """What was raised."""
        return cls(peer, workload, str(error), is_wrong=isinstance(error, WrongAnswer))


class Client(Value, frozen=True):
    """What the clients do to a server that reads nothing: at saturation, and the most Poisson arrivals per second."""

    workload: str
    rps: float
    cpu_us: float
    poisson_qps: float


class Footprint(Value, frozen=True):
    """A server that hosts all three families and has nothing to do."""

    peer: str
    memory_bytes: int
    threads: int
    processes: int


class IdleConnections(Value, frozen=True):
    """A server without and with so many connections that are kept alive; CPU seconds over ``window_s``."""

    peer: str
    connections: int
    window_s: float
    cpu_s: tuple[float, float]
    bytes_each: float
    rps: tuple[float, float]


class Crowd(Value, frozen=True):
    """Many connections at once that each ask once, and what others got meanwhile.

    ``refused``: closed, or another status than 200; ``silent``: nothing within the time.
    """

    peer: str
    connections: int
    answered: int
    refused: int
    silent: int
    rps: tuple[float, float]
    failed: int


class RefusalCost(Value, frozen=True):
    """CPU of the server in microseconds for a request that is answered in a batch, and for one that is refused."""

    workload: str
    round: int
    answered_us: float
    refused_us: float


class Overload(Value, frozen=True):
    """Poisson arrivals at a multiple of the capacity; ``refused`` with 429, and how long that took from sent.

    ``goodput_qps`` is what was answered on time, once the queue is as long as it gets. ``cores_left``: those of the
    machine less what the client took, in CPU seconds per second.
    """

    workload: str
    times: float
    round: int
    rate_qps: float
    requests: int
    goodput_qps: float
    refused: int
    refused_p50_ms: float
    refused_p99_ms: float
    cores_left: float


class Benchmark(Value, frozen=True):
    """All that was measured, and where."""

    made_by: MadeBy
    command: str
    machine: str
    versions: dict[str, str]
    rounds: int
    load_s: float
    instances: int
    seconds: float
    peers: tuple[str, ...]
    workloads: tuple[Workload, ...]
    clients: tuple[Client, ...]
    loads: tuple[Load, ...]
    latencies: tuple[Latency, ...]
    footprints: tuple[Footprint, ...]
    idle: tuple[IdleConnections, ...]
    crowds: tuple[Crowd, ...]
    overloads: tuple[Overload, ...]
    refusal_costs: tuple[RefusalCost, ...]
    remarks: dict[str, str]
    lacks: tuple[Failure, ...]
    failures: tuple[Failure, ...]

    def loads_of(self, peer: str, workload: str) -> tuple[Load, ...]:
        """All rounds at saturation."""
        return tuple(load for load in self.loads if (load.peer, load.workload) == (peer, workload))

    def latencies_of(self, peer: str, workload: str, of: str) -> tuple[Latency, ...]:
        """All rounds at half of what ``of`` takes."""
        wanted = (peer, workload, of)
        return tuple(each for each in self.latencies if (each.peer, each.workload, each.of) == wanted)


def median(values: Iterable[float]) -> float | None:
    """The median, or None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None
