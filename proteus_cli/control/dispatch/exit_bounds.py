"""By when a multi-exit model must have answered each request of a batch."""

import math
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from proteus_cli.control.decision import Launch
from proteus_cli.domain.conditions import Condition
from proteus_cli.domain.request import Request
from proteus_cli.domain.stages.stage_forecast import ExitBounds


def exit_bounds(
    launch: Launch,
    due_s: Callable[[Request], float],
    way_s: float,
    slowdown: float,
    stop_when: Mapping[str, Condition],
    *,
    may_leave: bool,
) -> ExitBounds | None:
    """The bounds of a batch on a device of that slowdown; None where the host is of no multi-exit model.

    ``due_s`` says when the answer to a request must be sent; it gets there ``way_s`` after the end of a stage. Where
    rows may not be cut short, no answer is due, and energy counts for whole answers. ``stop_when`` has live conditions
    by family. A promise of accuracy or energy was measured with the condition of the catalog, so a request with such a
    bound ignores them.
    """
    hosted, requests = launch.hosted, launch.requests
    if not hosted.exits or not hosted.exits[0].points:
        return None
    due = [due_s(each) - way_s if hosted.cuts else math.inf for each in requests]
    rows = [each.rows for each in requests]
    least = _min_confidences(requests)
    bounds = ExitBounds(
        due, rows, hosted.exits, slowdown, None, least, hosted.attainment, may_leave,
        power_w=hosted.power_w, max_energy_j=_max_energies(requests) if hosted.cuts else (),
    )  # fmt: skip
    live = stop_when.get(hosted.family)
    return bounds if live is None else _with_live(bounds, live, requests)


def _with_live(bounds: ExitBounds, live: Condition, requests: Sequence[Request]) -> ExitBounds:
    """The bounds with a live condition, for the requests that it counts for."""
    by_own = [_relies_on_profile(each) for each in requests]
    if all(by_own):
        return bounds
    return replace(
        bounds,
        stop_when=live,
        arrival_s=[each.arrival_s for each in requests],
        by_own=by_own if any(by_own) else (),
    )


def _relies_on_profile(request: Request) -> bool:
    return request.asks_for_accuracy or (request.bounds is not None and request.bounds.is_energy_limited)


def _min_confidences(requests: Sequence[Request]) -> Sequence[float]:
    """The confidence that each request asks for; empty where none does."""
    found = [-math.inf if each.bounds is None else each.bounds.min_confidence for each in requests]
    return found if max(found) > -math.inf else ()


def _max_energies(requests: Sequence[Request]) -> Sequence[float]:
    """The energy that each request may take; empty where none limits it."""
    found = [math.inf if each.bounds is None else each.bounds.max_energy_j for each in requests]
    return found if min(found) < math.inf else ()
