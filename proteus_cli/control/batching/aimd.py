"""Batch sizes by additive increase and multiplicative decrease, as in Clipper."""

from dataclasses import dataclass, field

from proteus_cli.control.batching.batcher import CANNOT_MEET_DEADLINE, Batching, Delay, Start
from proteus_cli.control.decision import Host, Launch
from proteus_cli.domain.request import Request

STEP = 1.0  # rows
BACKOFF = 0.9  # a factor


@dataclass(frozen=True, slots=True)
class AimdBatcher:
    """The batch size grows by `STEP` with each full batch in time, and shrinks by `BACKOFF` with each late one.

    The rule knows no latencies; it finds the size of each host by trial (Crankshaw et al., "Clipper", NSDI 2017, §4.3).
    A batch that is not full waits ``timeout_s`` for company. Only requests that are late already are given up.
    """

    timeout_s: float = 0.0
    _size: dict[tuple[str, str, str], float] = field(default_factory=dict, compare=False)

    def fresh(self) -> "AimdBatcher":
        return AimdBatcher(self.timeout_s)

    def due_s(self, request: Request) -> float:
        return request.deadline_s

    def decide(self, head: Request, waiting: int, hosted: Host, now_s: float, slowdown: float = 1.0) -> Batching:
        del slowdown  # the size adapts to it
        if now_s > head.deadline_s:
            return CANNOT_MEET_DEADLINE
        max_rows = min(int(self._size.get(_key(hosted), 1.0)), hosted.max_batch)
        waiting = max(waiting, head.rows)
        if waiting < max_rows and head.arrival_s + self.timeout_s > now_s:
            return Delay(until_s=head.arrival_s + self.timeout_s)
        return Start(rows=max(min(waiting, max_rows), head.rows))

    def ran(self, launch: Launch, took_s: float) -> None:
        hosted, end_s = launch.hosted, launch.at_s + took_s
        size = self._size.get(_key(hosted), 1.0)
        if any(end_s > request.deadline_s for request in launch.requests):
            self._size[_key(hosted)] = max(1.0, size * BACKOFF)
        elif launch.rows >= int(size):
            self._size[_key(hosted)] = min(size + STEP, float(hosted.max_batch))


def _key(hosted: Host) -> tuple[str, str, str]:
    return hosted.device, hosted.family, hosted.variant
