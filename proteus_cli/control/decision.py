"""What a lane can be told to do."""

from dataclasses import dataclass

import msgspec

from proteus_cli.domain.catalog import VariantKey
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

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.variant)


class Launch(msgspec.Struct, frozen=True, gc=False):
    """Run these requests, of so many ``rows`` together, as one batch now, ``at_s``.

    Those of the highest priority come first, and of each the most urgent.

    Unless there ``is_more_to_do``, a driver need not ask again before something changes. One that ``is_ahead`` stands
    behind what runs on the device, and is to start when that ends.
    """

    hosted: Hosted
    requests: tuple[Request, ...]
    rows: int
    at_s: float
    is_more_to_do: bool = False
    is_ahead: bool = False


class WaitUntil(msgspec.Struct, frozen=True, gc=False):
    """Ask again at that time, or when something changes."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Give these up: no variant that is loaded can answer them in time."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Delegate:
    """This lane can't make the most urgent request; ``to`` can and now has its turn: ask that lane."""

    to: str


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to do until something changes."""


Decision = Launch | WaitUntil | Drop | Delegate | Idle
IDLE = Idle()
