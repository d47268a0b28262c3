"""What is measured once and not in rounds: footprints, idle connections, crowds, overload."""

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.serving import idle
from benchmarks.serving.load import LoadFailed
from benchmarks.serving.overload import overload, refusal_costs
from benchmarks.serving.peers import Peer
from benchmarks.serving.processes import NotStarted
from benchmarks.serving.results import Crowd, Failure, Footprint, IdleConnections, Overload, RefusalCost, Workload
from benchmarks.serving.rounds import OURS, RIVALS
from benchmarks.serving.server import Lab

EXTRAS = ("footprint", "idle", "crowd", "overload")
IDLE_CONNECTIONS, CROWD_CONNECTIONS = 1_000, 10_000
SPARE_FILES = 500  # what a process opens besides connections
TINY = Workload("tiny-json", "tiny", "json")
OVERLOADED = tuple(
    Workload(f"{family}-{kind}", family, kind)
    for family, kind in (("wide", "binary"), ("cnn", "json"), ("cnn", "binary"), ("cnn", "grpc"))
)


@dataclass(frozen=True, slots=True)
class Size:
    """Seconds without a request, rounds of overload, and seconds of each."""

    window_s: float
    overload_rounds: int
    overload_s: float


@dataclass
class Extras:
    """What was measured so far; each on a server of its own, and what fails is noted."""

    lab: Lab
    size: Size
    say: Callable[[str], None]
    failures: list[Failure]
    footprints: list[Footprint] = field(default_factory=list)
    idle: list[IdleConnections] = field(default_factory=list)
    crowds: list[Crowd] = field(default_factory=list)
    overloads: list[Overload] = field(default_factory=list)
    refusal_costs: list[RefusalCost] = field(default_factory=list)

    def run(self, peers: Sequence[Peer], names: Sequence[str]) -> None:
        """Footprints of all; idle connections and crowds of proteus and its rivals; overload of proteus."""
        measures: dict[str, tuple[Callable[[Peer], None], set[str]]] = {
            "footprint": (self._footprint, {peer.name for peer in peers}),
            "idle": (self._idle, {OURS, *RIVALS}),
            "crowd": (self._crowd, {OURS, *RIVALS}),
            "overload": (self._overload, {OURS}),
        }
        for name in names:
            measure, whom = measures[name]
            for peer in (peer for peer in peers if peer.name in whom):
                self.say(f"{name}: {peer.name}")
                try:
                    measure(peer)
                except (LoadFailed, NotStarted, OSError) as error:
                    self.failures.append(Failure.of(peer.name, name, error))

    def _footprint(self, peer: Peer) -> None:
        self.footprints.append(idle.footprint(peer, self.lab))

    def _idle(self, peer: Peer) -> None:
        found = idle.idle_connections(peer, self.lab, TINY, count=IDLE_CONNECTIONS, window_s=self.size.window_s)
        self.idle.append(found)

    def _crowd(self, peer: Peer) -> None:
        possible = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES
        self.crowds.append(idle.crowd(peer, self.lab, TINY, count=min(CROWD_CONNECTIONS, possible)))

    def _overload(self, peer: Peer) -> None:
        size = self.size
        for workload in OVERLOADED:
            self.overloads += overload(peer, self.lab, workload, rounds=size.overload_rounds, load_s=size.overload_s)
            self.refusal_costs += refusal_costs(
                peer, self.lab, workload, rounds=size.overload_rounds, load_s=size.overload_s
            )
