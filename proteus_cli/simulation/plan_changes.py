"""Plans in virtual time: asked for as the controller decides, solved for a fixed time, loaded, and put in force."""

from collections.abc import Callable, Mapping
from typing import Any

from proteus_cli.control.decision import Effects, HostedVariant, StandbyEnd, StandbyLoad
from proteus_cli.control.replanning.replan_rules import ReplanRequest, Rule
from proteus_cli.control.topology.hosting import KnownTables, hosted_by
from proteus_cli.control.topology.standbys import ASK_S
from proteus_cli.domain.catalog import NO_VARIANTS, variant_labels
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_changes import hosting_text
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.report import Replan
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.simulation.fleet import Fleet

ReplanFunction = Callable[..., Plan]
"""Called with a demand and the plan in force, and by name with ``without`` (outages) and ``standbys``.

Empty ones are not passed. Raises `NoFeasiblePlan`."""


class PlanChanges:
    """Asks every ``rule.every_s`` whether another plan is needed, and has it solved for, loaded and adopted.

    With ``standbys``, it also loads variants beside the active ones where the controller finds them worth it. All loads
    succeed.
    """

    def __init__(
        self, fleet: Fleet, rule: Rule, replan: ReplanFunction, profiles: Mapping[str, Profile], *, standbys: bool
    ) -> None:
        self._fleet, self._controller, self._events = fleet, fleet.controller, fleet.events
        self._every_s, self._replan, self._profiles = rule.every_s, replan, profiles
        self._variant_labels = variant_labels(v.key for profile in profiles.values() for v in profile.variants)
        self._tables: KnownTables = {}
        self._ask_later(0.0)
        if standbys:
            self._events.at(ASK_S, self._start_standbys)

    def _ask_later(self, now_s: float) -> None:
        self._events.at(now_s + self._every_s, self._tick)

    def _tick(self, now_s: float) -> None:
        """Ask for a plan, and solve for it; the next tick comes once it is in force, or given up."""
        if self._fleet.is_over:
            return
        replanning = self._controller.replanning
        wanted = replanning.decide(now_s)
        if wanted is None:
            self._ask_later(now_s)
            return
        known: dict[str, Any] = {"without": wanted.without, "standbys": self._controller.change.standbys}
        known = {name: value for name, value in known.items() if value}
        try:
            plan = self._replan(wanted.demand_qps, self._controller.plan, **known)
        except NoFeasiblePlan:  # what serves goes on serving, as in the live server
            replanning.failed(wanted, now_s)
            self._ask_later(now_s)
        else:
            self._events.at(now_s + self._fleet.conditions.solve_s, self._deploy, wanted, plan)

    def _deploy(self, now_s: float, wanted: ReplanRequest, plan: Plan) -> None:
        """Load a plan beside what serves, and put it in force then, if it is still wanted."""
        controller, conditions = self._controller, self._fleet.conditions
        replanning, change, before = controller.replanning, controller.change, controller.plan
        if not replanning.is_worth(wanted, plan, now_s):
            replanning.succeeded()
            self._ask_later(now_s)
            return
        hosted = hosted_by(plan, self._profiles, self._controller.attainment, self._tables)
        placed, standbys = {(p.device, p.key) for p in before.placements}, change.standbys
        new = [(p.device, p.key) for p in plan.placements if (p.device, p.key) not in placed]
        load_s = {
            (device, key): conditions.load_s(self._fleet.times.measured(device, *key))
            for device, key in new
            if key not in standbys.get(device, NO_VARIANTS)
        }
        swaps, activated = len(load_s), len(new) - len(load_s)
        what = hosting_text(before, plan, load_s, self._variant_labels)
        effects = change.begin(hosted, in_place=() if conditions.load_time_s is None else tuple(self._fleet.devices))
        for standby in effects.cancel:  # its device is as busy with the load as it would have been
            self._fleet.devices[standby.device].standby = None
            self._standby_ended(standby, StandbyEnd.GIVEN_UP, now_s)
        self._fleet.apply(effects, now_s)

        def adopt(then_s: float) -> None:
            change.loaded_beside((), then_s)
            if replanning.why_not(wanted, plan, then_s) is not None:
                change.give_up()
                self._ask_later(then_s)
                return
            replan = Replan(then_s, wanted.reason_of(before, plan), conditions.solve_s, swaps, activated, what)
            self._fleet.result.replans.append(replan)
            if not plan.hosts_as(before):
                self._fleet.result.changes.append(replan)
            replanning.planned(wanted)
            in_place = () if conditions.load_time_s == 0 else change.in_place  # then no device is away
            self._fleet.apply(self._controller.adopt(plan, hosted, then_s, in_place), then_s)
            replanning.succeeded()
            self._ask_later(then_s)

        self._events.at(self._loaded_beside_s(effects, now_s), adopt)

    def _loaded_beside_s(self, effects: Effects, now_s: float) -> float:
        """When the last device has loaded what it has not yet, beside what it hosts."""
        kept = {each.device: each.keys for each in effects.keep}
        missing = dict[str, list[HostedVariant]]()
        for host in effects.beside:
            if host.key not in kept[host.device]:
                missing.setdefault(host.device, []).append(host)
        return max((self._fleet.loaded_s(device, hosts, now_s) for device, hosts in missing.items()), default=now_s)

    # --- standbys

    def _start_standbys(self, now_s: float) -> None:
        """Start the loads of standbys that are worth it now; again and again."""
        if self._fleet.is_over:
            return
        self._events.at(now_s + ASK_S, self._start_standbys)
        while (load := (effects := self._controller.topology.next_standby(now_s)).standby) is not None:
            state = self._fleet.devices[load.device]
            load_s = self._fleet.conditions.load_s(self._fleet.times.measured(load.device, *load.key))
            state.loads_until_s, state.standby = max(now_s, state.loads_until_s) + load_s, load
            self._events.at(state.loads_until_s, self._standby_loaded, load)
            self._fleet.apply(effects, now_s)

    def _standby_loaded(self, now_s: float, load: StandbyLoad) -> None:
        state = self._fleet.devices[load.device]
        if state.standby is load:  # else it was given up
            state.standby = None
            self._standby_ended(load, StandbyEnd.LOADED, now_s)

    def _standby_ended(self, load: StandbyLoad, end: StandbyEnd, now_s: float) -> None:
        self._fleet.apply(self._controller.topology.standby_ended(load, end, now_s), now_s)
