"""``proteus plan``: which variants to host on which devices, for a demand."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from proteus_cli.cli import console, options
from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.command_line.command import Command, Group
from proteus_cli.cli.command_line.defaults import require_cluster, require_no_flags
from proteus_cli.errors import NoFeasiblePlan, RulesConflict, UsageError
from proteus_cli.settings import environment
from proteus_cli.units import (
    counted,
    format_accuracy,
    format_percent,
    format_rate,
    mark_estimate,
    parse_assignments,
    parse_rate,
)

if TYPE_CHECKING:
    from proteus_cli.domain.catalog import Catalog
    from proteus_cli.domain.plan import Plan
    from proteus_cli.domain.profile import Profile
    from proteus_cli.planning.analysis.explain import Explanation
    from proteus_cli.planning.planner import Planner
    from proteus_cli.store import Workspace

NEGLIGIBLE_FRAC = 1e-4  # of the demand: a smaller shortfall is the solver's rounding
FAMILIES_NAMED = 5  # in a warning
ROUNDING_FRAC = 1e-6  # of the relative accuracy

app = typer.Typer(cls=Group, rich_markup_mode=None)

# --- options

_device = partial(Option, rich_help_panel=sections.DEVICES)
_objective = partial(Option, rich_help_panel=sections.OBJECTIVES)
_limit = partial(Option, rich_help_panel=sections.LIMITS)


def _one_of(option: str, *names: str) -> dict[str, Any]:
    """The arguments of an option with a choice of names. Any other name is a `UsageError`."""

    def parse(text: str) -> str:
        if text not in names:
            raise UsageError(f"`{option}` can't be `{text}`.", hint=f"there are: {', '.join(names)}")
        return text

    return {"metavar": "|".join(names), "autocompletion": completion.one_of(*names), "parser": parse}


Residency = Annotated[
    str | None,
    _device(
        metavar="N|memory",
        help="How many variants a device may host at a time; `memory`: as many as fit.",
        show_default="memory, or 1 where sizes are unknown",
    ),
]
Cascades = Annotated[
    bool | None,
    _objective(
        "--cascades/--no-cascades",
        show_default="where the profiles know any",
        help="Let queries go through cascades: a fast variant answers first, and defers those that it is not confident "
        "of to a more accurate one.",
    ),
]
MinAccuracy = Annotated[
    str | None,
    _limit(metavar="ACCURACY", help="Use no variant below this accuracy: `0.9`, or by family `bert=0.9,yolo=0.8`."),
]


# --- commands


@app.callback(invoke_without_command=True)
def plan(
    context: typer.Context,
    *,
    demand: Annotated[
        str | None,
        Option(
            envvar=environment("demand"),
            metavar="RATE",
            help="The demand: a total such as `1200qps`, shared by the families' weights; or a rate for each family, "
            "such as `a=80qps,b=20qps`.",
        ),
    ] = None,
    from_trace: Annotated[
        Path | None, Option(metavar="TRACE", help="Plan for the demand in the busiest 10 s of this trace instead.")
    ] = None,
    headroom: options.Headroom = options.HEADROOM,
    attainment: options.Attainment = None,
    policy: Annotated[
        str,
        Option(
            metavar="POLICY",
            autocompletion=completion.policies,
            envvar=environment("policy"),
            help="How to plan and adapt: proteus, most-accurate or least-accurate.",
        ),
    ] = options.POLICY,
    fleet: options.Fleet = None,
    cluster: options.Cluster = None,
    cluster_key: options.ClusterKey = None,
    residency: Residency = None,
    rule: Annotated[
        list[str] | None,
        _device(
            metavar="'RULE'",
            help="`ban DEVICE:VARIANT`: never host it there; `pin DEVICE:VARIANT`: always; `reserve DEVICE`: keep the "
            "device idle; `reserve DEVICE=FAMILY`: for this family only. DEVICE may be a type. Repeatable.",
        ),
    ] = None,
    capacity: Annotated[
        str,
        _device(
            **_one_of("--capacity", "p50", "p95", "p99", "mean"),
            help="Which of a batch's measured latencies capacities are computed from.",
        ),
    ] = "mean",
    slo_fraction: Annotated[
        float | None,
        _device(
            metavar="FRACTION",
            help="The largest part of the SLO that a batch may take, whatever its wait. By default it depends on the "
            "number of hosts of the family: a half with one, 0.92 with 60.",
            show_default=False,
        ),
    ] = None,
    fairness: Annotated[
        str,
        _objective(
            **_one_of("--fairness", "total", "maxmin"),
            help="If not all demand can be served: serve the most queries (total), or first serve the worst-served "
            "family as well as possible (maxmin).",
        ),
    ] = "total",
    minimize: Annotated[
        str | None,
        _objective(
            **_one_of("--minimize", "cost", "power"),
            help="Serve all demand at the lowest cost or power, instead of at the highest accuracy.",
        ),
    ] = None,
    prefer: Annotated[
        str | None,
        _objective(
            metavar="[FAMILY=]WHAT",
            autocompletion=completion.one_of("accuracy", "latency", "energy", "cost"),
            help="What families get besides being served: accuracy, or the least latency, energy or cost of a query, "
            "instead of what the catalog says: `latency`, or by family `bert=latency,yolo=energy`.",
        ),
    ] = None,
    current: Annotated[
        Path | None,
        _objective(
            metavar="PLAN",
            autocompletion=completion.plans,
            help="Then load as few variants as possible after this plan.",
        ),
    ] = None,
    pack: Annotated[bool, _objective("--pack", help="Then use as few devices as possible.")] = False,
    cascades: Cascades = None,
    spares: Annotated[
        bool | None,
        _objective(
            "--spares/--no-spares",
            show_default="as the policy says",
            help="Host variants on devices that would be idle, ready to help the others.",
        ),
    ] = None,
    min_accuracy: MinAccuracy = None,
    min_expected_accuracy: Annotated[
        str | None,
        _limit(
            metavar="ACCURACY",
            help="Give no answer of which less is to be expected, from a variant alone or from a whole cascade.",
        ),
    ] = None,
    max_share: Annotated[
        str | None,
        _limit(metavar="FRACTION", help="The largest part of a family's demand on one device: `0.5`, or by family."),
    ] = None,
    survive: Annotated[
        int, _limit(min=0, max=1, metavar="N", help="1: the plan serves no less when any one device is lost.")
    ] = 0,
    survive_host: Annotated[
        int,
        _limit(
            min=0,
            max=1,
            metavar="N",
            help="1: the plan serves no less when any one host of the cluster is lost, with all its devices. This "
            "machine counts as one.",
        ),
    ] = 0,
    budget_w: Annotated[float | None, _limit(metavar="WATTS", help="The most power that the devices may draw.")] = None,
    budget_cost: Annotated[
        float | None, _limit(metavar="COST", help="The most that the devices may cost per hour.")
    ] = None,
    sweep: Annotated[
        str | None,
        Option(
            metavar="FROM:TO:STEP",
            help="Plan for each of these total demands, and show the accuracy that each leaves: "
            "`100qps:900qps:100qps`.",
        ),
    ] = None,
    plot: Annotated[Path | None, Option(metavar="FILE", help="Plot the sweep to a .png or .svg file.")] = None,
    explain: Annotated[
        bool, Option("--explain", help="Show what limits the plan, and how much more accurate it would be without.")
    ] = False,
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default="plans/plan.json",
            help="The file to write the plan to; `-` is stdout.",
        ),
    ] = None,
    strict: Annotated[
        bool, Option("--strict", help="Exit with code 3 if the plan cannot serve all of the demand.")
    ] = False,
    time_limit: Annotated[
        float, _limit(**options.DURATION, help="The longest time that the solver may take.")
    ] = options.unparsed("5s"),
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Find the plan that serves the demand within the SLOs at the highest accuracy.

    Objectives are met one after another, each fixed before the next: serve the most queries; then the highest accuracy;
    then, with --current, the fewest loads; then, with --pack, the fewest devices. The catalog can set limits of single
    families, and what they prefer to accuracy.

    The devices are those of this machine with a profile; with --cluster, those of its hosts, too. Where only hosts have
    profiles, they are planned for.
    """
    if context.invoked_subcommand is not None:
        require_no_flags(context, "making a plan")
        return
    from proteus_cli.cli.cluster import host_list
    from proteus_cli.cli.command_line.plan_rules import plan_rules
    from proteus_cli.control.policies import live_policy_named
    from proteus_cli.planning.from_workspace import planner_settings
    from proteus_cli.serving.devices.remote.channel.address import known_hosts
    from proteus_cli.store import Workspace

    require_cluster(context, cluster)
    if plot is not None and sweep is None:
        raise UsageError("`--plot` draws a sweep.", hint="give `--sweep 100qps:2000qps:100qps` as well")
    if plot is not None and plot.suffix not in {".png", ".svg"}:
        raise UsageError(f"`{plot}` is neither .png nor .svg.", hint="name the plot `frontier.png`")
    if sweep is not None and (explain or strict or current is not None):
        raise UsageError("`--explain`, `--strict` and `--current` are for one plan.", hint="leave out `--sweep`")
    workspace = Workspace(workspace_dir)
    hosts = known_hosts(host_list(cluster, cluster_key, workspace_dir) if cluster is not None else None)
    catalog, profiles = workspace.catalog(), profiles_to_plan_for(workspace, fleet, hosts)
    live_policy = live_policy_named(policy)
    if live_policy.variants != "all":  # one variant on each device, as such policies have it
        residency, cascades = residency or "1", bool(cascades)
    rules = plan_rules(
        catalog, profiles, residency=residency, placement=rule or (), min_accuracy=min_accuracy,
        min_expected_accuracy=min_expected_accuracy, max_share=max_share, capacity=capacity, slo_fraction=slo_fraction,
        fairness=fairness, minimize=minimize, prefer=prefer, survive=survive,
        survive_host=survive_host, pack=pack, budget_w=budget_w, budget_cost=budget_cost, attainment=attainment,
        cascades=cascades,
    )  # fmt: skip
    planner = planner_settings(
        workspace, live_policy, headroom,
        profiles=profiles, rules=rules, time_limit_s=time_limit, spares=spares,
    ).make()  # fmt: skip
    _warn_of_what_is_left_out(planner)
    _say_what_is_live(profiles)
    if sweep is not None:
        plans = _sweep(planner, sweep, demand, from_trace, output=output, plot=plot, json=json)
    else:
        before = workspace.plan(current) if current is not None else None
        plans = [_made(planner, _wanted_demand(demand, from_trace, catalog), before, strict=strict)]
        _deliver(planner, plans[0], output or workspace.plans_dir / "plan.json", explains=explain, json=json)
    _say_what_is_unknown(workspace, planner, plans, residency, cascades=cascades)


