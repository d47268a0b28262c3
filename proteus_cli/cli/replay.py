"""``proteus replay``: a trace against the simulator or a server, and what came of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proteus_cli.cli import console
from proteus_cli.cli.options import (
    DEFAULT_HEADROOM,
    DEFAULT_POLICY,
    DEFAULT_WORKSPACE,
    RATE,
    FleetOption,
    HeadroomOption,
    JsonOption,
    WorkspaceOption,
    environment,
    flags,
)
from proteus_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proteus_cli.domain.plan import Plan
    from proteus_cli.domain.report import Report
    from proteus_cli.domain.trace import Trace
    from proteus_cli.planning.planner import Planner
    from proteus_cli.store import Workspace

FIRST_SECONDS = 10.0
LAG_WARN_S = 0.005


def replay(
    context: typer.Context,
    trace: Annotated[Path, typer.Argument(help="The trace: CSV, plain or .gz.")],
    *,
    url: Annotated[str | None, typer.Option(help="Replay against the server at this URL.")] = None,
    serve: Annotated[
        Path | None, typer.Option(metavar="PLAN", help="Replay against this plan, served for the length of the replay.")
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="PLAN", help="Simulate from this plan.", show_default="a plan for the trace's first 10 s"),
    ] = None,
    fleet: FleetOption = None,
    policy: Annotated[
        str,
        typer.Option(
            envvar=environment("policy"),
            help="Policies to compare, comma-separated: proteus, most-accurate, least-accurate.",
        ),
    ] = DEFAULT_POLICY,
    headroom: HeadroomOption = DEFAULT_HEADROOM,
    scale_to: Annotated[
        float | None, typer.Option(**RATE, help="Scale the trace so that its busiest 10 s have this rate.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="For traces that are expanded or scaled.")] = 0,
    fail_on: Annotated[
        list[str] | None, typer.Option(metavar="GATE", help="Exit 5 where true: `slo_violation_ratio>0.01`.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the report as JSON; `-` is stdout.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="HTML", help="Write a page with plots.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the plots as PNG files.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    json: JsonOption = False,
) -> None:
    """Replay a trace: in simulation (default), against a running server, or against a plan that is served for it.

    Requests leave when the trace says, answered or not, and latency counts from then.
    """
    from proteus_cli.reporting.gate import parse_gate
    from proteus_cli.store import Workspace

    if sum(option is not None for option in (url, serve, plan)) > 1:
        raise UsageError("Give one of `--url`, `--serve` and `--plan`.", hint="without any, the replay is simulated")
    has_devices = any(option is not None for option in (url, serve, plan))
    if has_devices and "--fleet" in flags(context):
        raise UsageError(
            "`--fleet` makes no sense with `--url`, `--serve` or `--plan`, which have their devices.",
            hint="a plan for a fleet is made by `proteus plan --fleet`, and simulated with `--plan`",
        )
    gates = [parse_gate(text) for text in fail_on or ()]
    arrivals = _arrivals(trace, scale_to, seed)
    place = Workspace(workspace)
    if url is not None:
        reports = [_against(url, arrivals)]
    elif serve is not None:
        reports = list(_served(arrivals, place, _current(place, serve), policy))
    else:
        given = _current(place, plan) if plan is not None else None
        reports = list(_simulated(arrivals, place, given, fleet, policy, headroom))
    _deliver(reports, output=output, page=report, png=png, json=json)
    for gate in gates:
        for each in reports:
            gate.check(each)


def _arrivals(path: Path, peak_qps: float | None, seed: int) -> "Trace":
    import numpy as np

    from proteus_cli.replay.trace import read_trace, scaled_to

    to_expand, to_scale = np.random.default_rng(seed).spawn(2)
    arrivals = read_trace(path, rng=to_expand)
    return arrivals if peak_qps is None else scaled_to(arrivals, peak_qps, to_scale)


def _current(place: "Workspace", name: Path) -> "Plan":
    plan = place.plan(name)
    place.require_current(plan.inputs)
    return plan


def _simulated(
    arrivals: "Trace",
    place: "Workspace",
    given: "Plan | None",
    fleet: str | None,
    policies: str,
    headroom: float,
) -> "Iterator[Report]":
    from proteus_cli.cli.planning import fleet_of, planner_for
    from proteus_cli.control.policies import policy_named
    from proteus_cli.domain.demand import check_demand
    from proteus_cli.domain.profile import best_accuracy
    from proteus_cli.reporting.measures import report
    from proteus_cli.simulation.run import simulate

    catalog = place.catalog()
    profiles = fleet_of(place, fleet) if given is None else place.profiles_of(given)
    check_demand(arrivals.demand(0.0, FIRST_SECONDS), catalog)
    for rule in [policy_named(name.strip()) for name in policies.split(",")]:
        planner = planner_for(
            place,
            rule.name,
            given.headroom if given is not None else headroom,
            profiles=profiles,
            rules=given.rules if given is not None else None,
        )
        plan = _start(planner, given, rule.name, arrivals)
        with console.progress(f"simulating {rule.name}") as advance:
            found = simulate(arrivals, plan, catalog, profiles, rule, planner, progress=lambda done: advance("", done))
        yield report(
            found.ended,
            policy=rule.name,
            mode="simulated",
            trace=arrivals.name,
            duration_s=arrivals.duration_s,
            slo_s=catalog.slo_s(),
            best_accuracy=best_accuracy(profiles.values()),
            devices=plan.devices,
            replans=found.replans,
        )


def _start(planner: "Planner", given: "Plan | None", policy: str, arrivals: "Trace") -> "Plan":
    """The plan to start from: as given, or for the same demand by another policy, or for the trace's first seconds."""
    if given is not None and given.policy == policy:
        return given
    if given is not None:
        return planner(given.demand_qps)
    return planner(arrivals.demand(0.0, min(FIRST_SECONDS, max(arrivals.duration_s, 1.0))))


