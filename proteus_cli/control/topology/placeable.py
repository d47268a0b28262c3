"""What plans could place of a family, whatever they place now: for requests in whose time nothing hosted answers."""

from collections.abc import Container, Iterable, Mapping

from proteus_cli.control.decision import CascadeRoute, FirstStage, Host
from proteus_cli.control.dispatch.eligibility import Eligibility
from proteus_cli.control.topology.hosting import placeable_host
from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.catalog import NO_VARIANTS, VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import DeviceLimits, Rules, limits_of
from proteus_cli.domain.stages.cascade import CascadeProfile, PlannedCascade


class Placeable:
    """What plans could place of each family; found when it is first asked for, and kept until that may have changed.

    Profiles are looked at as they are then: a driver may add to them.
    """

    def __init__(self) -> None:
        self._profiles: Mapping[str, Profile] | None = None
        self._variants: Container[VariantKey] = NO_VARIANTS
        self._rules, self._targets, self._found = Rules(), dict[str, SloTarget](), dict[str, Eligibility]()

    def use(self, profiles: Mapping[str, Profile], variants: Container[VariantKey]) -> None:
        """From now on plans may place these variants, as these profiles, by device, say."""
        self._profiles, self._variants = profiles, variants
        self.changed()

    def plan_by(self, rules: Rules, targets: Mapping[str, SloTarget]) -> None:
        """Plans obey these rules, for these targets by family."""
        if (rules, targets) != (self._rules, self._targets):
            self._rules, self._targets = rules, dict(targets)
            self.changed()

    def changed(self) -> None:
        """The profiles say something else."""
        self._found.clear()

    def of(self, family: str) -> Eligibility | None:
        """None where it is not known: without profiles, and before the first plan for the family."""
        if self._profiles is None or family not in self._targets:
            return None
        if family not in self._found:
            target, profiles = self._targets[family], self._profiles.values()
            self._found[family] = _placeable(family, profiles, target, self._rules, self._variants)
        return self._found[family]


def _placeable(
    family: str, profiles: Iterable[Profile], target: SloTarget, rules: Rules, variants: Container[VariantKey]
) -> Eligibility:
    """What plans by these ``rules`` may place of a family: each of its ``variants`` once for each kind of devices.

    Each host has its device to itself. With cascades, it begins all that the profiles know of it, at the most accurate
    threshold.
    """
    planned, known = rules.planned_target(family, target), set[tuple[int, int, DeviceLimits]]()
    hosts, cascades = list[Host](), dict[tuple[str, str], CascadeProfile]()
    for profile in profiles:
        limits = limits_of(profile.device, rules)
        key = id(profile.variants), profile.slots, limits
        if key in known:
            continue
        known.add(key)
        mine = [each for each in profile.variants if each.family == family and each.key in variants]
        found = (placeable_host(profile, each, limits, planned, rules) for each in mine)
        hosts += [host for host in found if host is not None]
        if rules.may_use_cascades(family):
            cascades |= {(each.first, each.second): each for each in profile.cascades if each.family == family}
    least = dict[str, float]()
    for host in hosts:
        least[host.variant] = min(host.accuracy, least.get(host.variant, host.accuracy))
    routes = dict[VariantKey, list[CascadeRoute]]()
    for cascade in cascades.values():
        if cascade.second in least:
            routes.setdefault(VariantKey(family, cascade.first), []).append(_route(cascade, least[cascade.second]))
    return Eligibility(hosts, routes)


def _route(cascade: CascadeProfile, min_accuracy: float) -> CascadeRoute:
    """The way by a cascade at its last threshold, which is the most accurate; no plan sends anything there."""
    planned = PlannedCascade(cascade.family, cascade.first, cascade.second, cascade.points[-1], 0.0, 0.0)
    stage = FirstStage(VariantKey(cascade.family, cascade.first), (), ())
    return CascadeRoute(planned, min_accuracy, stage, 0, (), ())
