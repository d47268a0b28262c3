"""The draft of a cost study: prices, and each scope of devices, dedicated and shared."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import msgspec

from proteus_cli.domain.base import LARGEST_PRICE
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.demand import check_demand
from proteus_cli.domain.fleet import hypothetical_fleet, ids_by_type
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import EngineError, UsageError
from proteus_cli.replay.trace import read_trace
from proteus_cli.store import Workspace, digest
from proteus_cli.store.sharing import sharing_gaps, sharing_paths, with_sharing
from proteus_cli.studies.cost.search import PlanTrials, cheapest_fleet, cost_of
from proteus_cli.studies.frame import Job, JobTurn, StudyDraft
from proteus_cli.studies.results import CostConclusion, FleetCost, Saving, Usage
from proteus_cli.studies.study import Cell
from proteus_cli.units import counted, format_percent, parse_assignments

KIND = "cost"
ALL_TYPES = "all types"
USAGES: tuple[Usage, ...] = ("dedicated", "shared")
MAX_OF_TYPE = 16
WANTED_S, MIN_S = 30.0, 1.0
"""The approximate time of a cell with little traffic, and its minimum besides one trial."""
USUAL_TRIED = 8
PER_HOUR = "/h"


def parse_prices(text: str) -> dict[str, float]:
    """``"cpu-1c=0.03/h,gpu0=0.35/h"`` → prices per hour by device type or id. Raises `UsageError`."""
    prices = {}
    for name, value in parse_assignments(text, "`--price`").items():
        try:
            price = float((value or "").removesuffix(PER_HOUR)) if (value or "").endswith(PER_HOUR) else -1.0
        except ValueError:
            price = -1.0
        if not 0 <= price <= LARGEST_PRICE:
            raise UsageError(
                f"`{value or ''}` of `{name}` is no price per hour.",
                hint="write `--price cpu-1c=0.03/h,gpu0=0.35/h`, in any one currency, with a billion at most",
            )
        prices[name] = price
    return prices


def priced(catalog: Catalog, profiles: Mapping[str, Profile], given: Mapping[str, float]) -> Catalog:
    """The catalog with a price for each type of devices; ``given`` prices, by type or id, replace its own.

    Raises `UsageError` where a name is of no device, two prices of a type differ, or a type has none.
    """
    types = {profile.device.type for profile in profiles.values()}
    by_type: dict[str, float] = {}
    for name, price in given.items():
        kind = profiles[name].device.type if name in profiles else name
        if kind not in types:
            known = ", ".join((*types, *profiles))
            raise UsageError(f"`{name}` is no device, nor a type of any.", hint=f"there are profiles of: {known}")
        if by_type.setdefault(kind, price) != price:
            raise UsageError(f"Two prices are given for `{kind}`.", hint="devices of a type cost the same")
    own: dict[str, float] = {}
    for device, profile in profiles.items():
        kind = profile.device.type
        known_price = catalog.price_of(device, kind)
        if known_price is not None and kind not in by_type and own.setdefault(kind, known_price) != known_price:
            raise UsageError(
                f"The catalog has two prices for `{kind}`.",
                hint=f"devices of a type cost the same here: give one, as in `--price {kind}={known_price:g}/h`",
            )
    if missing := sorted(types - by_type.keys() - own.keys()):
        raise UsageError(
            f"No price per hour is known of `{missing[0]}`.",
            hint=f"give it, as in `--price {missing[0]}=0.03/h`, or in the table [price_per_hour] of the catalog",
        )
    return msgspec.structs.replace(catalog, price_per_hour={**by_type, **own})


@dataclass(frozen=True, slots=True)
class CostQuestion:
    """The prices, rules and bounds of a cost study.

    ``rules`` hold for both usages; their ``residency`` is the number of variants that a shared device may hold.
    ``most``: maximum numbers of devices of a fleet, by type or id; empty: `MAX_OF_TYPE` of each type with a profile. A
    fleet keeps the SLO even where devices take ``headroom`` times as long as profiled.
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
    files = [workspace.catalog_path, *workspace.profile_paths(profiles), *sharing_paths(workspace, sources)]
    jobs = []
    for scope, counts in scopes.items():
        fleet = with_sharing(workspace, hypothetical_fleet(counts, profiles))
        trials = PlanTrials(
            catalog, fleet, trace, question.allowed_frac, question.jitter, question.seed, question.headroom
        )
        jobs += [_job(f"{scope}, {usage}", usage, workspace, trials, question.rules, demand) for usage in USAGES]
    return StudyDraft(
        kind=KIND,
        name=name or KIND,
        subject={
            "traffic": f"{trace.name}, {len(trace):,} queries in {trace.duration_s:,.0f} s",
            "within the SLO": f"at least {format_percent(1 - question.allowed_frac)} of each family's queries",
            "headroom": f"devices may take {question.headroom:g} times as long as profiled",
            "prices per hour": ", ".join(f"{kind} {price:g}" for kind, price in catalog.price_per_hour.items()),
        },
        options={
            "allowed_frac": question.allowed_frac,
            "prices": _assigned(catalog.price_per_hour),
            "fleet": ",".join(f"{kind}:{count}" for kind, count in most.items()),
            "residency": str(question.rules.residency),
            "min_accuracy": _assigned(question.rules.min_accuracy),
            "jitter": question.jitter,
            "seed": question.seed,
            "headroom": question.headroom,
        },
        inputs={**workspace.digests(files), "traffic": digest(traffic)},
        jobs=jobs,
        conclude=concluded,
    )


def _assigned(values: Mapping[str, float]) -> str:
    return ",".join(f"{name}={value:g}" for name, value in sorted(values.items()))


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
    """The savings of sharing, and the cell that costs the least; None without a cell."""
    costs = {key: cell.read(FleetCost).cost_per_million for key, cell in cells.items()}
    if not costs:
        return None
    savings = []
    for scope in dict.fromkeys(key.rpartition(", ")[0] for key in costs):
        dedicated, shared = (costs.get(f"{scope}, {usage}") for usage in USAGES)
        if dedicated is not None and shared is not None:
            savings.append(Saving(scope, dedicated, shared, 1 - shared / dedicated if dedicated > 0 else 0.0))
    return CostConclusion(tuple(savings), min(costs, key=lambda key: costs[key]))


def workspace_draft(_workspace: Workspace) -> str:
    """`proteus study all` has no costs by itself: only the user knows the traffic."""
    return "which traffic is to be served is not known: `--traffic trace.csv` says it"
