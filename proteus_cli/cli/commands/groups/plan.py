"""``proteus plan``: which variants to host on which devices, for a demand."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from proteus_cli.cli import console
from proteus_cli.cli.command_line.command import Command, Group
from proteus_cli.cli.command_line.defaults import require_cluster, require_no_flags
from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups import plan as options
from proteus_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proteus_cli.domain.plan import Plan
    from proteus_cli.domain.profile import Profile
    from proteus_cli.domain.rules import Rules
    from proteus_cli.planning.planner import Planner
    from proteus_cli.store import Workspace

app = typer.Typer(cls=Group, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def plan(
    context: typer.Context,
    *,
    demand: options.Demand = None,
    from_trace: options.FromTrace = None,
    headroom: common.Headroom = common.HEADROOM,
    attainment: common.Attainment = None,
    policy: options.Policy = common.POLICY,
    fleet: common.Fleet = None,
    cluster: common.Cluster = None,
    cluster_key: common.ClusterKey = None,
    residency: options.Residency = "1",
    reserve: options.Reserve = None,
    ban: options.Ban = None,
    pin: options.Pin = None,
    capacity: options.Capacity = "mean",
    slo_fraction: options.SloFraction = None,
    fairness: options.Fairness = "total",
    minimize: options.Minimize = None,
    prefer: options.Prefer = None,
    current: options.Current = None,
    pack: options.Pack = False,
    cascades: options.Cascades = False,
    spares: options.Spares = None,
    min_accuracy: options.MinAccuracy = None,
    min_expected_accuracy: options.MinExpectedAccuracy = None,
    max_share: options.MaxShare = None,
    survive: options.Survive = 0,
    survive_host: options.SurviveHost = 0,
    budget_w: options.BudgetWatts = None,
    budget_cost: options.BudgetCost = None,
    sweep: options.Sweep = None,
    plot: options.Plot = None,
    explain: options.Explain = False,
    output: options.Output = None,
    strict: options.Strict = False,
    time_limit: options.TimeLimit = common.unparsed("5s"),
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
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
    from proteus_cli.cli.cluster import host_list, known_hosts
    from proteus_cli.cli.command_line.plan_rules import plan_rules
    from proteus_cli.cli.workflows.planning import profiles_to_plan_for
    from proteus_cli.store import Workspace

    require_cluster(context, cluster)
    _require_compatible(sweep=sweep, plot=plot, explain=explain, current=current, strict=strict)
    workspace = Workspace(workspace_dir)
    hosts = known_hosts(host_list(cluster, cluster_key, workspace_dir) if cluster is not None else None)
    catalog, profiles = workspace.catalog(), profiles_to_plan_for(workspace, fleet, hosts)
    rules = plan_rules(
        catalog, profiles, residency=residency, reserve=reserve, ban=ban, pin=pin, min_accuracy=min_accuracy,
        min_expected_accuracy=min_expected_accuracy, max_share=max_share, capacity=capacity, slo_fraction=slo_fraction,
        fairness=fairness, minimize=minimize, prefer=prefer, survive=survive,
        survive_host=survive_host, pack=pack, budget_w=budget_w, budget_cost=budget_cost, attainment=attainment,
        cascades=cascades,
    )  # fmt: skip
    planner = _planner(workspace, profiles, rules, policy, headroom=headroom, time_limit_s=time_limit, spares=spares)
    if sweep is not None:
        _sweep(workspace, planner, sweep, demand, from_trace, output=output, plot=plot, json=json)
    else:
        made = _made(planner, demand, from_trace, workspace, current, strict=strict)
        _deliver(planner, made, workspace, output, explains=explain, json=json)


@app.command(cls=Command)
def diff(
    before: options.Before,
    after: options.After,
    *,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Show what changes from plan A to plan B: what each device keeps, loads and unloads, and its rates."""
    from proteus_cli.cli.views.plan_difference import difference, difference_lines, difference_tables
    from proteus_cli.store import Workspace

    workspace = Workspace(workspace_dir)
    plans = workspace.plan(before), workspace.plan(after)
    found, estimated = difference(*plans), [plan.estimated or () for plan in plans]
    console.deliver(found, json=json, tables=[difference_tables(found)], lines=difference_lines(found, estimated))


