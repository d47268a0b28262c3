"""Why a plan came into force, and what was seen of it while it was."""

from datetime import datetime
from typing import Literal

from proteus_cli.domain.base import Amount, Count, MadeBy, Value, require_format

Origin = Literal["start", "resumed", "demand", "file", "request", "drift"]
"""The cause of a plan: the start of a server, its resumption after it was killed, the demand, a person, or drifted
profiles."""

Ended = Literal["replaced", "stopped"]


class Base(Value, frozen=True):
    """The plan that a server was started with: as it was named, and the SHA-256 of its file."""

    plan: str
    sha256: str


class Observation(Value, frozen=True):
    """The inputs of the decision: demand in queries per second by family and window, pace by device, lost devices.

    ``pace``: measured batch times over profiled ones.
    """

    demand_qps: dict[str, dict[str, float]]
    pace: dict[str, float]
    lost: tuple[str, ...] = ()


class EngineChange(Value, frozen=True):
    """A variant that came to a device with a plan: an activated standby, or one loaded in ``load_s`` seconds."""

    device: str
    family: str
    variant: str
    load_s: Amount | None
    """None: it was warm."""


class FamilyEffect(Value, frozen=True):
    """The outcomes of a family's requests, the mean accuracy of served ones, and the fraction not served in time.

    The latter two are None where there were none.
    """

    outcomes: dict[str, Count]
    effective_accuracy: float | None
    slo_violation_ratio: float | None


class Effect(Value, frozen=True):
    """Observations while a plan was in force, for ``seconds``, until ``ended`` (ISO 8601, UTC); ``why`` it ended."""

    ended: str
    why: Ended
    seconds: Amount
    families: dict[str, FamilyEffect]


class PlanRecord(Value, frozen=True):
    """Beside a plan in ``plans/history/``: ``<plan>.record.json``.

    ``plan`` names it and ``before`` the one that it replaced, without ``.json``; ``began`` is when it came into force
    (ISO 8601, UTC). Seconds that solving took and the whole change did, how many variants were loaded, and all variants
    that came to a device. ``effect`` is None while it is in force, and for good where the server was killed.
    """

    format: int
    made_by: MadeBy
    plan: str
    before: str | None
    base: Base
    emulated: bool
    began: str
    origin: Origin
    reason: str
    seen: Observation
    planned_qps: dict[str, float]
    solve_s: Amount
    total_s: Amount
    swaps: Count
    effect: Effect | None
    engines: tuple[EngineChange, ...] = ()

    def __post_init__(self) -> None:
        require_format(self.format)
        datetime.fromisoformat(self.began)
