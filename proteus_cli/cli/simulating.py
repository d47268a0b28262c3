"""A trace replayed in simulation: each policy on the same trace, in virtual time."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from proteus_cli.cli import console
from proteus_cli.cli.command_line.plan_rules import default_rules
from proteus_cli.control.policies import Policy
from proteus_cli.domain.catalog import Family
from proteus_cli.domain.demand import check_demand
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile, noisy_cells
from proteus_cli.domain.profile_changes import accuracies, accuracy_by_variant, best_accuracy, estimated_families
from proteus_cli.domain.report import Report
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import UsageError
from proteus_cli.planning.analysis.expectation import expecting
from proteus_cli.planning.analysis.explain import max_multiple
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.planning.heuristics import frozen_to
from proteus_cli.planning.planner import Planner
from proteus_cli.profiling.jobs import known_answers
from proteus_cli.replay.inputs import require_row
from proteus_cli.reporting.measures import report
from proteus_cli.simulation.answers import RowAnswers, RowAnswersOf
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.simulation.fleet import SimulationResult
from proteus_cli.simulation.oracle import simulate_oracle
from proteus_cli.simulation.run import simulate
from proteus_cli.store import Workspace
from proteus_cli.store.answers import kept_rows
from proteus_cli.store.eval_splits import eval_rows
from proteus_cli.units import counted

FIRST_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """The common conditions of the simulated policies; ``given`` is the plan to start from.

    ``attainment`` is the target for all families; None: the target of the given plan, else of the catalog.
    """

    workspace: Workspace
    profiles: Mapping[str, Profile]
    arrivals: Trace
    given: Plan | None
    headroom: float
    conditions: Conditions
    seed: int
    attainment: float | None = None


def simulated(scenario: Scenario, policies: Iterable[Policy]) -> Iterator[Report]:
    """A report for each policy. After Ctrl-C in a run its report is the last, on the part that was simulated."""
    catalog, arrivals = scenario.workspace.catalog(), scenario.arrivals
    check_demand(first_demand(arrivals), catalog)
    _warn_of_unknown_confidence(scenario)
    for policy in policies:
        with console.progress(f"simulating {policy.name}") as advance:
            found = _run(scenario, policy, lambda done: advance("", done))
        until_s = found.interrupted_s
        yield report(
            found.ended,
            policy=policy.name,
            mode="simulated",
            trace=arrivals.name,
            duration_s=arrivals.duration_s if until_s is None else until_s,
            slo_s=catalog.slo_s(),
            best_accuracy=best_accuracy(scenario.profiles.values()),
            estimated=estimated_families(scenario.profiles.values()),
            attainment=_rules(scenario, policy).attainment_targets(catalog),
            devices=tuple(scenario.profiles),
            replans=found.changes,
            losses=found.losses,
            interrupted=until_s is not None,
            noisy_cells=noisy_cells(scenario.profiles.values()),
            profiled=accuracy_by_variant(scenario.profiles.values()),
            expected_attainment=found.expected_attainment,
        )
        if until_s is not None:
            console.warn(f"interrupted after {until_s:.1f} s of the trace: the report covers these")
            raise KeyboardInterrupt


def _warn_of_unknown_confidence(scenario: Scenario) -> None:
    """Warn of queries whose minimum confidence cannot be simulated."""
    arrivals = scenario.arrivals
    asks = ~np.isnan(arrivals.min_confidence)
    unknown = int(np.count_nonzero(asks & np.isnan(arrivals.eval_row)))
    if unknown:
        console.warn(
            f"{counted(unknown, 'query', 'queries')} with a `min_confidence` and without an `eval_row`: how confident "
            "answers to them are is not known, and the minimum asks for nothing"
        )
    asking = {arrivals.families[number] for number in np.unique(arrivals.family[asks]).tolist()}
    staged = {v.family for each in scenario.profiles.values() for v in each.variants if each.has_stages(v)}
    if found := sorted(asking & staged):
        console.warn(f"exits of multi-exit models are simulated without `min_confidence`: {', '.join(found)}")


def first_demand(arrivals: Trace) -> dict[str, float]:
    """The demand of the trace's first seconds."""
    return arrivals.demand(0.0, min(FIRST_SECONDS, max(arrivals.duration_s, 1.0)))


def starting_plan(planner: Planner, policy: Policy, given: Plan | None, arrivals: Trace) -> Plan:
    """The plan to start from.

    It is the given plan; by another policy, a plan for the same demand. Without a given plan, it is for the demand of
    the trace's first seconds. A policy that never re-plans gets the demand of the busiest seconds, or as much of that
    mix as the devices can serve.
    """
    if given is not None:
        return given if given.policy == policy.name else planner(given.demand_qps)
    if policy.replanning is None:
        peak = arrivals.peak_demand()
        multiple = max(max_multiple(planner, peak), 1.0)
        return planner({family: qps * multiple / planner.headroom for family, qps in peak.items()})
    return planner(policy.replanning.initial_demand(first_demand(arrivals), planner.catalog.slo_s()))