def _say_what_is_live(profiles: "Mapping[str, Profile]") -> None:
    from proteus_cli.domain.profile_changes import live_accuracies
    from proteus_cli.units import counted, format_percent

    for key, live in sorted(live_accuracies(profiles.values()).items()):
        rows = counted(live.rows, "labelled row")
        console.say(f"{key.variant} counts with {format_percent(live.accuracy)}, by {rows} while serving ({live.time})")


def _say_what_sharing_is_taken_to_cost(
    workspace: "Workspace", profiles: "Mapping[str, Profile]", made: "Sequence[Plan]"
) -> None:
    from proteus_cli.store.sharing import sharing_gaps

    for line in sharing_gaps(workspace, profiles, *(plan.hosted() for plan in made)):
        console.say(line)


def _deliver(
    planner: "Planner", made: "Plan", workspace: "Workspace", output: Path | None, *, explains: bool, json: bool
) -> None:
    """Say what sharing is taken to cost, then show the plan and write it."""
    from proteus_cli.cli.workflows.plan_delivery import deliver

    _say_what_sharing_is_taken_to_cost(workspace, planner.profiles, [made])
    deliver(planner, made, output or workspace.plans_dir / "plan.json", explains=explains, json=json)


def _require_compatible(
    *, sweep: str | None, plot: Path | None, explain: bool, current: Path | None, strict: bool
) -> None:
    if plot is not None and sweep is None:
        raise UsageError("`--plot` draws a sweep.", hint="give `--sweep 100qps:2000qps:100qps` as well")
    if plot is not None and plot.suffix not in {".png", ".svg"}:
        raise UsageError(f"`{plot}` is neither .png nor .svg.", hint="name the plot `frontier.png`")
    if sweep is not None and (explain or strict or current is not None):
        raise UsageError("`--explain`, `--strict` and `--current` are for one plan.", hint="leave out `--sweep`")


def _planner(
    workspace: "Workspace",
    profiles: "Mapping[str, Profile]",
    rules: "Rules",
    policy: str,
    *,
    headroom: float,
    time_limit_s: float,
    spares: bool | None,
) -> "Planner":
    """The planner, after a warning of what it leaves out; and says which accuracies were measured while serving."""
    from proteus_cli.control.policies import live_policy_named
    from proteus_cli.planning.from_workspace import planner_settings

    planner = planner_settings(
        workspace, live_policy_named(policy), headroom,
        profiles=profiles, rules=rules, time_limit_s=time_limit_s, spares=spares,
    ).make()  # fmt: skip
    _warn_of_what_is_left_out(planner)
    _say_what_is_live(profiles)
    return planner


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


def _sweep(
    workspace: "Workspace",
    planner: "Planner",
    text: str,
    demand: str | None,
    trace: Path | None,
    *,
    output: Path | None,
    plot: Path | None,
    json: bool,
) -> None:
    from proteus_cli.cli.workflows.plan_delivery import deliver_sweep
    from proteus_cli.cli.workflows.planning import wanted_mix
    from proteus_cli.planning.analysis.frontier import parse_sweep, sweep

    mix, totals, points = wanted_mix(demand, trace, planner.catalog), parse_sweep(text), []
    plans: list[Plan] = []
    with console.progress("planning") as advance:
        for point in sweep(planner, mix, totals, plans.append):
            points.append(point)
            advance(f"{point.demand_qps:,.0f} qps", len(points) / len(totals))
    _say_what_sharing_is_taken_to_cost(workspace, planner.profiles, plans)
    deliver_sweep(planner, mix, points, output, plot, json=json)


def _made(
    planner: "Planner",
    demand: str | None,
    trace: Path | None,
    workspace: "Workspace",
    current: Path | None,
    *,
    strict: bool,
) -> "Plan":
    from proteus_cli.cli.workflows.planning import made_plan, wanted_demand
    from proteus_cli.planning.analysis.expectation import expecting

    before = workspace.plan(current) if current is not None else None
    made = made_plan(planner, wanted_demand(demand, trace, planner.catalog), before, strict=strict)
    return expecting(made, planner.catalog, planner.profiles)
