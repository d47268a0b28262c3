"""``proteus plan``: which variants where, for a demand."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proteus_cli.cli import console
from proteus_cli.cli.commands.plan_diff import diff
from proteus_cli.cli.options.common import (
    DEFAULT_HEADROOM,
    DEFAULT_POLICY,
    DEFAULT_WORKSPACE,
    DURATION,
    FleetOption,
    HeadroomOption,
    JsonOption,
    PolicyOption,
    WorkspaceOption,
    flags,
)
from proteus_cli.cli.options.renamed import environment
from proteus_cli.errors import NoFeasiblePlan, RulesConflict, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proteus_cli.domain.catalog import Catalog
    from proteus_cli.domain.plan import Plan
    from proteus_cli.planning.planner import Planner

NEGLIGIBLE_FRAC = 1e-4  # of the demand: below it, unserved is the solver's rounding

_FLEET, _AIMS, _LIMITS, _ANSWER = "Fleet", "Aims", "Limits", "Answer"


app = typer.Typer()
app.command("diff")(diff)


@app.callback(invoke_without_command=True)
def plan(
    context: typer.Context,
    *,
    demand: Annotated[
        str | None,
        typer.Option(
            envvar=environment("demand"),
            metavar="RATE",
            help="`1200qps` in all, shared by weight, or by family: `digits=800qps,signals=200qps`.",
        ),
    ] = None,
    from_trace: Annotated[
        Path | None, typer.Option(help="Take the demand of the busiest 10 s of a trace instead.", metavar="TRACE")
    ] = None,
    headroom: HeadroomOption = DEFAULT_HEADROOM,
    policy: PolicyOption = DEFAULT_POLICY,
    fleet: FleetOption = None,
    residency: Annotated[
        str,
        typer.Option(metavar="N|memory", help="How many variants a device may hold at a time.", rich_help_panel=_FLEET),
    ] = "1",
    reserve: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE[=FAMILY]",
            help="Keep a device (or type) free, or for one family only. Repeatable.",
            rich_help_panel=_FLEET,
        ),
    ] = None,
    ban: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE:VARIANT",
            help="A variant that a device (or type) may not host. Repeatable.",
            rich_help_panel=_FLEET,
        ),
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE:VARIANT",
            help="A variant that a device (or type) must host. Repeatable.",
            rich_help_panel=_FLEET,
        ),
    ] = None,
    capacity: Annotated[
        str,
        typer.Option(metavar="p50|p95|p99|mean", help="The latency that a batch counts with.", rich_help_panel=_FLEET),
    ] = "p95",
    slo_fraction: Annotated[
        float, typer.Option(help="The part of the SLO that a batch may take.", rich_help_panel=_FLEET)
    ] = 0.5,
    fairness: Annotated[
        str,
        typer.Option(
            metavar="total|maxmin",
            help="Where not all can be served: serve the most queries, or first raise the worst-served family.",
            rich_help_panel=_AIMS,
        ),
    ] = "total",
    objective: Annotated[
        str,
        typer.Option(
            metavar="mean|min-family",
            help="Then the highest accuracy: over queries, or first of the worst family.",
            rich_help_panel=_AIMS,
        ),
    ] = "mean",
    minimize: Annotated[
        str | None,
        typer.Option(
            metavar="cost|power", help="Instead serve all demand as cheaply as can be.", rich_help_panel=_AIMS
        ),
    ] = None,
    current: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN", help="Then load as little as can be, coming from this plan.", rich_help_panel=_AIMS
        ),
    ] = None,
    pack: Annotated[
        bool, typer.Option("--pack", help="Then use as few devices as can be.", rich_help_panel=_AIMS)
    ] = False,
    spares: Annotated[
        bool, typer.Option("--spares", help="Let devices that would be idle stand by.", rich_help_panel=_AIMS)
    ] = False,
    min_accuracy: Annotated[
        str | None,
        typer.Option(
            metavar="ACC",
            help="The least accurate variant that may answer: `0.9`, or `bert=0.9,yolo=0.8`.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    max_share: Annotated[
        str | None,
        typer.Option(
            metavar="PART",
            help="The most of a family's demand that one device may get: `0.5`, or by family.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    survive: Annotated[
        int, typer.Option(min=0, max=1, help="Serve no less when any one device is lost.", rich_help_panel=_LIMITS)
    ] = 0,
    budget_w: Annotated[
        float | None,
        typer.Option(metavar="WATTS", help="The most that devices in use may draw.", rich_help_panel=_LIMITS),
    ] = None,
    budget_cost: Annotated[
        float | None,
        typer.Option(metavar="COST", help="The most that devices in use may cost per hour.", rich_help_panel=_LIMITS),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="FROM:TO:STEP",
            help="Plan for each total instead: the accuracy that remains as demand grows, `100qps:2000qps:100qps`.",
            rich_help_panel=_ANSWER,
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the sweep, as .png or .svg.", rich_help_panel=_ANSWER)
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say what limits the plan, and what each limit costs.", rich_help_panel=_ANSWER),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write the plan; `-` is stdout.", show_default="plans/plan.json"),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 3 where demand stays unserved.")] = False,
    time_limit: Annotated[float, typer.Option(**DURATION, help="The longest that the solver may take.")] = "5s",  # type: ignore[assignment]
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    json: JsonOption = False,
) -> None:
    """Find the allocation that serves the demand within the SLOs at the highest accuracy.

    Aims are met one after another, each fixed before the next: serve the most, then accuracy, then the fewest loads
    from --current, then with --pack the fewest devices. Limits for single families can also stand in the catalog.
    """
    if context.invoked_subcommand is not None:
        _require_no_flags(context)
        return
    from proteus_cli.cli.options.plan_rules import (
        made_rules,
        parse_by_family,
        parse_pairs,
        parse_reserved,
        parse_residency,
    )
    from proteus_cli.control.policies import live_policy_named
    from proteus_cli.planning.from_workspace import fleet_of, planner_for
    from proteus_cli.store import Workspace

    place = Workspace(workspace)
    catalog, profiles = place.catalog(), fleet_of(place, fleet)
    _require_sense(sweep=sweep, plot=plot, explain=explain, current=current, strict=strict)
    rules = made_rules(
        capacity=capacity,
        slo_fraction=slo_fraction,
        fairness=fairness,
        objective=objective,
        minimize=minimize,
        residency=parse_residency(residency),
        survive=survive,
        pack=pack,
        min_accuracy=parse_by_family(min_accuracy, catalog, "--min-accuracy"),
        max_share=parse_by_family(max_share, catalog, "--max-share"),
        reserved=parse_reserved(reserve or (), catalog, profiles),
        banned=parse_pairs(ban or (), catalog, profiles),
        pinned=parse_pairs(pin or (), catalog, profiles),
        budget_w=budget_w,
        budget_cost=budget_cost,
    )
    planner = planner_for(
        place,
        live_policy_named(policy),
        headroom,
        profiles=profiles,
        rules=rules,
        time_limit_s=time_limit,
        spares=spares,
    )
    _warn_of_what_is_left_out(planner)
    if sweep is not None:
        _sweep(planner, sweep, _mix(demand, from_trace, catalog), output=output, plot=plot, json=json)
        return
    wanted = _demand(demand, from_trace, catalog)
    made = _planned(planner, wanted, place.plan(current) if current is not None else None)
    is_short = made.shortfall_qps > NEGLIGIBLE_FRAC * sum(wanted.values())
    if strict and is_short:
        raise _unserved(planner, made)
    where = output if output is not None else place.plans_dir / "plan.json"
    is_file = console.save(made, where)
    explanation = _explanation(planner, made) if explain else None
    if json and is_file:
        console.show_json(made if explanation is None else {"plan": made, "explanation": explanation})
    elif is_file:
        _show(made, explanation)
        console.say(f"wrote {where}")
    if made.solver.status != "optimal":
        console.warn(f"the time limit came first: the plan is proven to within {made.solver.gap:.2%} of the best")
    if is_short:
        _warn_of_unserved(planner, made)


def _require_no_flags(context: typer.Context) -> None:
    given = sorted(flags(context))
    if given:
        raise UsageError(
            f"`{given[0]}` is for making a plan, not for `plan {context.invoked_subcommand}`.",
            hint=f"options of `plan {context.invoked_subcommand}` come after its name",
        )


def _require_sense(*, sweep: str | None, plot: Path | None, explain: bool, current: Path | None, strict: bool) -> None:
    if plot is not None and sweep is None:
        raise UsageError("`--plot` draws a sweep.", hint="give `--sweep 100qps:2000qps:100qps` as well")
    if plot is not None and plot.suffix not in {".png", ".svg"}:
        raise UsageError(f"`{plot}` is neither .png nor .svg.", hint="name the plot `frontier.png`")
    if sweep is not None and (explain or strict or current is not None):
        raise UsageError("`--explain`, `--strict` and `--current` are for one plan.", hint="leave out `--sweep`")


def _demand(text: str | None, trace: Path | None, catalog: "Catalog") -> dict[str, float]:
    from proteus_cli.domain.demand import check_demand, parse_demand

    if (text is None) == (trace is None):
        raise UsageError("Give either `--demand` or `--from-trace`.", hint="for example `--demand 1200qps`")
    if text is not None:
        return parse_demand(text, catalog)
    from proteus_cli.replay.trace import read_trace

    assert trace is not None  # noqa: S101 - one of both is given
    peak = read_trace(trace).peak_demand()
    check_demand(peak, catalog)
    return peak


def _mix(text: str | None, trace: Path | None, catalog: "Catalog") -> dict[str, float]:
    """How a sweep's totals are shared: as in the demand that was given, else by weight."""
    if text is None and trace is None:
        return {family.name: family.weight for family in catalog.families}
    return _demand(text, trace, catalog)


