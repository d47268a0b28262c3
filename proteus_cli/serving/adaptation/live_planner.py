"""The planner of a running server: what the solver's process makes plans with."""

from typing import TYPE_CHECKING

import msgspec

from proteus_cli.control.rollouts.plan_expansion import blended
from proteus_cli.domain.plan import Plan
from proteus_cli.serving.adaptation.plan_source import PlanSource
from proteus_cli.serving.adaptation.profile_store import ProfileStore
from proteus_cli.serving.adaptation.solver.process import SolverProcess

if TYPE_CHECKING:
    from proteus_cli.domain.rollouts import VersionPair


class LivePlanner:
    """Whoever changes profiles, the catalog or what is rolled out has it follow. ``solver`` is None: nothing re-plans.

    It counts on the times of both versions of each of the ``version_pairs``, by family: while a version is rolled out.
    """

    def __init__(self, source: PlanSource, profiles: ProfileStore, solver: SolverProcess | None) -> None:
        self._source, self._profiles, self._solver = source, profiles, solver
        self.version_pairs: dict[str, VersionPair] = {}

    @property
    def replans(self) -> bool:
        """Whether there is a solver that makes plans while serving."""
        return self._solver is not None

    @property
    def is_solving(self) -> bool:
        """Whether the solver is at work on a plan."""
        return self._solver is not None and self._solver.state.is_busy

    def follow(self, plan: Plan) -> None:
        """Make the next plans by the rules and the headroom of this one, of profiles and catalog as they are now."""
        if self._solver is None:
            return
        profiles = dict(self._profiles)
        for pair in self.version_pairs.values():
            profiles = {device: blended(profile, pair) for device, profile in profiles.items()}
        self._solver.use(self._source.replanner(plan, profiles))

    def of_now(self, plan: Plan) -> Plan:
        """The plan as one that is made of profiles and catalog as they are now: the next server can resume it."""
        return msgspec.structs.replace(plan, inputs=dict(self._source.inputs()))

    def is_of_now(self, plan: Plan) -> bool:
        """Whether a plan was made of the catalog and profiles as they are now."""
        return plan.inputs == self.of_now(plan).inputs
