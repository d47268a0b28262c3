"""Which hosts of a family may answer a request that asks for more than any of them gives.

Hosts that no request can tell apart are of one *kind*. A set of kinds is a number, with a bit for each. The set of a
request names its queue: two requests that the same hosts may answer share one, whatever they ask for.

Whether an answer keeps its bounds depends on the host where it begins:

* accuracy: the host's own is at least the minimum;
* expected accuracy: the host's own is at least the minimum, or a cascade that begins there reaches it;
* energy: the host's energy until its first answer is within the limit, in the batch that is worst for the request.
  Energy beyond that is checked stage by stage. Where the accuracy needs a cascade, both stages together are within the
  limit; else the second stage gets the rest;
* version: the host is of a variant that the request accepts, and so is the second stage where one is needed.

A host that cuts rows short (`HostedVariant.cuts`) is of two kinds: one gives whole answers alone, and one any. Cut
answers are less accurate than the variant, so a request that asks for an accuracy may only go to the kind of whole
answers. The same holds for deferred requests, which ask for the second stage's accuracy.

With a `VersionPair`, the new version is for canaries alone, and the old one for all others. The set ``everyone`` is
without the new one then. A request that asks for a version is in neither arm; it goes to hosts of that version.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from types import MappingProxyType

from proteus_cli.control.decision import CascadeRoute, HostedVariant
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Bounds, Request
from proteus_cli.domain.rollouts import VersionPair

Routes = Mapping[VariantKey, Sequence[CascadeRoute]]
"""The cascades of a plan by their first variant, the highest rate first."""
MAX_KEPT = 1000
"""Least times that are kept: clients choose their bounds and rows."""


class _AlikeHosts:
    """Hosts that no request can tell apart; ``host`` is one of them, and ``routes`` are the cascades that begin there.

    It ``cuts`` where it stands for answers that may be cut short; ``cutting`` is that kind of the same hosts, or this
    one where there is none. A request that takes any answer has both, or none.
    """

    __slots__ = ("_worst_row_j", "cuts", "cutting", "host", "routes")

    def __init__(self, host: HostedVariant, routes: Sequence[CascadeRoute]) -> None:
        self.host, self.routes, self.cuts = host, routes, host.cuts
        self.cutting: _AlikeHosts = self
        self._worst_row_j: tuple[float, ...] = ()

    def energy_j(self, rows: int) -> float:
        """The most energy that a request of ``rows`` takes until its first answer."""
        if not self._worst_row_j:  # most hosts are never asked
            host = self.host
            from_full = accumulate((host.least_energy_j(1, batch) for batch in range(host.max_batch, 0, -1)), max)
            self._worst_row_j = tuple(from_full)[::-1]  # by rows of the smallest batch
        return rows * self._worst_row_j[min(rows, len(self._worst_row_j)) - 1]


class Eligibility:
    """Which hosts of a family may answer which requests. ``everyone`` is the set of all kinds of hosts.

    With ``pair``, it lacks the kinds of the new version, and ``canary`` lacks the kinds of the old one. ``canary`` is
    empty unless the new version serves (``has_new``).
    """

    def __init__(
        self,
        hosts: Sequence[HostedVariant] = (),
        routes: Routes = MappingProxyType({}),
        pair: VersionPair | None = None,
        *,
        has_new: bool = False,
    ) -> None:
        self._kinds: list[_AlikeHosts] = []
        self._routes, self._places = routes, dict[Hashable, int]()
        self._place = {host: self._place_of(host) for host in hosts}
        self._whole = {host: host.whole() for host in hosts if host.cuts}
        self._place |= {whole: self._place_of(whole) for whole in self._whole.values()}
        for host, whole in self._whole.items():
            self._kinds[self._place[whole]].cutting = self._kinds[self._place[host]]
        self.everyone = self._all = (1 << len(self._kinds)) - 1
        self._new = self.canary = 0
        if pair is not None:
            old, new = (_set(kind.host.variant == each for kind in self._kinds) for each in (pair.old, pair.new))
            if has_new:
                self._new, self.canary = new, self.everyone & ~old
            self.everyone &= ~new
        self._cut = _set(kind.cuts for kind in self._kinds)
        self._accuracies = sorted({kind.host.accuracy for kind in self._kinds})
        self._at_least = [_set(kind.host.accuracy >= least for kind in self._kinds) for least in self._accuracies]
        self._at_least.append(0)  # more accurate than the most accurate ones
        self._least_s = dict[tuple[int, int], tuple[float, float]]()

    def of(self, request: Request) -> int:
        """The set of kinds that may answer a request."""
        if request.bounds is not None and request.bounds.version is not None:
            return self._of(request, self._all)
        if self.is_canary(request):
            return self._of(request, self.canary)
        return self._of(request, self.everyone)

    def is_canary(self, request: Request) -> bool:
        """The new version may answer a request, in place of the old one."""
        if not self._new or request.bounds is None or not request.bounds.is_canary:
            return False
        return bool(self._of(request, self._new))

    def of_variant(self, request: Request, variant: str) -> int:
        """The kinds of a variant that may answer a request, in whichever arm it is."""
        return self._of(request, _set(kind.host.variant == variant for kind in self._kinds))

    def has_new(self, kinds: int) -> bool:
        """Whether the new version of the pair is in a set of kinds."""
        return bool(kinds & self._new)

    def _of(self, request: Request, kinds: int) -> int:
        """The members of ``kinds`` that may answer a request."""
        accurate = kinds & self._at_least[bisect_left(self._accuracies, request.min_accuracy)]
        is_whole, bounds = request.asks_for_accuracy, request.bounds
        if self._cut and is_whole:
            accurate &= ~self._cut
        if bounds is None or not accurate:
            return accurate
        return accurate & _set(self._keeps(kind if is_whole else kind.cutting, request, bounds) for kind in self._kinds)

    def lasting_within(self, kinds: int) -> int:
        """The largest set within ``kinds`` that clients cannot multiply; empty where ``kinds`` is."""
        return next((each for each in self._lasting if not each & ~kinds), 0)

    @cached_property
    def _lasting(self) -> list[int]:
        """The sets of each least accuracy, of each variant, and of each kind; the sets with the most hosts first.

        Their number depends on the plan alone, and each request that any host may answer has one within its own set.
        """
        of_kind = Counter(self._place.values())
        arms = {self.everyone, self.canary, self._all}
        found = [arm & least & kept for arm in arms for least in self._at_least for kept in (self._all, ~self._cut)]
        found += [_set(kind.host.variant == each for kind in self._kinds) for each in {h.variant for h in self._place}]
        found += [1 << place for place, kind in enumerate(self._kinds) if not kind.cuts]
        found += [1 << self._place[host] | 1 << self._place[whole] for host, whole in self._whole.items()]
        hosts = {kinds: sum(n for place, n in of_kind.items() if kinds >> place & 1) for kinds in found if kinds}
        return sorted(hosts, key=lambda kinds: (-hosts[kinds], kinds))

    def hosts(self, kinds: int) -> list[HostedVariant]:
        """The hosts of a set of kinds, each once."""
        found = [host for host, place in self._place.items() if kinds >> place & 1]
        twice = {self._whole[host] for host in found if host.cuts}
        return [host for host in found if host not in twice] if twice else found

    def least_s(self, request: Request) -> tuple[float, float]:
        """The least time of whole answers to a request, and of answers that may be cut short, as profiled.

        It is infinite where there are none. It is kept: a fleet may have thousands of hosts.
        """
        key = kinds, rows = self.of(request), request.rows
        if key not in self._least_s:
            if len(self._least_s) >= MAX_KEPT:
                self._least_s.clear()
            hosts, whole_s, cut_s = self.hosts(kinds), [math.inf], [math.inf]
            for host in hosts:
                (cut_s if host.cuts else whole_s).append(host.least_latency(rows))
            self._least_s[key] = min(whole_s), min(cut_s)
        return self._least_s[key]

    @cached_property
    def available(self) -> dict[str, float]:
        """The accuracy of each variant that usual requests may have, highest first."""
        return self._accuracies_of(self.everyone)

    @cached_property
    def available_of_all(self) -> dict[str, float]:
        """The accuracy of each variant, highest first; both versions of a pair are in it."""
        return self._accuracies_of(self._all)

    def _accuracies_of(self, kinds: int) -> dict[str, float]:
        found: dict[str, float] = {}
        hosts = [kind.host for place, kind in enumerate(self._kinds) if kinds >> place & 1]
        for host in sorted(hosts, key=lambda host: host.accuracy, reverse=True):
            found.setdefault(host.variant, host.accuracy)
        return found

    @cached_property
    def expected(self) -> dict[str, float]:
        """The expected accuracy of the answers of each cascade, by its name, "first → second"."""
        found: dict[str, float] = {}
        for cascade in [route.cascade for kind in self._kinds for route in kind.routes]:
            name = f"{cascade.first} → {cascade.second}"
            found[name] = max(found.get(name, 0.0), cascade.point.accuracy)
        return found

    def energy_j(self, request: Request) -> dict[str, float]:
        """The least limit of energy that a request could have, by variant; variants of unknown power are left out."""
        found: dict[str, float] = {}
        for kind in self._kinds:
            if kind.host.power_w is not None and not (kind.cuts and request.asks_for_accuracy):
                variant = kind.host.variant
                found[variant] = min(found.get(variant, math.inf), kind.energy_j(request.rows))
        return found

    def _place_of(self, host: HostedVariant) -> int:
        """The kind of a host, by its place among all."""
        alike = host.variant, host.accuracy, host.power_w, host.max_batch, id(host.mean_latency), host.cuts
        if alike not in self._places:
            self._places[alike] = len(self._kinds)
            self._kinds.append(_AlikeHosts(host, self._routes.get(host.key, ())))
        return self._places[alike]

    def _keeps(self, kind: _AlikeHosts, request: Request, bounds: Bounds) -> bool:
        """Whether an answer that begins there keeps the bounds."""
        if not bounds.accepts(kind.host.variant):
            return False
        left_j = math.inf
        if bounds.is_energy_limited:
            left_j = bounds.max_energy_j - kind.energy_j(request.rows)
            if not left_j >= 0:
                return False
        if kind.host.accuracy >= bounds.min_expected_accuracy:
            return True
        return any(
            route.cascade.point.accuracy >= bounds.min_expected_accuracy
            and bounds.accepts(route.cascade.second)
            and self._has_second(request, bounds, route, left_j)
            for route in kind.routes
        )

    def _has_second(self, request: Request, bounds: Bounds, route: CascadeRoute, left_j: float) -> bool:
        least = max(route.min_accuracy, request.min_accuracy)
        return any(
            not kind.cuts
            and kind.host.accuracy >= least
            and bounds.accepts(kind.host.variant)
            and (left_j == math.inf or kind.energy_j(request.rows) <= left_j)
            for kind in self._kinds
        )


def _set(are_in: Iterable[bool]) -> int:
    return sum(1 << place for place, is_in in enumerate(are_in) if is_in)
