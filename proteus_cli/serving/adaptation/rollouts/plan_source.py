"""What planners are to know while versions are rolled out."""

from collections.abc import Mapping

from proteus_cli.control.topology.twinning import Twinning, blended
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.domain.plan_changes.record import Base
from proteus_cli.domain.profile.profile import Profile
from proteus_cli.serving.adaptation.plan_source import PlanSource
from proteus_cli.serving.adaptation.solver.jobs import Replanner


class VersionedPlanSource(PlanSource):
    """A `PlanSource` whose planners count on the times of both versions of each of the ``twinnings``, by family."""

    def __init__(self, source: PlanSource) -> None:
        self._source = source
        self.twinnings: dict[str, Twinning] = {}

    def replanner(self, plan: Plan, profiles: Mapping[str, Profile]) -> Replanner:
        """See `PlanSource`."""
        for twinning in self.twinnings.values():
            profiles = {device: blended(profile, twinning) for device, profile in profiles.items()}
        return self._source.replanner(plan, profiles)

    def read_plan(self) -> tuple[Plan, Base]:
        """See `PlanSource`."""
        return self._source.read_plan()

    def require_current(self, plan: Plan) -> None:
        """See `PlanSource`."""
        self._source.require_current(plan)

    def inputs(self) -> Mapping[str, str]:
        """See `PlanSource`."""
        return self._source.inputs()

    def write_profile(self, profile: Profile) -> None:
        """See `PlanSource`."""
        self._source.write_profile(profile)
