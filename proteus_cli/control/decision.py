"""What a lane can be told to do."""

from dataclasses import dataclass

from proteus_cli.domain.profile import LatencyTable
from proteus_cli.domain.request import Request


@dataclass(frozen=True, slots=True, eq=False)
class Hosted:
    """A variant that a lane has loaded: what it costs (``latency``, p95 by rows) and gives (``accuracy``).

    ``weight`` is the rate that the plan sends it, ``capacity_qps`` the most it can take.
    """

    device: str
    family: str
    variant: str
    accuracy: float
    max_batch: int
    weight: float
    capacity_qps: float
    latency: LatencyTable


@dataclass(frozen=True, slots=True)
class Launch:
    """Run these requests as one batch now."""

    hosted: Hosted
    requests: tuple[Request, ...]

    @property
    def rows(self) -> int:
        return sum(request.rows for request in self.requests)


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Ask again at that time, or when something changes."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Give these up: no variant that is loaded can answer them in time."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class HandOver:
    """This lane can't make the most urgent request; ``to`` can and now has its turn: ask that lane."""

    to: str


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to do until something changes."""


Decision = Launch | WaitUntil | Drop | HandOver | Idle
IDLE = Idle()
