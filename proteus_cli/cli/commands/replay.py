"""``proteus replay``: a trace against the simulator or a server, and what came of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proteus_cli.cli import console
from proteus_cli.cli.options.common import (
    DEFAULT_POLICY,
    DEFAULT_WORKSPACE,
    DURATION,
    RATE,
    REPLAY_HEADROOM,
    FleetOption,
    HeadroomOption,
    JsonOption,
    WorkspaceOption,
    flags,
)
from proteus_cli.cli.options.renamed import environment
from proteus_cli.errors import UsageError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Container, Iterator, Sequence

    from proteus_cli.control.policies import Policy
    from proteus_cli.domain.plan import Plan
    from proteus_cli.domain.report import Report
    from proteus_cli.domain.trace import Trace
    from proteus_cli.simulation.conditions import Conditions
    from proteus_cli.store import Workspace

LAG_WARN_S = 0.005


def replay(
    context: typer.Context,
    trace: Annotated[Path, typer.Argument(help="The trace: CSV, plain or .gz.")],
    *,
    url: Annotated[str | None, typer.Option(help="Replay against the server at this URL.")] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Trust servers whose certificate is signed by this one (PEM).")
    ] = None,
    serve: Annotated[
        Path | None, typer.Option(metavar="PLAN", help="Replay against this plan, served for the length of the replay.")
    ] = None,
    emulate: Annotated[
        bool, typer.Option("--emulate", help="With --serve: emulate the plan's devices, by their profiles.")
    ] = False,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="PLAN", help="Simulate from this plan.", show_default="a plan for the trace's first 10 s"),
    ] = None,
    fleet: FleetOption = None,
    policy: Annotated[
        str,
        typer.Option(
            envvar=environment("policy"),
            help="Policies to compare, comma-separated, or `all`; docs/policies.md says which there are.",
        ),
    ] = DEFAULT_POLICY,
    headroom: HeadroomOption = REPLAY_HEADROOM,
    batching: Annotated[
        str | None,
        typer.Option(help="Form batches by another rule: proteus, aimd, nexus, greedy, or static-N. Simulation only."),
    ] = None,
    load_time: Annotated[
        float | None,
        typer.Option(
            **DURATION,
            help="A device serves nothing for so long when it loads a variant. Simulation only.",
            show_default="as profiled, beside serving",
        ),
    ] = None,
    jitter: Annotated[
        str | None,
        typer.Option(
            metavar="p90|p95|p99", help="Batch times scatter as profiled, up to that percentile. Simulation only."
        ),
    ] = None,
    fail: Annotated[
        list[str] | None,
        typer.Option(metavar="DEVICE@FROM..TO", help="Lose a device for some time, like v100-3@60s..120s. Repeatable."),
    ] = None,
    scale_to: Annotated[
        float | None, typer.Option(**RATE, help="Scale the trace so that its busiest 10 s have this rate.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="For traces that are expanded or scaled, and jitter.")] = 0,
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

    Requests leave when the trace says, answered or not, and latency counts from then. The environment variable
    PROTEUS_TOKEN holds the token for a server that wants one.
    """
    from proteus_cli.cli.workflows.simulated_replay import Setting, simulated
    from proteus_cli.planning.from_workspace import fleet_of
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
    if emulate and serve is None:
        raise UsageError(
            "`--emulate` is for a server that is started for the replay.",
            hint="give its plan with `--serve`; a server at `--url` says itself whether its devices are emulated",
        )
    _require_simulation(context, url, serve)
    gates = [parse_gate(text) for text in fail_on or ()]
    arrivals, is_interrupted = _arrivals(trace, scale_to, seed), False
    place = Workspace(workspace)
    if url is not None:
        reports, is_list = [_against(url, arrivals, ca)], False
    elif serve is not None:
        reports = list(_served(arrivals, place, _current(place, serve), policy, ca, emulate=emulate))
        is_list = len(reports) > 1
    else:
        given = _current(place, plan) if plan is not None else None
        profiles = fleet_of(place, fleet) if given is None else place.profiles_of(given)
        conditions = _conditions(load_time, jitter, fail or (), profiles)
        setting = Setting(place, profiles, arrivals, given, headroom, conditions, seed)
        policies = _policies(policy, batching)
        reports, is_interrupted = _until_interrupted(simulated(setting, policies))
        is_list = len(policies) > 1
    _deliver(reports, is_list=is_list, output=output, page=report, png=png, json=json)
    if is_interrupted:
        raise KeyboardInterrupt
    for gate in gates:
        for each in reports:
            gate.check(each)


