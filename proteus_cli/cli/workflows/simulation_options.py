"""How a trace is to be simulated, as it is written on a command line."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from proteus_cli.cli import console
from proteus_cli.cli.command_line.memory import memory_limits
from proteus_cli.cli.workflows.planning import profiles_to_plan_for
from proteus_cli.cli.workflows.simulated_replay import Scenario, simulated
from proteus_cli.control.policies import Policy, batcher_named, policies_named
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.report import Report
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import UsageError
from proteus_cli.simulation.conditions import JITTERS, Conditions, parse_failure
from proteus_cli.store import Workspace
from proteus_cli.store.sharing import with_sharing


@dataclass(frozen=True, slots=True)
class SimulationOptions:
    """The options of `proteus replay` that count in simulation alone; None, or no failures: an option is not given."""

    fleet: str | None
    headroom: float
    batching: str | None
    load_time_s: float | None
    max_unavailable_frac: float
    memory: Mapping[str, int] | None
    jitter: str | None
    failures: Sequence[str]

    def simulated(
        self, arrivals: Trace, workspace: Workspace, plan: Plan | None, policies: str, seed: int,
        attainment: float | None,
    ) -> Iterator[Report]:  # fmt: skip
        """A report for each of the comma-separated policies, as by `simulated_replay.simulated`; ``plan`` is given.

        Raises `UsageError`, and `ArtefactError` where a profile cannot be read, before anything is simulated.
        """
        profiles = self._profiles(workspace, plan)
        conditions = self._conditions(profiles)
        scenario = Scenario(workspace, profiles, arrivals, plan, self.headroom, conditions, seed, attainment)
        return simulated(scenario, self._policies(policies))

    def _profiles(self, workspace: Workspace, plan: Plan | None) -> Mapping[str, Profile]:
        """The profiles of the plan's devices; without a plan, of the devices that `proteus plan` plans for."""
        if plan is None:
            return profiles_to_plan_for(workspace, self.fleet)
        return with_sharing(workspace, workspace.profiles_of(plan))

    def _conditions(self, profiles: Mapping[str, Profile]) -> Conditions:
        if self.memory and not any(each.memory_bytes for profile in profiles.values() for each in profile.variants):
            console.warn("the profiles know no memory of variants, so none stands by")
        if self.jitter is not None and self.jitter not in JITTERS:
            raise UsageError(f"No jitter `{self.jitter}`.", hint=f"there are: {', '.join(JITTERS)}")
        return Conditions(
            load_time_s=self.load_time_s,
            jitter=JITTERS[self.jitter] if self.jitter is not None else None,
            failures=tuple(parse_failure(text, profiles) for text in self.failures),
            memory_bytes=memory_limits(self.memory, {device: profile.device for device, profile in profiles.items()}),
            max_unavailable_frac=self.max_unavailable_frac,
        )

    def _policies(self, names: str) -> Sequence[Policy]:
        policies = policies_named(names)
        if self.batching is None:
            return policies
        return [replace(policy, batching=batcher_named(self.batching)) for policy in policies]
