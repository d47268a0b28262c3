"""The control loop: the plan follows the demand and the devices, while requests go on."""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from proteus_cli.control.replanning.replan_rules import ReplanRequest
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_changes import hosting_text
from proteus_cli.domain.plan_record import Base, Observation, Origin
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import EngineError, NoFeasiblePlan, ProteusError, SolverLost
from proteus_cli.serving.adaptation.plan_inputs import LivePlanner
from proteus_cli.serving.adaptation.plan_journal import PlanChange, PlanJournal
from proteus_cli.serving.adaptation.solver import PlanSolver, Solves
from proteus_cli.serving.lifecycle import count_bug
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.data_plane import DataPlane

log = logging.getLogger("proteus.adaptation")

MAX_CHANGES = 1000
"""The changes and failures that the status shows."""

HOLD_S = 60.0
"""The time for which the control loop leaves a plan alone that a person has put in force."""

SEEN_WINDOWS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
CAUSES: dict[type[ProteusError], str] = {SolverLost: "solver", NoFeasiblePlan: "infeasible", EngineError: "engine"}
OTHER, BUG = "other", "bug"


@dataclass(frozen=True, slots=True)
class FailedChange:
    """A change of plan that failed: unix time, why it was wanted, the kind of failure, and its message."""

    unix_s: float
    reason: str
    cause: str
    message: str


@dataclass(slots=True)
class ChangeTotals:
    """All changes of plan since the start."""

    made: int = 0
    swaps: int = 0
    activated: int = 0
    solve_s: float = 0.0
    total_s: float = 0.0
    failed: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys((*CAUSES.values(), OTHER, BUG), 0)))

    def add(self, change: PlanChange) -> None:
        """Count a plan change."""
        self.made += 1
        self.swaps += change.swaps
        self.activated += change.activated
        self.solve_s += change.solve_s
        self.total_s += change.total_s


class _NotWantedError(Exception):
    """The plan that was just made is no longer wanted; the message says why."""


