"""Plans with both versions of variants, or one of them only, while they are rolled out."""

from collections.abc import Collection, Mapping

from proteus_cli.control.controller import Controller
from proteus_cli.control.rollouts.plan_expansion import PriceOf, contracted, expanded, replaced
from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rollouts import VersionPair
from proteus_cli.serving.adaptation.catalog.served_catalog import ServedCatalog
from proteus_cli.serving.adaptation.rollouts.running import Running


class VersionedPlans:
    """``running`` has the roll-outs, by family: the last one of each."""

    def __init__(self, controller: Controller, profiles: Mapping[str, Profile], served: ServedCatalog) -> None:
        self._controller, self._profiles, self._served = controller, profiles, served
        self.running = dict[str, Running]()

    def expanded(self, plan: Plan) -> Plan:
        """A plan of the planner, with the versions that are rolled out; a plan that has them stays as it is.

        A version that is taken back is replaced by the old one: the plan may have been asked for before.
        """
        for running in self.running.values():
            if running.goes_back and places(plan, running.new):
                plan = self._with_old(plan, running)
            elif running.have_both and not places(plan, running.new):
                found = expanded(plan, running.pair, self._profiles, *self._conditions(running))
                plan, running.absence.why = found.plan, found.without
        return plan

    def again(self) -> Plan:
        """The plan in force, expanded anew."""
        plan = self._controller.plan
        for running in self.running.values():
            plan = contracted(plan, running.pair, self._profiles)
        return self.expanded(plan)

    def only_new(self, running: Running) -> Plan:
        """The plan in force, with the new version in place of the old one."""
        return replaced(self._controller.plan, running.pair, self._profiles, *self._conditions(running))

    def only_old(self, running: Running) -> Plan:
        """The plan in force, with the old version in place of the new one."""
        return self._with_old(self._controller.plan, running)

    def _with_old(self, plan: Plan, running: Running) -> Plan:
        plan = contracted(plan, running.pair, self._profiles)
        back = VersionPair(running.family, old=running.new.variant, new=running.old.variant)
        return replaced(plan, back, self._profiles, *self._conditions(running))

    def _conditions(self, running: Running) -> tuple[SloTarget, Collection[tuple[str, str, str]], PriceOf]:
        """What a version must keep: the SLO of its family; the broken engines; and what devices cost."""
        target = self._controller.slo_targets[running.family]
        return target, self._controller.topology.outages.engines, self._served.catalog.price_of


def places(plan: Plan, key: VariantKey) -> bool:
    """Whether a plan has a variant on any device."""
    return any(placement.key == key for placement in plan.placements)