def _planned(planner: "Planner", wanted: "Mapping[str, float]", current: "Plan | None") -> "Plan":
    from proteus_cli.planning.conflict import smallest_conflict

    try:
        return planner(wanted, current)
    except RulesConflict:
        conflict = smallest_conflict(planner, wanted)
        raise RulesConflict(
            "No plan obeys all rules. These can't be met together:\n" + _listed(conflict),
            hint="loosen one of them, or give the fleet more devices",
        ) from None


def _listed(lines: "tuple[str, ...]") -> str:
    return "\n".join(f"  - {line}" for line in lines)


def _unserved(planner: "Planner", made: "Plan") -> NoFeasiblePlan:
    from proteus_cli.planning.conflict import smallest_conflict
    from proteus_cli.units import format_rate

    missing, whole = format_rate(made.shortfall_qps), format_rate(sum(made.demand_qps.values()))
    conflict = smallest_conflict(planner.with_changes(headroom=1.0), made.demand_qps)
    together = f" These can't be met together:\n{_listed(conflict)}" if conflict else ""
    return NoFeasiblePlan(
        f"The plan would leave {missing} of {whole} unserved.{together}",
        hint="lower the demand, add faster variants, or leave out `--strict` to plan for what can be served",
    )


def _explanation(planner: "Planner", made: "Plan") -> Any:
    from proteus_cli.planning.explain import explain

    with console.progress("pricing what limits the plan") as advance:
        return explain(planner, made, progress=advance)