_SIMULATED_ONLY = {"--batching", "--load-time", "--jitter", "--fail"}


def _require_simulation(context: typer.Context, url: str | None, serve: Path | None) -> None:
    only = sorted(_SIMULATED_ONLY & flags(context))
    if only and (url is not None or serve is not None):
        raise UsageError(
            f"`{only[0]}` is for simulated replays.", hint="leave out `--url` or `--serve`, or leave out the option"
        )


def _policies(names: str, batching: str | None) -> "Sequence[Policy]":
    from dataclasses import replace

    from proteus_cli.control.policies import batcher_named, policies_named

    policies = policies_named(names)
    if batching is None:
        return policies
    return [replace(policy, batching=batcher_named(batching)) for policy in policies]


def _conditions(
    load_time_s: float | None, jitter: str | None, failures: "Sequence[str]", devices: "Container[str]"
) -> "Conditions":
    from proteus_cli.simulation.conditions import JITTERS, Conditions, parse_failure

    if jitter is not None and jitter not in JITTERS:
        raise UsageError(f"No jitter `{jitter}`.", hint=f"there are: {', '.join(JITTERS)}")
    return Conditions(
        load_time_s=load_time_s,
        jitter=JITTERS[jitter] if jitter is not None else None,
        failures=tuple(parse_failure(text, devices) for text in failures),
    )


def _until_interrupted(reports: "Iterator[Report]") -> "tuple[list[Report], bool]":
    """The reports, and whether Ctrl-C came before the last; where it came before the first, it goes on."""
    done: list[Report] = []
    try:
        done.extend(reports)
    except KeyboardInterrupt:
        if not done:
            raise
        return done, True
    return done, False


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


def _served(
    arrivals: "Trace", place: "Workspace", given: "Plan", policies: str, ca: Path | None, *, emulate: bool
) -> "Iterator[Report]":
    from tempfile import TemporaryDirectory

    from proteus_cli.cli.workflows.simulated_replay import starting_plan
    from proteus_cli.control.policies import live_policy_named
    from proteus_cli.planning.from_workspace import planner_for
    from proteus_cli.replay.local_server import local_server
    from proteus_cli.store import write_json

    profiles = place.profiles_of(given)
    for rule in [live_policy_named(name.strip()) for name in policies.split(",")]:
        planner = planner_for(place, rule, given.headroom, profiles=profiles, rules=given.rules)
        plan = starting_plan(planner, rule, given, arrivals)
        with TemporaryDirectory() as directory:
            path = Path(directory) / "plan.json"
            write_json(path, plan)
            console.say(f"serving {rule.name} …")
            with local_server(path, place.root, emulate=emulate) as url:
                yield _against(url, arrivals, ca)


def _against(url: str, arrivals: "Trace", ca: Path | None) -> "Report":
    import asyncio
    import os

    import uvloop

    from proteus_cli.domain.report import Replan
    from proteus_cli.replay.loadgen import Load, replay
    from proteus_cli.replay.target import ServerStatus, http_target
    from proteus_cli.reporting.measures import report
    from proteus_cli.units import format_duration

    async def run() -> tuple[Load, ServerStatus]:
        token = os.environ.get(environment("token"))
        async with http_target(url, token, _trusting(ca)) as target:
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
        mode="emulated" if status.emulated else "live",
        trace=arrivals.name,
        duration_s=arrivals.duration_s,
        slo_s=status.slo_s,
        best_accuracy=status.best_accuracy,
        devices=list(status.pace),
        replans=[Replan(at_s, c["reason"], c["solve_s"], c["swaps"]) for at_s, c in changes if at_s >= 0],
        generator_lag_s=load.lag_p99_s,
    )


def _trusting(ca: Path | None) -> "ssl.SSLContext | None":
    import ssl

    if ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # also where it is no certificate
        raise UsageError(f"`{ca}` holds no certificate that can be read: {error}.", hint="it must be PEM") from error


def _deliver(
    reports: "list[Report]", *, is_list: bool, output: Path | None, page: Path | None, png: Path | None, json: bool
) -> None:
    """``is_list``: several were asked for, however many there are."""
    document = reports if is_list else reports[0]
    is_on_stdout = False
    if output is not None:
        is_on_stdout = not console.save(document, output)
    if page is not None:
        from proteus_cli.reporting.html_page import write_html

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
        from proteus_cli.reporting.terminal_tables import comparison_table, timeline_table

        console.show(comparison_table(reports))
        console.show(timeline_table(reports))