def _served(arrivals: "Trace", place: "Workspace", given: "Plan", policies: str) -> "Iterator[Report]":
    from tempfile import TemporaryDirectory

    from proteus_cli.cli.planning import planner_for
    from proteus_cli.control.policies import policy_named
    from proteus_cli.replay.own_server import own_server
    from proteus_cli.store import write_json

    profiles = place.profiles_of(given)
    for rule in [policy_named(name.strip()) for name in policies.split(",")]:
        planner = planner_for(place, rule.name, given.headroom, profiles=profiles, rules=given.rules)
        plan = _start(planner, given, rule.name, arrivals)
        with TemporaryDirectory() as directory:
            path = Path(directory) / "plan.json"
            write_json(path, plan)
            console.say(f"serving {rule.name} …")
            with own_server(path, place.root) as url:
                yield _against(url, arrivals)


def _against(url: str, arrivals: "Trace") -> "Report":
    import asyncio

    import uvloop

    from proteus_cli.domain.report import Replan
    from proteus_cli.replay.loadgen import Load, replay
    from proteus_cli.replay.target import ServerStatus, http_target
    from proteus_cli.reporting.measures import report
    from proteus_cli.units import format_duration

    async def run() -> tuple[Load, ServerStatus]:
        async with http_target(url) as target:
            before = await target.prepare(arrivals.families)
            with console.progress(f"replaying against {before.policy}") as advance:
                load = await replay(arrivals, target, before.slo_s, lambda done: advance("", done))
            return load, await target.status()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load, status = runner.run(run())
    if load.lag_p99_s > LAG_WARN_S:
        console.warn(
            f"the load generator itself was late: p99 {format_duration(load.lag_p99_s)}; "
            "the latencies include that, so the machine is too small for this rate"
        )
    changes = [(change["unix_s"] - load.started_unix_s, change) for change in status.changes]
    return report(
        load.ended,
        policy=status.policy,
        mode="live",
        trace=arrivals.name,
        duration_s=arrivals.duration_s,
        slo_s=status.slo_s,
        best_accuracy=status.best_accuracy,
        devices=list(status.pace),
        replans=[Replan(at_s, c["reason"], c["solve_s"], c["swaps"]) for at_s, c in changes if at_s >= 0],
        generator_lag_s=load.lag_p99_s,
    )


def _deliver(reports: "list[Report]", *, output: Path | None, page: Path | None, png: Path | None, json: bool) -> None:
    document = reports[0] if len(reports) == 1 else reports
    is_on_stdout = False
    if output is not None:
        is_on_stdout = not console.save(document, output)
    if page is not None:
        from proteus_cli.reporting.html import write_html

        write_html(page, reports)
        console.say(f"wrote {page}")
    if png is not None:
        from proteus_cli.reporting.plots import write_png

        for path in write_png(png, reports):
            console.say(f"wrote {path}")
    if json:
        if not is_on_stdout:
            console.show_json(document)
    elif not is_on_stdout:
        from proteus_cli.reporting.table import comparison_table, timeline_table

        console.show(comparison_table(reports))
        console.show(timeline_table(reports))