@app.command(cls=Command)
def diff(
    before: Annotated[
        Path,
        Argument(
            metavar="A", autocompletion=completion.plans, help="A plan: a path, or a name in plans/ or plans/history/."
        ),
    ],
    after: Annotated[Path, Argument(metavar="B", autocompletion=completion.plans, help="The plan to compare it with.")],
    *,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Show what changes from plan A to plan B: what each device keeps, loads and unloads, and its rates."""
    from proteus_cli.cli.plan_diff import difference, difference_lines, difference_tables
    from proteus_cli.store import Workspace

    workspace = Workspace(workspace_dir)
    plans = workspace.plan(before), workspace.plan(after)
    found, estimated = difference(*plans), [plan.estimated or () for plan in plans]
    console.deliver(found, json=json, tables=[difference_tables(found)], lines=difference_lines(found, estimated))


# --- the devices and the demand


def profiles_to_plan_for(
    workspace: "Workspace", fleet: str | None, hosts: Collection[str] | None = ()
) -> "Mapping[str, Profile]":
    """The profiles of the devices to plan for, with what sharing costs. ``hosts`` as from `known_hosts`."""
    from proteus_cli.domain.fleet import fleet_of
    from proteus_cli.store.sharing import with_sharing

    profiles = workspace.profiles()
    return with_sharing(workspace, _of_hosts(profiles, hosts) if fleet is None else fleet_of(profiles, fleet))


def _of_hosts(profiles: "Mapping[str, Profile]", hosts: Collection[str] | None) -> "Mapping[str, Profile]":
    """The profiles of this machine and of ``hosts`` (None: of any), else all; says which are left out."""
    if hosts is None:
        return profiles
    used = {device: each for device, each in profiles.items() if not each.device.host or each.device.host in hosts}
    others = ", ".join(dict.fromkeys(each.device.host for device, each in profiles.items() if device not in used))
    if not used:
        console.say(f"only hosts have profiles ({others}), so the plan is for them: serve it with `--cluster`")
        return profiles
    if others:
        how = "`--cluster` of `proteus plan` plans for hosts, `proteus devices forget HOST` removes them"
        console.say(f"left out the profiles of {others}: {how}")
    return used


def _wanted_demand(text: str | None, trace: Path | None, catalog: "Catalog") -> dict[str, float]:
    """Queries per second by family: as given, or of a trace's busiest 10 s. Raises `UsageError`."""
    from proteus_cli.domain.demand import check_demand
    from proteus_cli.replay.trace import read_trace

    if text is not None and trace is None:
        return parse_demand(text, catalog)
    if trace is None or text is not None:
        raise UsageError("Give either `--demand` or `--from-trace`.", hint="for example `--demand 1200qps`")
    peak = read_trace(trace).peak_demand()
    check_demand(peak, catalog)
    return peak


def parse_demand(text: str, catalog: "Catalog") -> dict[str, float]:
    """``"1200qps"`` (shared by weight) or ``"digits=800qps,signals=200qps"`` → qps of every family.

    Raises `UsageError` for unknown families, families named twice, and bad rates.
    """
    if "=" not in text:
        total_qps, weight = parse_rate(text), sum(family.weight for family in catalog.families)
        if weight <= 0:
            raise UsageError(
                "All families in the catalog have weight 0, so a total can't be shared among them.",
                hint="give the demand by family, like `--demand digits=800qps,signals=200qps`",
            )
        return {family.name: total_qps * family.weight / weight for family in catalog.families}
    rates = parse_assignments(text, "The demand")
    return dict.fromkeys(catalog.names, 0.0) | {
        catalog.family(name).name: parse_rate(rate or "") for name, rate in rates.items()
    }


# --- making it


def _made(planner: "Planner", demand_qps: Mapping[str, float], current: "Plan | None", *, strict: bool) -> "Plan":
    """The plan for a demand, coming from ``current``.

    Raises `RulesConflict` if no plan obeys all rules, and with ``strict`` `NoFeasiblePlan` if it leaves a shortfall.
    """
    from proteus_cli.planning.analysis.expectation import expecting

    try:
        plan = planner(demand_qps, current)
    except RulesConflict:
        raise RulesConflict(
            f"No plan obeys all rules.{_conflict(planner, demand_qps)}",
            hint="loosen one of them, or give the fleet more devices",
        ) from None
    if strict and _has_shortfall(plan):
        raise _shortfall(planner, plan)
    return expecting(plan, planner.catalog, planner.profiles)


def _shortfall(planner: "Planner", plan: "Plan") -> NoFeasiblePlan:
    missing, total = format_rate(plan.shortfall_qps), format_rate(sum(plan.demand_qps.values()))
    conflict = _conflict(planner.with_changes(headroom=1.0), plan.demand_qps)
    several = f"; {why}" if (why := _why_families_lack_devices(plan)) else ""
    return NoFeasiblePlan(
        f"The plan would leave {missing} of {total} unserved.{conflict}",
        hint=f"lower the demand, add faster variants, or leave out `--strict` to plan for what can be served{several}",
    )


def _conflict(planner: "Planner", demand_qps: Mapping[str, float]) -> str:
    """The wishes that can't be met together, as a sentence with a list; empty if there are none."""
    from proteus_cli.planning.analysis.conflict import irreducible_conflict

    wishes = irreducible_conflict(planner, demand_qps)
    sentence = "These can't be met together:" if len(wishes) > 1 else "This alone can't be met:"
    return "\n  - ".join((f" {sentence}", *wishes)) if wishes else ""


def _sweep(
    planner: "Planner",
    text: str,
    demand: str | None,
    trace: Path | None,
    *,
    output: Path | None,
    plot: Path | None,
    json: bool,
) -> "list[Plan]":
    """The plans for the demands of a sweep, saved and shown as points."""
    from proteus_cli.cli.plan_tables import estimate_note, frontier_table
    from proteus_cli.domain.profile_changes import estimated_families
    from proteus_cli.planning.analysis.frontier import parse_sweep, sweep

    mix = {family.name: family.weight for family in planner.catalog.families}
    if demand is not None or trace is not None:
        mix = _wanted_demand(demand, trace, planner.catalog)
    totals, points = parse_sweep(text), []
    plans: list[Plan] = []
    with console.progress("planning") as advance:
        for point in sweep(planner, mix, totals, plans.append):
            points.append(point)
            advance(f"{point.demand_qps:,.0f} qps", len(points) / len(totals))
    is_on_stdout = output == console.DASH
    if output is not None:
        console.save(points, output)
        if not is_on_stdout:
            console.say(f"wrote {output}")
    if plot is not None:
        from proteus_cli.reporting.plots.frontier_plot import write_frontier

        write_frontier(plot, points)
        console.say(f"wrote {plot}")
    if json and not is_on_stdout:
        console.show_json(points)
    elif not is_on_stdout:
        estimated = estimated_families(planner.profiles.values()) & {family for family, qps in mix.items() if qps > 0}
        console.show(frontier_table(points, estimated=bool(estimated)))
        if estimated:
            console.say(estimate_note(sorted(estimated)))
    return plans


def _warn_of_what_is_left_out(planner: "Planner") -> None:
    from proteus_cli.cli.command_line.plan_rules import unknown_amounts, unknown_devices
    from proteus_cli.domain.catalog import VariantKey
    from proteus_cli.domain.fleet import origins

    distinct = {id(profile.variants): profile for profile in planner.profiles.values()}
    known = {variant.key for profile in distinct.values() for variant in profile.variants if variant.points}
    keys = [VariantKey(family.name, variant.name) for family, variant in planner.catalog.variants]
    if missing := [planner.catalog.label(key) for key in keys if key not in known]:
        console.warn(f"not profiled on any device, so not used: {', '.join(missing)}")
    for profile in distinct.values():
        here = {variant.key for variant in profile.variants if variant.points}
        if lacking := [planner.catalog.label(key) for key in keys if key in known - here]:
            console.warn(f"not profiled on {origins(profile.device.id)[-1]}, so not placed there: {', '.join(lacking)}")
    absent = unknown_devices(planner.rules, planner.profiles)
    if absent:
        console.warn(f"the catalog has rules for {', '.join(absent)}, which are not in this fleet")
    for line in unknown_amounts(planner.catalog, planner.profiles, planner.rules):
        console.warn(line)


def _say_what_is_live(profiles: "Mapping[str, Profile]") -> None:
    from proteus_cli.domain.profile_changes import live_accuracies
    from proteus_cli.units import counted, format_percent

    for key, live in sorted(live_accuracies(profiles.values()).items()):
        rows = counted(live.rows, "labelled row")
        console.say(f"{key.variant} counts with {format_percent(live.accuracy)}, by {rows} while serving ({live.time})")


def _say_what_is_unknown(
    workspace: "Workspace", planner: "Planner", made: "Sequence[Plan]", residency: str | None, *, cascades: bool | None
) -> None:
    """Name the measurements without which the plans are less exact, or less accurate than they could be."""
    from proteus_cli.cli.command_line.plan_rules import unknown_memory
    from proteus_cli.store.sharing import sharing_gaps

    for line in sharing_gaps(workspace, planner.profiles, *(plan.hosted() for plan in made)):
        console.say(line)
    variants = [variant for profile in planner.profiles.values() for variant in profile.variants]
    lacking = []
    if residency is None and (types := unknown_memory(planner.profiles)):
        lacking.append(f"how much memory {', '.join(types)} has, or its variants take: each device hosts one variant")
    if cascades is None and not any(variant.eval_digest for variant in variants):
        lacking.append("answers to an eval split: there are no cascades")
    if lacking:
        console.say(f"plans would be more accurate if profiles knew {', and '.join(lacking)}")


# --- saving and showing it


def _deliver(planner: "Planner", made: "Plan", output: Path, *, explains: bool, json: bool) -> None:
    """Save a plan, show it, and warn if it is not optimal or leaves a shortfall."""
    from proteus_cli.planning.analysis.explain import explain

    console.save(made, output)
    explanation = None
    if explains:
        with console.progress("pricing what limits the plan") as advance:
            explanation = explain(planner, made, progress=advance)
    if output != console.DASH and json:
        console.show_json(made if explanation is None else {"plan": made, "explanation": explanation})
    elif output != console.DASH:
        _show(planner, made, explanation)
        console.say(f"wrote {output}")
    _warn(planner, made)


def _show(planner: "Planner", made: "Plan", explanation: "Explanation | None") -> None:
    from proteus_cli.cli.plan_tables import (
        attainment_table,
        cascades_table,
        estimate_note,
        explanation_tables,
        plan_table,
    )

    if explanation is None:
        console.show(plan_table(made))
    else:
        console.show(explanation_tables(explanation, spent_on=made.rules.minimize, estimated=made.estimated or ()))
        if made.cascades:
            console.show(cascades_table(made.cascades))
    if made.expected_attainment:
        targets = planner.rules.attainment_targets(planner.catalog)
        console.show(attainment_table(made, targets))
        if missing := made.expected_to_miss(targets):
            console.say(f"expected to miss the target: {', '.join(missing)}")
    if made.effective_accuracy is not None and made.relative_accuracy is not None:
        is_estimate = bool(made.estimated)
        console.say(
            f"serves {format_rate(sum(made.served_qps.values()))} of {format_rate(sum(made.demand_qps.values()))} at "
            f"effective accuracy {format_accuracy(made.effective_accuracy, estimated=is_estimate)} "
            f"({mark_estimate(format_percent(made.relative_accuracy), estimated=is_estimate)} of the best)"
        )
    if made.estimated:
        console.say(estimate_note(made.estimated))


def _warn(planner: "Planner", made: "Plan") -> None:
    from proteus_cli.cli.plan_tables import proven
    from proteus_cli.planning.analysis.explain import largest_multiple

    if planner.rules.cascades and not made.cascades:
        console.say(f"no cascade is used: {_why_no_cascade(planner.profiles, made)}")
    if made.solver.status != "optimal":
        console.warn(f"the solver reached its time limit: {proven(made.solver)}")
    if noisy := _noisy_placements(planner.profiles, made):
        listed = ", ".join(noisy)
        console.warn(f"noisy cells ({listed}): the plan's rates may be too low; `proteus profile` measures them again")
    if _has_shortfall(made):
        multiple = largest_multiple(planner, made.demand_qps)
        least = "at least " if multiple.is_lower_bound else ""
        possible = f"; they could serve {least}{multiple.value:.2f} times this demand" if multiple.value > 0 else ""
        short = f" ({short_families(made)})"
        console.warn(f"the devices cannot serve {format_rate(made.shortfall_qps)} of the demand{short}{possible}")
        if why := _why_families_lack_devices(made):
            console.warn(why)


def _has_shortfall(plan: "Plan") -> bool:
    """Whether a plan leaves more of its demand unserved than the solver's rounding explains."""
    return plan.shortfall_qps > NEGLIGIBLE_FRAC * sum(plan.demand_qps.values())


def short_families(plan: "Plan") -> str:
    """The families that a plan does not serve in full, the one that lacks most first: ``b: none of its 150 qps``.

    Names at most `FAMILIES_NAMED` families.
    """
    lacking = {family: plan.unserved_qps.get(family, 0.0) for family in plan.demand_qps}
    short = [family for family, qps in lacking.items() if qps > NEGLIGIBLE_FRAC * plan.demand_qps[family]]
    short.sort(key=lacking.__getitem__, reverse=True)
    named = [f"{family}: {_served_of(plan, family)}" for family in short[:FAMILIES_NAMED]]
    others = len(short) - FAMILIES_NAMED
    return ", ".join([*named, f"and {counted(others, 'more family', 'more families')}"] if others > 0 else named)


def _served_of(plan: "Plan", family: str) -> str:
    demand_qps = plan.demand_qps[family]
    served_qps = demand_qps - plan.unserved_qps[family]
    if served_qps <= NEGLIGIBLE_FRAC * demand_qps:
        return f"none of its {format_rate(demand_qps)}"
    return f"{format_rate(served_qps)} of its {format_rate(demand_qps)}"


def _why_families_lack_devices(plan: "Plan") -> str:
    """What to do where each device hosts one variant and there are more families than devices; empty elsewhere."""
    families = sum(qps > 0 for qps in plan.demand_qps.values())
    if plan.rules.is_resident_set or plan.rules.survives is not None or families <= len(plan.devices):
        return ""
    return (
        f"{counted(len(plan.devices), 'device')} cannot host {counted(families, 'family', 'families')} with one "
        "variant on each: `--residency 2`, or `--residency memory`, hosts several on a device"
    )


def _noisy_placements(profiles: "Mapping[str, Profile]", plan: "Plan") -> list[str]:
    """Placements with noisy cells in a profile, as `variant on type of device`."""
    found: dict[str, None] = {}
    for placement in plan.placements:
        profile = profiles[placement.device]
        measured = profile.of(placement.family, placement.variant)
        points = profile.points_of(measured) if measured is not None else ()
        if any(point.noise_frac for point in points if point.batch <= placement.max_batch):
            found[f"{placement.variant} on {profile.device.type}"] = None
    return list(found)


def _why_no_cascade(profiles: "Mapping[str, Profile]", plan: "Plan") -> str:
    """The likely reason why a plan that may use cascades uses none, with a hint where something can be done."""
    families = [family for family, qps in plan.demand_qps.items() if qps > 0]
    if not any(each.family in families for profile in profiles.values() for each in profile.cascades):
        return f"no profile has any of {', '.join(families)}; `proteus profile` finds those of families with eval data"
    if plan.relative_accuracy is not None and plan.relative_accuracy >= 1 - ROUNDING_FRAC:
        return "the most accurate variants serve this demand alone"
    if plan.rules.is_resident_set or plan.rules.survives is not None:
        return "none makes this plan better"
    return (
        "none makes this plan better while each device hosts one variant; "
        "with `--residency 2` a device can host both stages"
    )
