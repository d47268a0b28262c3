"""What a study of costs looks at: each scope of devices, dedicated and shared."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import msgspec

from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.demand import check_demand
from proteus_cli.domain.fleet import hypothetical_fleet, ids_by_type
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import EngineError
from proteus_cli.replay.trace import read_trace
from proteus_cli.store import Workspace, digest
from proteus_cli.store.sharing import sharing_gaps, sharing_paths, with_sharing
from proteus_cli.studies.cost.fleets import cheapest_fleet, cost_of
from proteus_cli.studies.cost.prices import priced
from proteus_cli.studies.cost.trial import PlanTrials
from proteus_cli.studies.draft import Job, JobTurn, StudyDraft
from proteus_cli.studies.results import CostConclusion, FleetCost, Saving, Usage
from proteus_cli.studies.study import Cell, Scalar
from proteus_cli.units import counted, format_percent

KIND = "cost"
ALL_TYPES = "all types"
USAGES: tuple[Usage, ...] = ("dedicated", "shared")
MAX_OF_TYPE = 16
WANTED_S, MIN_S = 30.0, 1.0
"""About how long a cell takes with little traffic, and what it needs at least besides one trial."""
USUAL_TRIED = 8


@dataclass(frozen=True, slots=True)
class CostQuestion:
    """What costs are asked of.

    ``rules`` hold for both usages; their ``residency`` is how many variants a shared device may hold. ``most``: the
    devices that a fleet may have at most, by type or id; empty: `MAX_OF_TYPE` of each type with a profile.
    A fleet keeps the SLO even where devices take ``headroom`` times as long as profiled.
    """

    prices: Mapping[str, float]
    rules: Rules
    most: Mapping[str, int]
    allowed_frac: float
    jitter: str
    seed: int
    headroom: float = 1.0


def cost_draft(workspace: Workspace, traffic: Path, question: CostQuestion, name: str = "") -> StudyDraft:
    """A cell for each scope and usage. Raises `UsageError`, `ArtefactError`."""
    profiles, trace = workspace.profiles(), read_trace(traffic)
    catalog = priced(workspace.catalog(), profiles, question.prices)
    demand = trace.peak_demand()
    check_demand(demand, catalog)
    most = question.most or dict.fromkeys(ids_by_type(profiles), MAX_OF_TYPE)
    scopes = {kind: {kind: count} for kind, count in most.items()}
    if len(scopes) > 1:
        scopes[ALL_TYPES] = dict(most)
    sources = list({id(profile.variants): profile for profile in profiles.values()}.values())
    inputs = workspace.digests(
        [workspace.catalog_path, *workspace.profile_paths(profiles), *sharing_paths(workspace, sources)]
    )
    jobs = []
    for scope, counts in scopes.items():
        fleet = with_sharing(workspace, hypothetical_fleet(counts, profiles))
        trials = PlanTrials(
            catalog, fleet, trace, question.allowed_frac, question.jitter, question.seed, question.headroom
        )
        jobs += [_job(f"{scope}, {usage}", usage, workspace, trials, question.rules, demand) for usage in USAGES]
    subject = {
        "traffic": f"{trace.name}, {len(trace):,} queries in {trace.duration_s:,.0f} s",
        "within the SLO": f"at least {format_percent(1 - question.allowed_frac)} of each family's queries",
        "headroom": f"devices may take {question.headroom:g} times as long as profiled",
        "prices per hour": ", ".join(f"{kind} {price:g}" for kind, price in catalog.price_per_hour.items()),
    }
    options = _options(question, catalog, most)
    return StudyDraft(
        KIND, name or KIND, subject, options, {**inputs, "traffic": digest(traffic)}, jobs, conclude=concluded
    )


def _options(question: CostQuestion, catalog: Catalog, most: Mapping[str, int]) -> dict[str, Scalar]:
    return {
        "allowed_frac": question.allowed_frac,
        "prices": ",".join(f"{kind}={price:g}" for kind, price in sorted(catalog.price_per_hour.items())),
        "fleet": ",".join(f"{kind}:{count}" for kind, count in most.items()),
        "residency": str(question.rules.residency),
        "min_accuracy": ",".join(f"{name}={least:g}" for name, least in sorted(question.rules.min_accuracy.items())),
        "jitter": question.jitter,
        "seed": question.seed,
        "headroom": question.headroom,
    }


def _job(
    key: str, usage: Usage, workspace: Workspace, trials: PlanTrials, rules: Rules, demand: Mapping[str, float]
) -> Job:
    def measure(turn: JobTurn) -> FleetCost:
        own = rules if usage == "shared" else msgspec.structs.replace(rules, residency=1)
        end_s = monotonic() + turn.allowed_s

        def goes_on(tried: int, of_next_frac: float) -> bool:
            turn.advance(f"{counted(tried, 'plan')} tried", min((tried + of_next_frac) / USUAL_TRIED, 0.95))
            return monotonic() < end_s

        found = cheapest_fleet(workspace, trials, own, demand, goes_on)
        if found is None:
            raise EngineError(
                f"No {usage} fleet of at most {len(trials.profiles)} devices keeps the SLO of all families.",
                hint="allow more devices with `--fleet`, or ask for less with `--percentile` or `--headroom`",
            )
        gaps = tuple(sharing_gaps(workspace, trials.profiles, found.plan.plan.hosted()))
        return msgspec.structs.replace(cost_of(usage, found, trials), assumed=gaps)

    wanted_s = max(WANTED_S, USUAL_TRIED * trials.trial_s)
    return Job(key, "simulated", wanted_s, measure, min_s=MIN_S + trials.trial_s)


def concluded(cells: Mapping[str, Cell]) -> CostConclusion | None:
    """What sharing saves, and which cell costs the least; None without a cell."""
    costs = {key: cell.read(FleetCost).cost_per_million for key, cell in cells.items()}
    if not costs:
        return None
    scopes = dict.fromkeys(key.rpartition(", ")[0] for key in costs)
    savings = [
        Saving(scope, dedicated, shared, 1 - shared / dedicated if dedicated > 0 else 0.0)
        for scope in scopes
        if (dedicated := costs.get(f"{scope}, dedicated")) is not None
        and (shared := costs.get(f"{scope}, shared")) is not None
    ]
    return CostConclusion(tuple(savings), min(costs, key=lambda key: costs[key]))


def workspace_draft(workspace: Workspace) -> StudyDraft | str:
    """What `proteus study all` does by itself: nothing, as nobody but the user knows the traffic."""
    del workspace
    return "which traffic is to be served is not known: `--traffic trace.csv` says it"
