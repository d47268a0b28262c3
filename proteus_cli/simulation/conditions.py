"""The conditions of a simulation: load times, scatter of batch times, failures of devices and hosts."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from proteus_cli.control.controller import MAX_UNAVAILABLE_FRAC
from proteus_cli.domain.base import require
from proteus_cli.domain.device import host_of
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.errors import UsageError
from proteus_cli.units import parse_duration

SOLVE_S = 0.05
JITTERS = {"p90": 0.90, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Failure:
    """Devices fail at ``from_s``, and can be opened again from ``until_s`` on, which may be infinite.

    With a ``host``, that can't be reached meanwhile, and ``devices`` are all that it has.
    """

    devices: tuple[str, ...]
    from_s: float
    until_s: float
    host: str = ""


@dataclass(frozen=True, slots=True)
class SlowSpan:
    """Batches that begin from ``from_s`` on and before ``until_s`` take ``factor`` times as long as profiled.

    That counts for the whole batch: where it ends does not matter. Raises `ValueError` for a factor that is not
    positive, or a span that ends before it starts.
    """

    factor: float = 1.0
    from_s: float = 0.0
    until_s: float = math.inf

    def __post_init__(self) -> None:
        require(0 < self.factor < math.inf, "batches take a positive, finite time")
        require(self.from_s < self.until_s, "a span ends after it starts")

    def factor_at(self, now_s: float) -> float:
        """How many times as long as profiled a batch takes that begins then."""
        return self.factor if self.from_s <= now_s < self.until_s else 1.0


AS_PROFILED = SlowSpan()


@dataclass(frozen=True, slots=True)
class Conditions:
    """``load_time_s``: seconds of a load in place; None: variants load beside the active ones, in profiled time.

    ``jitter``: batch times scatter between the profiled percentiles, up to this fraction; None: they are the mean.
    ``slow``: batches take longer than profiled, all the time or for a while, which the controller is not told.
    ``solve_s``: seconds of virtual time from the wish for a plan to the plan, which is solved for in another process.
    ``memory_bytes``: what variants may take of each device's memory, standbys included; without, there are none.
    ``max_unavailable_frac``: the largest part of a family's capacity that may be unavailable while variants load in
    place.
    """

    load_time_s: float | None = None
    jitter: float | None = None
    failures: tuple[Failure, ...] = ()
    slow: SlowSpan = AS_PROFILED
    solve_s: float = SOLVE_S
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    max_unavailable_frac: float = MAX_UNAVAILABLE_FRAC

    def load_s(self, measured: VariantProfile) -> float:
        """Seconds that a variant takes to load."""
        return measured.load_s if self.load_time_s is None else self.load_time_s


def parse_failure(text: str, devices: Collection[str]) -> Failure:
    """``"v100-3@60s..120s"``, or without an end; ``"a@60s..90s"`` of a host among ``devices``.

    Raises `UsageError`.
    """
    hint = "say which device or host fails when, like `v100-3@60s..120s`, or `a@60s..` for good"
    name, at, when = text.partition("@")
    first, dots, last = when.partition("..")
    if not (name and at and first and dots):
        raise UsageError(f"`{text}` is no failure.", hint=hint)
    is_device = name in devices
    failing = (name,) if is_device else tuple(device for device in devices if host_of(device) == name)
    if not failing:
        raise UsageError(f"`{text}` names `{name}`, which is not in the fleet.", hint=hint)
    from_s, until_s = parse_duration(first), parse_duration(last) if last else math.inf
    if until_s <= from_s:
        raise UsageError(f"`{text}` ends before it starts.", hint=hint)
    return Failure(failing, from_s, until_s, host="" if is_device else name)