class ControlLoop:
    """Puts a new plan in force when the controller or a person asks for one.

    One change is made at a time. A person's plan replaces one that was being solved meanwhile, and is left alone for
    `HOLD_S` unless devices are lost or come back. The ``journal`` records each plan in force. ``expand``
    takes a plan, and returns it with the placements of versions that are being rolled out. ``planner`` makes the next
    plans.
    """

    def __init__(
        self,
        plane: DataPlane,
        planner: LivePlanner,
        journal: PlanJournal | None = None,
        expand: Callable[[Plan], Plan] = lambda plan: plan,
    ) -> None:
        self._plane, self.planner = plane, planner
        self._controller, self._fleet, self._clock = plane.controller, plane.fleet, plane.clock
        self._journal, self._expand = journal, expand
        self._deploying = asyncio.Lock()
        self.changes: deque[PlanChange] = deque(maxlen=MAX_CHANGES)
        self.failures: deque[FailedChange] = deque(maxlen=MAX_CHANGES)
        self.totals = ChangeTotals()
        self.latest = PlanChange(time.time(), "", 0.0, 0.0, 0, "start")

    async def run(self, every_s: float, solver: PlanSolver) -> None:
        """Ask the controller every ``every_s``, until cancelled. Where a change fails, the plan in force stays."""
        solves = Solves(solver, self._controller.replanning, self._clock, every_s)
        while True:
            await asyncio.sleep(every_s)
            wanted = self._controller.replanning.decide(self._clock())
            if wanted is None:
                continue
            try:
                await self._change(wanted, solves)
            except ProteusError as error:
                cause = next((name for kind, name in CAUSES.items() if isinstance(error, kind)), OTHER)
                self._failed(wanted, cause, error.message)
            except Exception as error:  # noqa: BLE001 - the back-off spaces the next tries
                self._failed(wanted, BUG, count_bug("ControlLoop.run", error))

    async def start(self, plan: Plan, origin: Origin, reason: str) -> None:
        """Put the first plan in force. Raises `EngineError`."""
        await self._fleet.deploy(plan)
        self.latest = PlanChange(time.time(), reason, 0.0, 0.0, 0, origin)
        if self._journal is not None:
            self._journal.began(plan, self.latest, self._observation())

    async def apply(self, plan: Plan, origin: Origin, reason: str, base: Base | None = None) -> PlanChange:
        """Wait until a running change has ended, then put a person's plan in force. Raises `EngineError`.

        The next plans follow its rules. ``base`` is the plan file that the server goes on from, where that changes.
        """
        start_s = self._clock()
        async with self._deploying:
            change = await self._deploy(self._expand(plan), origin, reason, start_s=start_s, base=base)
            self.planner.follow(plan)
        self._controller.replanning.hold(self._clock() + HOLD_S)
        return change

    async def changed(
        self,
        reason: str,
        profiles: Mapping[str, Profile] | None = None,
        plan: Callable[[Plan], Plan] | None = None,
        *,
        asks: bool = True,
        is_recorded: bool = True,
    ) -> None:
        """Have all parts use a changed world, in one order, and the controller ask for another plan.

        1. The families, the standbys and the planner use the ``profiles`` of all devices, where any has changed.
        2. ``plan`` makes another one of the plan in force, which is deployed as by `redeploy`, as one of the present
           files. If an engine cannot be loaded, the log says so, and the plan in force stays.
        3. The controller asks for a plan, if it ``asks`` for one.

        Step 1, and without ``plan`` all, happens before this method gives control back to the event loop.
        """
        if profiles is not None:
            self._plane.families.use(profiles.values())
            self._fleet.apply(self._controller.use_profiles(profiles))
        self.planner.follow(self._controller.plan)
        if plan is not None:
            try:
                await self.redeploy(
                    lambda: self.planner.of_now(plan(self._controller.plan)), reason, is_recorded=is_recorded
                )
            except ProteusError as error:
                log.error("kept the plan: %s", error.message, extra=fields(reason=reason))  # noqa: TRY400
        if asks:
            self._controller.replanning.ask(reason, self._clock())

    async def redeploy(
        self, change: Callable[[], Plan], reason: str, origin: Origin = "drift", *, is_recorded: bool = True
    ) -> None:
        """Deploy the plan in force again, as ``change`` makes it once no other change is being made.

        A plan that is not recorded is followed by one that is. Raises `EngineError`.
        """
        async with self._deploying:
            if is_recorded:
                await self._deploy(change(), origin, reason, start_s=self._clock())
            else:
                await self._fleet.deploy(change())

    async def settled(self) -> None:
        """Wait until the plan that is coming into force, if any, is in force."""
        async with self._deploying:
            pass

    async def recorded(self) -> None:
        """Wait until the journal has written all plans that have come into force, as far as it can."""
        if self._journal is not None:
            await asyncio.wrap_future(self._journal.written_by_now())

    def _observation(self) -> Observation:
        """The present inputs of decisions."""
        controller, now_s = self._controller, self._clock()
        return Observation(
            demand_qps={
                family: {
                    f"{window_s:g}s": round(qps, 3)
                    for window_s, qps in zip(
                        SEEN_WINDOWS_S, controller.demand.rates_qps(family, SEEN_WINDOWS_S, now_s), strict=True
                    )
                }
                for family in controller.demand.families
            },
            pace={device: round(controller.slowdown_of(device), 4) for device in self._fleet.workers},
            lost=tuple(sorted(controller.replanning.without.devices)),
        )

    async def _change(self, wanted: ReplanRequest, solves: Solves) -> None:
        start_s = self._clock()
        before = self._controller.plan
        planned = await solves.plan(wanted, before, self._controller.change.standbys)
        if planned is None:
            return
        async with self._deploying:
            if self._controller.plan is not before:
                log.info("dropped a new plan, as another came into force while it was solved: %s", wanted.reason)
                return
            plan = self._expand(planned)
            if not self._controller.replanning.is_worth(wanted, plan, self._clock()):
                self._controller.replanning.succeeded()
                return
            self._controller.replanning.planned(wanted)

            def require_wanted() -> None:
                if why_not := self._controller.replanning.why_not(wanted, plan, self._clock()):
                    raise _NotWantedError(why_not)

            try:
                if plan.hosts_as(before):  # it moves shares and batch sizes only
                    await self._fleet.deploy(plan, require_wanted)
                else:
                    solve_s = plan.solver.solve_s
                    await self._deploy(
                        plan,
                        "demand",
                        wanted.reason_of(before, plan),
                        start_s=start_s,
                        solve_s=solve_s,
                        before_switch=require_wanted,
                    )
            except _NotWantedError as why_not:
                log.info("dropped a new plan (%s): %s", wanted.reason, why_not)
                return
        self._controller.replanning.succeeded()

    async def _deploy(
        self,
        plan: Plan,
        origin: Origin,
        reason: str,
        *,
        start_s: float,
        solve_s: float = 0.0,
        base: Base | None = None,
        before_switch: Callable[[], None] = lambda: None,
    ) -> PlanChange:
        seen, before = self._observation(), self._controller.plan
        engines = await self._fleet.deploy(plan, before_switch)
        load_s = {
            (engine.device, VariantKey(engine.family, engine.variant)): engine.load_s
            for engine in engines
            if engine.load_s is not None
        }
        change = PlanChange(
            unix_s=time.time(),
            reason=reason,
            solve_s=solve_s,
            total_s=self._clock() - start_s,
            swaps=len(load_s),
            origin=origin,
            activated=len(engines) - len(load_s),
            what=hosting_text(before, plan, load_s, self._fleet.loader.labels),
        )
        self.changes.append(change)
        self.totals.add(change)
        self.latest = change
        if self._journal is not None:
            self._journal.began(plan, change, seen, base, engines)
        log.info(
            "new plan after %.0f ms: %s. Why: %s", change.total_s * 1e3, change.what, change.reason,
            extra=fields(
                reason=change.reason, solve_s=change.solve_s, total_s=round(change.total_s, 6), swaps=change.swaps,
                activated=change.activated, hosts=hosts(plan),
            ),
        )  # fmt: skip
        return change

    def _failed(self, wanted: ReplanRequest, cause: str, message: str) -> None:
        now_s, replanning = self._clock(), self._controller.replanning
        replanning.failed(wanted, now_s)
        self.totals.failed[cause] += 1
        self.failures.append(FailedChange(time.time(), wanted.reason, cause, message))
        log.error(
            "kept the plan: %s", message,
            extra=fields(reason=wanted.reason, cause=cause, pause_s=round(replanning.backoff.until_s - now_s, 3)),
        )  # fmt: skip


def hosts(plan: Plan) -> dict[str, list[str]]:
    """The variants on each device."""
    found: dict[str, list[str]] = {}
    for placement in plan.placements:
        found.setdefault(placement.device, []).append(placement.variant)
    return found
