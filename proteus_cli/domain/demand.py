"""Queries per second by family."""

from collections.abc import Mapping

from proteus_cli.domain.base import is_amount
from proteus_cli.domain.catalog import Catalog
from proteus_cli.errors import UsageError
from proteus_cli.units import parse_assignments, parse_rate

Demand = Mapping[str, float]
"""Queries per second by family; families that are left out have none."""


def parse_demand(text: str, catalog: Catalog) -> dict[str, float]:
    """``"1200qps"`` (shared by weight) or ``"digits=800qps,signals=200qps"`` → qps of every family.

    Raises `UsageError` for unknown families, families named twice, and bad rates.
    """
    if "=" not in text:
        return _shared_by_weight(parse_rate(text), catalog)
    rates = parse_assignments(text, "The demand")
    return dict.fromkeys(catalog.names, 0.0) | {
        catalog.family(name).name: parse_rate(rate or "") for name, rate in rates.items()
    }


def _shared_by_weight(total_qps: float, catalog: Catalog) -> dict[str, float]:
    weight = sum(family.weight for family in catalog.families)
    if weight <= 0:
        raise UsageError(
            "All families in the catalog have weight 0, so a total can't be shared among them.",
            hint="give the demand by family, like `--demand digits=800qps,signals=200qps`",
        )
    return {family.name: total_qps * family.weight / weight for family in catalog.families}


def check_demand(demand: Demand, catalog: Catalog) -> None:
    """Raise `UsageError` unless every rate is a finite amount of a family that the catalog has."""
    for name, qps in demand.items():
        catalog.family(name)
        if not is_amount(qps):
            raise UsageError(f"The demand of `{name}` is {qps}.", hint="give finite rates that are not negative")
