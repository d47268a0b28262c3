"""What becomes of a plan that was made, or of a sweep of plans: saved, shown, and warned of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from proteus_cli.cli import console
from proteus_cli.cli.views.plan_tables import (
    attainment_table,
    cascades_table,
    estimate_note,
    explanation_tables,
    frontier_table,
    plan_table,
    proven,
)
from proteus_cli.cli.workflows.planning import (
    has_shortfall,
    noisy_placements,
    short_families,
    why_families_lack_devices,
    why_no_cascade,
)
from proteus_cli.domain.plan import FrontierPoint, Plan
from proteus_cli.domain.profile_changes import estimated_families
from proteus_cli.planning.analysis.explain import Explanation, explain, largest_multiple
from proteus_cli.planning.planner import Planner
from proteus_cli.units import format_accuracy, format_percent, format_rate, mark_estimate


def deliver(planner: Planner, made: Plan, output: Path, *, explains: bool, json: bool) -> None:
    """Save a plan, show it, and warn if it is not optimal or leaves a shortfall."""
    console.save(made, output)
    explanation = _explained(planner, made) if explains else None
    if output != console.DASH and json:
        console.show_json(made if explanation is None else {"plan": made, "explanation": explanation})
    elif output != console.DASH:
        _show(planner, made, explanation)
        console.say(f"wrote {output}")
    _warn(planner, made)


def deliver_sweep(
    planner: Planner,
    mix: Mapping[str, float],
    points: Sequence[FrontierPoint],
    output: Path | None,
    plot: Path | None,
    *,
    json: bool,
) -> None:
    """Save a sweep over demands of that ``mix``, draw it, and show it."""
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


def _explained(planner: Planner, made: Plan) -> Explanation:
    with console.progress("pricing what limits the plan") as advance:
        return explain(planner, made, progress=advance)


def _show(planner: Planner, made: Plan, explanation: Explanation | None) -> None:
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


def _warn(planner: Planner, made: Plan) -> None:
    if planner.rules.cascades and not made.cascades:
        console.say(f"no cascade is used: {why_no_cascade(planner.profiles, made)}")
    if made.solver.status != "optimal":
        console.warn(f"the solver reached its time limit: {proven(made.solver)}")
    if noisy := noisy_placements(planner.profiles, made):
        listed = ", ".join(noisy)
        console.warn(f"noisy cells ({listed}): the plan's rates may be too low; `proteus profile` measures them again")
    if has_shortfall(made):
        multiple = largest_multiple(planner, made.demand_qps)
        least = "at least " if multiple.is_lower_bound else ""
        possible = f"; they could serve {least}{multiple.value:.2f} times this demand" if multiple.value > 0 else ""
        short = f" ({short_families(made)})"
        console.warn(f"the devices cannot serve {format_rate(made.shortfall_qps)} of the demand{short}{possible}")
        if why := why_families_lack_devices(made):
            console.warn(why)
