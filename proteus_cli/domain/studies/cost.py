"""What a study of costs finds of one fleet."""

from typing import Literal

from msgspec import field

from proteus_cli.domain.base import Value, is_amount, is_count, require

Usage = Literal["dedicated", "shared"]
"""A device serves one variant, or several."""


class FleetCost(Value, frozen=True):
    """The cheapest fleet that was found for a trace, and what a million of its queries cost, in the prices' currency.

    ``fleet`` counts devices by type, and ``held`` by what they hold (``a + b``). Of ``queries``, ``missed`` were late,
    dropped, rejected or failed: of the family that missed the most, the part ``missed_frac``, ``low_frac`` to
    ``high_frac`` at 95 %. ``percentile_s`` is by family the latency at the percentile that was asked for, None where
    that query was not answered. Plans were made for ``multiple`` times the demand of the trace's busiest seconds;
    ``tried`` of them were simulated. All of this is on devices that take the study's headroom times as long as
    profiled. ``assumed`` says what of sharing was not measured, with the command that does so.
    """

    usage: Usage
    fleet: dict[str, int]
    held: dict[str, int]
    price_per_hour: float
    cost_per_million: float
    queries: int
    missed: int
    missed_frac: float
    low_frac: float
    high_frac: float
    effective_accuracy: float | None
    multiple: float
    tried: int
    percentile_s: dict[str, float | None] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(is_amount(self.price_per_hour) and is_amount(self.cost_per_million), "costs must not be negative")
        require(is_count(self.queries, 1) and is_count(self.missed, 0, self.queries), "missed must be of the queries")
        require(0 <= self.low_frac <= self.missed_frac <= self.high_frac <= 1, "missed_frac must be in its interval")

    @property
    def devices(self) -> int:
        return sum(self.fleet.values())


class Saving(Value, frozen=True):
    """What sharing saves on one fleet: the part of what a million queries cost with dedicated devices."""

    scope: str
    dedicated: float
    shared: float
    saved_frac: float


class CostConclusion(Value, frozen=True):
    """``savings`` by scope, and the cell that costs the least."""

    savings: tuple[Saving, ...]
    cheapest: str
