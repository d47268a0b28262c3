"""Early drop, as in Nexus."""

from dataclasses import dataclass

from proteus_cli.control.batching.batcher import CANNOT_MEET_DEADLINE, Batching, Start
from proteus_cli.control.decision import Host, Launch
from proteus_cli.domain.request import Request


@dataclass(frozen=True, slots=True)
class NexusBatcher:
    """Work-conserving batches of the planned size; requests without time for one are dropped.

    A window of that size slides along the queue up to the first request that has time for the whole window; those
    before it are dropped (Shen et al., "Nexus", SOSP 2019, §4.3). Where fewer wait, the window is what waits.
    """

    def fresh(self) -> "NexusBatcher":
        return self

    def due_s(self, request: Request) -> float:
        return request.deadline_s

    def decide(self, head: Request, waiting: int, hosted: Host, now_s: float, slowdown: float = 1.0) -> Batching:
        rows = max(min(waiting, hosted.max_batch), head.rows)
        if now_s + slowdown * hosted.latency(rows) > head.deadline_s:
            return CANNOT_MEET_DEADLINE
        return Start(rows)

    def ran(self, launch: Launch, took_s: float) -> None:
        """Nothing is learned."""