def _run(scenario: Scenario, policy: Policy, progress: Callable[[float], object]) -> SimulationResult:
    planner = _planner(scenario, policy)
    if policy.plans == "oracle":
        return SimulationResult(
            simulate_oracle(scenario.arrivals, planner, accuracies(scenario.profiles), progress=progress)
        )
    planner, plan = _prepared(planner, policy, scenario)
    catalog = scenario.workspace.catalog()
    return simulate(
        scenario.arrivals,
        expecting(plan, catalog, planner.profiles),
        catalog,
        scenario.profiles,
        policy,
        planner,
        conditions=scenario.conditions,
        answers=_answers(scenario),
        rng=np.random.default_rng(scenario.seed),
        progress=progress,
    )


def _answers(scenario: Scenario) -> RowAnswersOf:
    """The answers of variants to the rows of eval splits in the trace.

    Raises `UsageError` if a family has no known answers, `ArtefactError` if a split has no such row.
    """
    workspace, found = scenario.workspace, dict[tuple[str, str, str], RowAnswers]()
    for name, last_row in scenario.arrivals.last_eval_rows().items():
        family, before = workspace.catalog().family(name), len(found)
        if (path := workspace.eval_path(family)) is not None:
            require_row(last_row, rows := eval_rows(path), path)
            by_profile = {id(each.variants): each for each in scenario.profiles.values()}  # devices may share one
            known = {key: _kept(workspace, each, family, rows) for key, each in by_profile.items()}
            for device, profile in scenario.profiles.items():
                found |= {(device, name, variant): kept for variant, kept in known[id(profile.variants)].items()}
        if len(found) == before:
            raise UsageError(
                f"The trace has rows of the eval split of `{name}`, and no answers to them are known.",
                hint="set `eval` in engines/catalog.toml, and run `proteus profile`, which keeps the answers",
            )
    return found


def _kept(workspace: Workspace, profile: Profile, family: Family, rows: int) -> dict[str, RowAnswers]:
    """The answers that are kept beside a profile, by variant of a family. Its eval split has ``rows`` rows."""
    known, step = known_answers(workspace, profile), kept_rows(rows).step
    found = {}
    for measured in profile.variants:
        answers = known.get((*measured.key, measured.engine_digest, measured.eval_digest, family.confidence))
        if measured.family == family.name and answers is not None and answers.are_of(rows):
            found[measured.variant] = RowAnswers(answers.confidences, answers.correct, step)
    return found


def _planner(scenario: Scenario, policy: Policy) -> Planner:
    rules = _rules(scenario, policy)
    if policy.plans == "oracle":
        rules = msgspec.structs.replace(rules, slo_fraction=policy.rules.slo_fraction, capacity=policy.rules.capacity)
    headroom = scenario.given.headroom if scenario.given is not None else scenario.headroom
    profiles, load_time_s = scenario.profiles, scenario.conditions.load_time_s
    if load_time_s is not None:
        profiles = with_load_time(profiles, load_time_s)
    return planner_settings(scenario.workspace, policy, headroom, profiles=profiles, rules=rules).make()


def _rules(scenario: Scenario, policy: Policy) -> Rules:
    """The rules of the given plan, else of the policy, with the target that is given.

    Without a plan, policies that keep several variants in a device's memory share devices and use cascades, as
    `proteus plan` does.
    """
    if scenario.given is not None:
        rules = scenario.given.rules
    elif policy.standbys and policy.variants == "all":
        default = default_rules(scenario.profiles)
        rules = msgspec.structs.replace(policy.rules, residency=default.residency, cascades=default.cascades)
    else:
        rules = policy.rules
    return rules.with_attainment(scenario.attainment)


def _prepared(planner: Planner, policy: Policy, scenario: Scenario) -> tuple[Planner, Plan]:
    """The planner to re-plan with, and the plan to start from.

    A policy that never moves a device to another family keeps the families of a plan for the largest possible multiple
    of the first demand. A plan for the first demand itself would leave most devices unused for good.
    """
    if policy.plans not in {"frozen", "sommelier"}:
        return planner, starting_plan(planner, policy, scenario.given, scenario.arrivals)
    optimal = _planner(scenario, replace(policy, plans="optimal"))
    demand = first_demand(scenario.arrivals)
    multiple = max_multiple(optimal, demand)
    all_in_use = optimal({family: qps * max(multiple, 1.0) for family, qps in demand.items()})
    planner = frozen_to(planner, all_in_use)
    return planner, planner(demand, all_in_use)


def with_load_time(profiles: Mapping[str, Profile], load_s: float) -> dict[str, Profile]:
    """The profiles with that load time for every variant. Devices that share measurements still share them."""
    changed = {
        key: tuple(msgspec.structs.replace(each, load_s=load_s) for each in variants)
        for key, variants in {id(profile.variants): profile.variants for profile in profiles.values()}.items()
    }
    return {
        device: msgspec.structs.replace(profile, variants=changed[id(profile.variants)])
        for device, profile in profiles.items()
    }
