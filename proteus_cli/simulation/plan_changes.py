"""Plans in virtual time: asked for as the controller decides, solved for a fixed time, loaded, and put in force."""

from collections.abc import Callable, Mapping
from typing import Any

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Effects
from proteus_cli.control.replanning.replan_rules import ReplanRequest, Rule
from proteus_cli.control.topology.hosting import hosted_by
from proteus_cli.domain.catalog.catalog import variant_labels
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.domain.plan_changes.change_text import hosting_text
from proteus_cli.domain.profile.profile import Profile
from proteus_cli.domain.report import Replan
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.simulation.events import Events
from proteus_cli.simulation.loads import SimulatedLoads
from proteus_cli.simulation.result import SimulationResult

ReplanFunction = Callable[..., Plan]
"""Called with a demand and the plan in force, and by name with ``without``, ``standbys`` and ``measured``.

These are the outages, the standbys, and what cascades were measured to defer; empty ones are not passed. Raises
`NoFeasiblePlan`."""


class SimulatedPlanChanges:
    """Asks every ``rule.every_s`` whether another plan is needed, and has it solved for, loaded and adopted.

    ``result`` takes what was changed. Once it ``is_over``, no plan is asked for.
    """

    def __init__(
        self,
        rule: Rule,
        replan: ReplanFunction,
        profiles: Mapping[str, Profile],
        controller: Controller,
        events: Events,
        loads: SimulatedLoads,
        conditions: Conditions,
        result: SimulationResult,
        *,
        apply: Callable[[Effects, float], None],
    ) -> None:
        self._every_s, self._replan, self._profiles, self._controller = rule.every_s, replan, profiles, controller
        self._events, self._loads, self._conditions, self._result = events, loads, conditions, result
        self._apply = apply
        self._variant_labels = variant_labels(v.key for profile in profiles.values() for v in profile.variants)
        self.is_over = False

    def ask_later(self, now_s: float) -> None:
        """Ask for a plan in ``every_s``."""
        self._events.at(now_s + self._every_s, self._tick)

    def _tick(self, now_s: float) -> None:
        """Ask for a plan, and solve for it; the next tick comes once it is in force, or given up."""
        if self.is_over:
            return
        replanning = self._controller.replanning
        wanted = replanning.decide(now_s)
        if wanted is None:
            self.ask_later(now_s)
            return
        try:
            known = _if_any(without=wanted.without, standbys=self._controller.topology.change.standbys)
            plan = self._replan(wanted.demand_qps, self._controller.plan, **known)
        except NoFeasiblePlan:  # what serves goes on serving, as in the live server
            replanning.failed(wanted, now_s)
            self.ask_later(now_s)
        else:
            solve_s = self._solve_s(now_s)
            self._events.at(now_s + solve_s, self._deploy, wanted, plan, solve_s)

    def _deploy(self, now_s: float, wanted: ReplanRequest, plan: Plan, solve_s: float) -> None:
        """Load a plan beside what serves, and put it in force then, if it is still wanted."""
        replanning, before, change = (
            self._controller.replanning,
            self._controller.plan,
            self._controller.topology.change,
        )
        hosted = hosted_by(plan, self._profiles, self._controller.attainment)
        swaps = plan.swaps_from(before, change.standbys)
        activated = plan.swaps_from(before) - swaps
        what = hosting_text(before, plan, self._loads.change_s(plan, before, change.standbys), self._variant_labels)
        effects = change.begin(hosted, in_place=self._loads.in_place)
        for standby in effects.cancel:
            self._loads.give_up_standby(standby, now_s)
        self._apply(effects, now_s)

        def adopt(then_s: float) -> None:
            change.loaded_beside((), then_s)
            if replanning.why_not(wanted, plan, then_s) is not None:
                change.give_up()
                self.ask_later(then_s)
                return
            replan = Replan(then_s, wanted.reason_of(before, plan), solve_s, swaps, activated, what)
            self._result.replans.append(replan)
            if not plan.hosts_as(before):
                self._result.changes.append(replan)
            replanning.planned(wanted)
            in_place = () if self._conditions.load_time_s == 0 else change.in_place  # then no device is away
            self._apply(self._controller.adopt(plan, hosted, then_s, in_place), then_s)
            replanning.succeeded()
            self.ask_later(then_s)

        self._events.at(self._loads.loaded_beside_s(effects, now_s), adopt)

    def _solve_s(self, now_s: float) -> float:
        """Seconds until a plan that is asked for now is there."""
        back_s = max((until_s for from_s, until_s in self._conditions.no_solver if from_s <= now_s), default=now_s)
        return max(back_s - now_s, 0.0) + self._conditions.solve_s


def _if_any(**arguments: object) -> dict[str, Any]:
    """The arguments of a `ReplanFunction` that are not empty."""
    return {name: value for name, value in arguments.items() if value}
