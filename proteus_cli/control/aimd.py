"""Batch sizes by additive increase and multiplicative decrease, as in Clipper."""

from dataclasses import dataclass, field

from proteus_cli.control.batcher import CANNOT_MEET_DEADLINE, Batching, Delay, Start
from proteus_cli.control.decision import Hosted, Launch
from proteus_cli.domain.request import Request

STEP = 1.0
BACKOFF = 0.9


@dataclass(frozen=True, slots=True)
class AimdBatcher:
    """A lane's batches grow by a row with each full one that is in time, and shrink by a tenth with each late one.

    It knows no latencies: it finds the size by trying (Crankshaw et al., "Clipper", NSDI 2017, §4.3). With a
    ``timeout_s`` of 0 it is work-conserving; else a batch waits so long for company. Only what is late already is
    given up.
    """

    timeout_s: float = 0.0
    _size: dict[tuple[str, str, str], float] = field(default_factory=dict, compare=False)

    def fresh(self) -> "AimdBatcher":
        return AimdBatcher(self.timeout_s)

    def due_s(self, request: Request) -> float:
        return request.deadline_s

    def decide(self, head: Request, waiting: int, hosted: Hosted, now_s: float, slowdown: float = 1.0) -> Batching:
        del slowdown  # it feels it
        if now_s > head.deadline_s:
            return CANNOT_MEET_DEADLINE
        most = min(int(self._size.get(_key(hosted), 1.0)), hosted.max_batch)
        waiting = max(waiting, head.rows)
        if waiting < most and head.arrival_s + self.timeout_s > now_s:
            return Delay(until_s=head.arrival_s + self.timeout_s)
        return Start(rows=max(min(waiting, most), head.rows))

    def ran(self, launch: Launch, took_s: float) -> None:
        hosted, end_s = launch.hosted, launch.at_s + took_s
        size = self._size.get(_key(hosted), 1.0)
        if any(end_s > request.deadline_s for request in launch.requests):
            self._size[_key(hosted)] = max(1.0, size * BACKOFF)
        elif launch.rows >= int(size):
            self._size[_key(hosted)] = min(size + STEP, float(hosted.max_batch))


def _key(hosted: Hosted) -> tuple[str, str, str]:
    return hosted.device, hosted.family, hosted.variant
