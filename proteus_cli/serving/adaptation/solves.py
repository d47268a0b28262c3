"""A plan that is being made, and what may be more urgent meanwhile.

The best plan may take seconds to find, with cascades on shared devices above all. If the demand rises beyond what the
plan in force carries, or a device is lost, it would come too late, and for what is over. So while it is being made, the
controller is asked whether it is still the one to wait for. If not, the solver is to end early. What it has found by
then is put in force if it carries what is asked for now; else it is dropped, and the urgent plan is asked for at once.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Protocol

from proteus_cli.control.replanning.replan_rules import ReplanRequest
from proteus_cli.control.replanning.replanning import Replanning
from proteus_cli.domain.catalog import VariantsByDevice
from proteus_cli.domain.plan import Plan
from proteus_cli.errors import ProteusError
from proteus_cli.serving.fleet.worker import Clock

log = logging.getLogger("proteus.adaptation")


class PlanSolver(Protocol):
    """Makes plans, one at a time."""

    def __call__(self, wanted: ReplanRequest, current: Plan, standbys: VariantsByDevice, /) -> Awaitable[Plan]:
        """Raises `ProteusError` where there is no plan."""
        ...

    def end_early(self) -> None:
        """Answer soon, with the best plan so far, or raise `ProteusError`; nothing where no plan is being made.

        May be called again and again while one is.
        """
        ...


class Solves:
    """Has plans made by a ``solver``; while one is, looks every ``every_s`` whether another is more urgent."""

    def __init__(self, solver: PlanSolver, replanning: Replanning, clock: Clock, every_s: float) -> None:
        self._solver, self._replanning, self._clock, self._every_s = solver, replanning, clock, every_s

    async def plan(self, wanted: ReplanRequest, current: Plan, standbys: VariantsByDevice) -> Plan | None:
        """The plan; None where another is more urgent now, to be asked for at once. Raises `ProteusError`."""
        solve = asyncio.ensure_future(self._solver(wanted, current, standbys))
        try:
            overtaken = await self._overtaken(solve, wanted)
        finally:
            if solve.cancel():
                await asyncio.wait((solve,))
        return solve.result() if overtaken is None else self._if_enough(solve, wanted, overtaken)

    async def _overtaken(self, solve: "asyncio.Future[Plan]", wanted: ReplanRequest) -> str | None:
        """Wait until the solve has ended; why it was ended early, where it was.

        The solver is told at each look, as one whose process gets ready, or is being replaced, cannot listen yet.
        """
        overtaken: str | None = None
        while not (await asyncio.wait((solve,), timeout=self._every_s))[0]:
            if overtaken is None:
                overtaken = self._replanning.overtaken_by(wanted, self._clock())
            if overtaken is not None:
                self._solver.end_early()
        return overtaken

    def _if_enough(self, solve: "asyncio.Future[Plan]", wanted: ReplanRequest, overtaken: str) -> Plan | None:
        """What was found, if it carries what is asked for now."""
        try:
            plan = solve.result()
        except ProteusError as error:
            log.info("a solve that was ended early has no plan: %s", error.message)
        else:
            if self._replanning.is_enough(wanted, plan, self._clock()):
                return plan
        log.info("ended a solve (%s), as another plan is more urgent: %s", wanted.reason, overtaken)
        self._replanning.overtaken(wanted)
        return None
