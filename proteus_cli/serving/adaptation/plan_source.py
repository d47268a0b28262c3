"""What a running server asks the workspace for."""

from collections.abc import Mapping
from typing import Protocol

from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import Base
from proteus_cli.domain.profile import Profile
from proteus_cli.serving.adaptation.solver.jobs import Replanner


class PlanSource(Protocol):
    """The plan file that the server was started with, planners, and what plans are made from."""

    def read_plan(self) -> tuple[Plan, Base]:
        """Read the plan file again. Raises `ProteusError`."""
        ...

    def require_current(self, plan: Plan) -> None:
        """Raise `ArtefactError` where a file has changed that the plan was made from."""
        ...

    def replanner(self, plan: Plan, profiles: Mapping[str, Profile]) -> Replanner:
        """A planner with the rules and the headroom of a plan, and with these profiles."""
        ...

    def inputs(self) -> Mapping[str, str]:
        """The digests of the files that plans are made from, as this server has read or written them."""
        ...

    def write_profile(self, profile: Profile) -> None:
        """Write a profile to the workspace. Raises `ArtefactError`."""
        ...