def _warn_of_unserved(planner: "Planner", made: "Plan") -> None:
    from proteus_cli.planning.explain import max_multiple
    from proteus_cli.units import format_rate

    multiple = max_multiple(planner, made.demand_qps)
    most = f"; all of {multiple:.2f} times this demand could be served" if multiple > 0 else ""
    console.warn(f"{format_rate(made.shortfall_qps)} of the demand stay unserved: the devices can't take more{most}")


def _warn_of_what_is_left_out(planner: "Planner") -> None:
    from proteus_cli.cli.options.plan_rules import unknown_devices

    distinct = {id(profile.variants): profile for profile in planner.profiles.values()}
    known = {(v.family, v.variant) for profile in distinct.values() for v in profile.variants}
    missing = [v.name for f in planner.catalog.families for v in f.variants if (f.name, v.name) not in known]
    if missing:
        console.warn(f"no device has a profile of {', '.join(missing)}: planned without")
    absent = unknown_devices(planner.rules, planner.profiles)
    if absent:
        console.warn(f"the catalog speaks of {', '.join(absent)}, which isn't in this fleet: planned without")


def _sweep(
    planner: "Planner", text: str, mix: "Mapping[str, float]", *, output: Path | None, plot: Path | None, json: bool
) -> None:
    from proteus_cli.cli.views.plan_tables import frontier_table
    from proteus_cli.planning.frontier import parse_sweep, sweep

    totals = parse_sweep(text)
    points = []
    with console.progress("planning") as advance:
        for point in sweep(planner, mix, totals):
            points.append(point)
            advance(f"{point.demand_qps:,.0f} qps", len(points) / len(totals))
    is_on_stdout = output is not None and not console.save(points, output)
    if output is not None and not is_on_stdout:
        console.say(f"wrote {output}")
    if plot is not None:
        from proteus_cli.reporting.frontier_plot import write_frontier

        write_frontier(plot, points)
        console.say(f"wrote {plot}")
    if json and not is_on_stdout:
        console.show_json(points)
    elif not is_on_stdout:
        console.show(frontier_table(points))


def _show(made: "Plan", explanation: Any) -> None:
    from proteus_cli.cli.views.plan_tables import explanation_tables, plan_table
    from proteus_cli.units import format_percent, format_rate

    if explanation is None:
        console.show(plan_table(made))
    else:
        console.show(explanation_tables(explanation, spent_on=made.rules.minimize))
    if made.effective_accuracy is not None and made.relative_accuracy is not None:
        console.say(
            f"serves {format_rate(sum(made.served_qps.values()))} of {format_rate(sum(made.demand_qps.values()))} at "
            f"effective accuracy {made.effective_accuracy:.4f} ({format_percent(made.relative_accuracy)} of the best)"
        )
