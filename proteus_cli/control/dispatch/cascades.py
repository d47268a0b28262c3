"""Which newcomers of a variant go by which cascade of the plan in force."""

from collections.abc import Sequence

from proteus_cli.control.decision import CascadeRoute, Host, Launch
from proteus_cli.control.dispatch.quota import WeightedShares
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan

MIN_ALONE_FRAC = 1e-9
"""A smaller part of a variant's rate, that no cascade takes, is an error of rounding."""


class Cascades:
    """Shares the newcomers of first stages among their cascades, as the plan says: exactly, and without randomness.

    What a first stage gets beyond the rates of its cascades is answered by it alone. All rows of a request go the same
    way; one with a `min_confidence` goes by the cascade that gets the most. While no plan had cascades, and no request
    `Bounds`, nothing was ``ever_in_use``: no request goes by any or is deferred, and nothing needs to be asked.
    """

    def __init__(self) -> None:
        self.ever_in_use = False
        self._shares: dict[VariantKey, WeightedShares[CascadeRoute | None]] = {}
        self._largest: dict[VariantKey, CascadeRoute] = {}

    def use(self, plan: Plan, hosted: Sequence[Host]) -> None:
        """Go by this plan, which places ``hosted``, from now on."""
        self.ever_in_use = self.ever_in_use or bool(plan.cascades)
        accuracy = {host.key: host.accuracy for host in hosted}
        routes: dict[VariantKey, list[CascadeRoute]] = {}
        for cascade in plan.cascades:
            second = VariantKey(cascade.family, cascade.second)
            routes.setdefault(VariantKey(cascade.family, cascade.first), []).append(
                CascadeRoute(cascade, accuracy[second])
            )
        self._shares = {first: _shares(plan, first, found) for first, found in routes.items()}
        self._largest = {first: max(found, key=lambda route: route.cascade.rate_qps) for first, found in routes.items()}

    def routes(self, launch: Launch) -> Sequence[CascadeRoute | None]:
        """The way of each request of a batch that has ended; None: its answer is sent, however sure it is."""
        shares = self._shares.get(launch.hosted.key)
        if shares is None or launch.requests[0].is_deferred:  # all of a batch are alike: they come from one queue
            return (None,) * len(launch.requests)
        largest = self._largest[launch.hosted.key]
        return [
            shares.next(request.rows) if request.bounds is None or not request.bounds.needs_confidence else largest
            for request in launch.requests
        ]


def _shares(plan: Plan, first: VariantKey, routes: Sequence[CascadeRoute]) -> WeightedShares[CascadeRoute | None]:
    rates_qps = [route.cascade.rate_qps for route in routes]
    all_qps = sum(placement.rate_qps for placement in plan.placements if placement.key == first)
    alone_qps = all_qps - sum(rates_qps)
    if alone_qps <= MIN_ALONE_FRAC * all_qps:
        return WeightedShares(routes, rates_qps)
    return WeightedShares([*routes, None], [*rates_qps, alone_qps])
