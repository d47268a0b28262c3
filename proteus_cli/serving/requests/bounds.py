"""What clients are told of bounds that nothing keeps, or only hosts that have too much to do."""

import math
from collections.abc import Iterator

from proteus_cli.control.decision import BeyondHosts, OtherPlanNeeded, Unfit
from proteus_cli.domain.request import Bounds
from proteus_cli.serving.requests.query import Query
from proteus_cli.units import counted


def unmet(query: Query, bounds: Bounds, unfit: Unfit) -> str:
    """What was asked, and what could be had instead."""
    asked = " and ".join(_asked(query, bounds))
    variants = [_described(name, accuracy, unfit, bounds) for name, accuracy in unfit.available.items()]
    cascades = [f"{name} ({accuracy:.4g})" for name, accuracy in unfit.expected.items()]
    available = ", ".join(variants + (cascades if bounds.min_expected_accuracy else []))
    return f"nothing of `{query.family}` that is planned has {asked}; available: {available or 'none'}"


def never_in_time(query: Query, timeout_s: float, offered: BeyondHosts, *, keeps_plan: bool) -> str:
    """What was asked within which time, and in what time an idle device answers that: of some plan, or of this one.

    A server that ``keeps_plan`` makes no other one by itself.
    """
    asked = " and ".join(_asked(query, query.options.bounds or Bounds()))
    rows = f" to {counted(query.rows, 'row')}" if query.rows > 1 else ""
    what = f"an answer{rows}{asked and f' with {asked}'} within {1000 * timeout_s:g} ms"
    needs = f"has {what}: even an idle device needs {format_least_ms(offered.least_timeout_s)}"
    if isinstance(offered, OtherPlanNeeded):
        why = "this server makes no other plan by itself" if keeps_plan else "another plan could host a faster one"
        return f"no variant of `{query.family}` that is hosted now {needs}; {why}"
    return f"no variant of `{query.family}` {needs}"


def format_least_ms(timeout_s: float) -> str:
    """A time that will do, so it is rounded up."""
    return f"{math.ceil(timeout_s * 1e5) / 100:g} ms"


def _asked(query: Query, bounds: Bounds) -> Iterator[str]:
    if bounds.version is not None:
        yield str(bounds.version)
    yield from _accuracies_asked(query, bounds)
    if bounds.is_energy_limited:
        yield f"an energy of {bounds.max_energy_j:g} J or less"


def _accuracies_asked(query: Query, bounds: Bounds) -> Iterator[str]:
    if query.options.min_accuracy:
        yield f"an accuracy of {query.options.min_accuracy:g} or more"
    if bounds.min_expected_accuracy:
        yield f"an expected accuracy of {bounds.min_expected_accuracy:g} or more"


def _described(variant: str, accuracy: float, unfit: Unfit, bounds: Bounds) -> str:
    if not bounds.is_energy_limited:
        return f"{variant} ({accuracy:.4g})"
    energy_j = unfit.energy_j.get(variant, math.nan)
    energy = "of unknown power" if math.isnan(energy_j) else f"{energy_j:.3g} J"
    return f"{variant} ({accuracy:.4g}, {energy})"
