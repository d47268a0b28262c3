"""``proteus replay``: replay a trace in simulation or against a server, and report how requests ended."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from typer import Option

from proteus_cli.cli import console, options
from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.command_line.defaults import flags
from proteus_cli.errors import UsageError

if TYPE_CHECKING:
    from asyncio import Event
    from collections.abc import Iterable

    from proteus_cli.control.policies import Policy
    from proteus_cli.domain.plan import Plan
    from proteus_cli.domain.profile import Profile
    from proteus_cli.domain.report import Report
    from proteus_cli.domain.trace import Trace
    from proteus_cli.replay.loadgen import ReplayResult
    from proteus_cli.replay.target import HttpTarget, StatusReply
    from proteus_cli.simulation.conditions import Conditions
    from proteus_cli.store import Workspace

HEADROOM = 1.0  # policies that re-plan have forecasts of how arrivals scatter
LIVE_ONLY = {"--ca", "--inputs"}
SIMULATED_ONLY = {"--batching", "--load-time", "--max-unavailable", "--memory", "--jitter", "--fail"}
LAG_WARN_S = 0.005

_simulation = partial(Option, rich_help_panel=sections.SIMULATION)


class InputSource(StrEnum):
    """The inputs of requests to a server."""

    EVAL = "eval"
    RANDOM = "random"


def replay(
    context: typer.Context,
    trace: options.Trace,
    *,
    url: Annotated[str | None, Option(metavar="URL", help="Replay against the server at this URL.")] = None,
    ca: options.Ca = None,
    serve: Annotated[
        Path | None,
        Option(
            metavar="PLAN",
            autocompletion=completion.plans,
            help="Replay against a server that is started with this plan and stopped afterwards.",
        ),
    ] = None,
    emulate: Annotated[
        bool,
        Option(
            "--emulate",
            help="With --serve: emulate the plan's devices, with the times of their profiles.",
            rich_help_panel=sections.DEVICES,
        ),
    ] = False,
    inputs: Annotated[
        InputSource | None,
        Option(
            help="What requests to a server carry: rows of the eval splits in the workspace, whose answers are "
            "judged, or random ones.",
            show_default="eval, where a split fits",
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        _simulation(
            metavar="PLAN",
            autocompletion=completion.plans,
            help="Simulate from this plan.",
            show_default="a plan for the trace's first 10 s",
        ),
    ] = None,
    fleet: options.Fleet = None,
    policy: Annotated[
        str,
        Option(
            metavar="POLICY,…",
            autocompletion=completion.simulated_policies,
            help="The policies to compare, separated by commas, or `all`; docs/planning.md lists them.",
        ),
    ] = options.POLICY,
    headroom: options.Headroom = HEADROOM,
    attainment: options.Attainment = None,
    batching: Annotated[
        str | None,
        _simulation(
            metavar="RULE",
            autocompletion=completion.one_of("greedy", "proactive", "aimd", "nexus", "static-8"),
            help="The batching rule: proactive, aimd, nexus, greedy or static-N. Only in simulation.",
        ),
    ] = None,
    load_time: Annotated[
        float | None,
        _simulation(
            **options.DURATION,
            show_default="as profiled, while the device serves",
            help="How long a device serves nothing when it loads a variant. Only in simulation.",
        ),
    ] = None,
    max_unavailable: Annotated[
        float,
        _simulation(
            min=0,
            max=1,
            metavar="FRACTION",
            help="The largest part of a family's capacity that may be unavailable during a plan change, while devices "
            "load for `--load-time`. Only in simulation.",
        ),
    ] = 0.5,
    memory: options.Memory = None,
    jitter: Annotated[
        str | None,
        _simulation(
            metavar="p90|p95|p99",
            autocompletion=completion.one_of("p90", "p95", "p99"),
            help="Draw batch times from the profiled distribution, up to this percentile. Only in simulation.",
        ),
    ] = None,
    fail: Annotated[
        list[str] | None,
        _simulation(
            metavar="NAME@FROM..TO",
            help="Let a device fail for some time, such as `v100-3@60s..120s`, or a host with all of its devices, "
            "`a@60s..90s`. Repeatable. Only in simulation.",
        ),
    ] = None,
    scale_to: Annotated[
        float | None, Option(**options.RATE, help="Scale the trace, so that its busiest 10 s have this rate.")
    ] = None,
    seed: Annotated[
        int,
        Option(
            min=0,
            metavar="N",
            help="The seed for scaling, for jitter, and for traces that only count queries per second.",
        ),
    ] = 0,
    fail_on: Annotated[
        list[str] | None,
        Option(metavar="GATE", help="Exit with code 5 if this holds, such as `slo_violation_ratio>0.01`. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        Option("--output", "-o", metavar="FILE", dir_okay=False, help="Write the report as JSON; `-` is stdout."),
    ] = None,
    report: Annotated[
        Path | None, Option(metavar="HTML", dir_okay=False, help="Write the report as a page with plots.")
    ] = None,
    png: Annotated[Path | None, Option(metavar="DIR", file_okay=False, help="Write the plots as PNG files.")] = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Replay a trace: in simulation (the default), against a running server, or against one that is started for it.

    Requests are sent at the times of the trace, whether or not earlier ones were answered, and latency counts from
    those times. Requests to a server carry rows of the workspace's eval splits, where these fit its models, so that
    the report has the accuracy that was measured. The environment variable PROTEUS_TOKEN holds the token for a server
    that requires one.
    """
    from proteus_cli.reporting.gate import parse_gate
    from proteus_cli.store import Workspace

    _require_compatible(flags(context), url, serve, plan, emulate=emulate)
    gates = [parse_gate(text) for text in fail_on or ()]
    arrivals = _arrivals(trace, scale_to, seed)
    workspace, given = Workspace(workspace_dir), None
    if name := serve or plan:
        given = workspace.plan(name)
        workspace.require_current(given.inputs)
        given = given.with_attainment(attainment)
    made: Iterator[Report]
    if url is not None:
        made = _against_server(url, _sending(arrivals, workspace, ca, inputs), attainment)
    elif serve is not None and given is not None:
        made = _against_local_servers(
            _sending(arrivals, workspace, ca, inputs), workspace, given, policy, emulate=emulate
        )
    else:
        from proteus_cli.cli.simulating import Scenario, simulated

        profiles = _profiles(workspace, given, fleet)
        conditions = _conditions(profiles, load_time, max_unavailable, memory, jitter, fail or ())
        scenario = Scenario(workspace, profiles, arrivals, given, headroom, conditions, seed, attainment)
        made = simulated(scenario, _policies(policy, batching))
    reports, is_interrupted = _until_interrupted(made)
    _deliver(reports, is_list=url is None and _is_list(policy), output=output, page=report, png=png, json=json)
    if is_interrupted:
        raise KeyboardInterrupt
    for gate, each in product(gates, reports):
        gate.check(each)


def _require_compatible(
    given: set[str], url: str | None, serve: Path | None, plan: Path | None, *, emulate: bool
) -> None:
    targets = sum(option is not None for option in (url, serve, plan))
    if targets > 1:
        raise UsageError("Give one of `--url`, `--serve` and `--plan`.", hint="without any, the replay is simulated")
    if targets and "--fleet" in given:
        raise UsageError(
            "`--fleet` makes no sense with `--url`, `--serve` or `--plan`, which have their devices.",
            hint="a plan for a fleet is made by `proteus plan --fleet`, and simulated with `--plan`",
        )
    if emulate and serve is None:
        raise UsageError(
            "`--emulate` is for a server that is started for the replay.",
            hint="give its plan with `--serve`; a server at `--url` says itself whether its devices are emulated",
        )
    if url is None and serve is None and (live_only := sorted(LIVE_ONLY & given)):
        raise UsageError(
            f"`{live_only[0]}` is for replays against a server.", hint="give `--url` or `--serve`, or leave it out"
        )
    simulated_only = sorted(SIMULATED_ONLY & given)
    if simulated_only and (url is not None or serve is not None):
        raise UsageError(
            f"`{simulated_only[0]}` is for simulated replays.",
            hint="leave out `--url` or `--serve`, or leave out the option",
        )


def _arrivals(path: Path, peak_qps: float | None, seed: int) -> "Trace":
    import numpy as np

    from proteus_cli.replay.scaling import scaled_to
    from proteus_cli.replay.trace import read_trace

    to_expand, to_scale = np.random.default_rng(seed).spawn(2)
    arrivals = read_trace(path, rng=to_expand)
    return arrivals if peak_qps is None else scaled_to(arrivals, peak_qps, to_scale)


def _until_interrupted(reports: "Iterable[Report]") -> "tuple[list[Report], bool]":
    """The reports, and whether Ctrl-C came before the last. Raises `KeyboardInterrupt` if it came before the first."""
    done: list[Report] = []
    try:
        done.extend(reports)
    except KeyboardInterrupt:
        if not done:
            raise
        return done, True
    return done, False


def _is_list(policies: str) -> bool:
    """Whether several policies are asked for; then a report in JSON is a list, however many there are."""
    from proteus_cli.control.policies import ALL

    return "," in policies or policies.strip() == ALL


def _deliver(
    reports: "list[Report]", *, is_list: bool, output: Path | None, page: Path | None, png: Path | None, json: bool
) -> None:
    document = reports if is_list else reports[0]
    if output is not None:
        console.save(document, output)
    if page is not None:
        from proteus_cli.reporting.html_page import write_html

        write_html(page, reports)
        console.say(f"wrote {page}")
    if png is not None:
        from proteus_cli.reporting.plots.plots import write_png

        for path in write_png(png, reports):
            console.say(f"wrote {path}")
    if output == console.DASH:
        return
    from proteus_cli.reporting.terminal_tables import report_tables

    console.deliver(document, json=json, tables=() if json else report_tables(reports))


# --- in simulation


def _profiles(workspace: "Workspace", plan: "Plan | None", fleet: str | None) -> "Mapping[str, Profile]":
    """The profiles of the devices of a plan; without a plan, of the devices that `proteus plan` plans for."""
    from proteus_cli.cli.plan import profiles_to_plan_for
    from proteus_cli.store.sharing import with_sharing

    if plan is None:
        return profiles_to_plan_for(workspace, fleet)
    return with_sharing(workspace, workspace.profiles_of(plan))


def _conditions(
    profiles: "Mapping[str, Profile]", load_time_s: float | None, max_unavailable_frac: float,
    memory: Mapping[str, int] | None, jitter: str | None, failures: Sequence[str],
) -> "Conditions":  # fmt: skip
    from proteus_cli.serving.workspace.memory import memory_limits
    from proteus_cli.simulation.conditions import JITTERS, Conditions, parse_failure

    if memory and not any(each.memory_bytes for profile in profiles.values() for each in profile.variants):
        console.warn("the profiles know no memory of variants, so none stands by")
    if jitter is not None and jitter not in JITTERS:
        raise UsageError(f"No jitter `{jitter}`.", hint=f"there are: {', '.join(JITTERS)}")
    return Conditions(
        load_time_s=load_time_s,
        jitter=JITTERS[jitter] if jitter is not None else None,
        failures=tuple(parse_failure(text, profiles) for text in failures),
        memory_bytes=memory_limits(memory, {device: profile.device for device, profile in profiles.items()}),
        max_unavailable_frac=max_unavailable_frac,
    )


def _policies(names: str, batching: str | None) -> "Sequence[Policy]":
    from dataclasses import replace

    from proteus_cli.control.policies import batcher_named, policies_named

    policies = policies_named(names)
    return policies if batching is None else [replace(each, batching=batcher_named(batching)) for each in policies]


# --- against a server


class _Sending(NamedTuple):
    """A trace to be sent, with rows of the eval splits by family. ``ca`` is trusted.

    ``must_fit``: the families whose split must fit the model.
    """

    arrivals: "Trace"
    ca: Path | None
    eval_splits: Mapping[str, Path]
    must_fit: frozenset[str]


def _sending(arrivals: "Trace", workspace: "Workspace", ca: Path | None, inputs: InputSource | None) -> _Sending:
    """Raises `UsageError` where rows of eval splits are asked for, and a family has no split."""
    if inputs == InputSource.RANDOM:
        return _Sending(arrivals, ca, {}, frozenset())
    families = workspace.catalog().families if workspace.catalog_path.exists() else ()
    splits = {family.name: path for family in families if (path := workspace.eval_path(family)) is not None}
    must_fit = arrivals.families if inputs == InputSource.EVAL else tuple(arrivals.last_eval_rows())
    if lacking := [family for family in must_fit if family not in splits]:
        raise UsageError(
            f"No eval split of `{lacking[0]}` is known, so none of its rows can be sent, and no answer judged.",
            hint="set `eval` in engines/catalog.toml of the workspace, or send `--inputs random`",
        )
    return _Sending(arrivals, ca, splits, frozenset(must_fit))


async def _prepare(target: "HttpTarget", sending: _Sending) -> "StatusReply":
    """Make the requests. Returns the status of the server.

    Raises `ArtefactError` if a split does not fit that must; warns of the others.
    """
    last_rows = sending.arrivals.last_eval_rows() if sending.eval_splits else {}
    status = await target.prepare(sending.arrivals.families, sending.eval_splits, last_rows)
    for family, error in target.unfit.items():
        if family in sending.must_fit:
            raise error
        console.warn(f"{error.message.rstrip('.')}; random rows are sent to `{family}`, and not judged")
    if target.judged:
        console.say(f"sends rows of the eval split, and judges the answers: {', '.join(sorted(target.judged))}")
    return status


def _against_local_servers(
    sending: _Sending, workspace: "Workspace", given: "Plan", policies: str, *, emulate: bool
) -> "Iterator[Report]":
    """A report for each of the comma-separated policies, from a server that starts with ``given`` or its own plan."""
    from tempfile import TemporaryDirectory

    from proteus_cli.cli.simulating import starting_plan
    from proteus_cli.control.policies import live_policy_named
    from proteus_cli.planning.analysis.expectation import expecting
    from proteus_cli.planning.from_workspace import planner_settings
    from proteus_cli.replay.local_server import local_server
    from proteus_cli.store import write_json
    from proteus_cli.store.sharing import with_sharing

    profiles = with_sharing(workspace, workspace.profiles_of(given))
    for policy in [live_policy_named(name.strip()) for name in policies.split(",")]:
        planner = planner_settings(workspace, policy, given.headroom, profiles=profiles, rules=given.rules).make()
        plan = starting_plan(planner, policy, given, sending.arrivals)
        with TemporaryDirectory() as directory:
            path = Path(directory) / "plan.json"
            write_json(path, expecting(plan, planner.catalog, planner.profiles))
            console.say(f"starting a server with the policy {policy.name} …")
            with local_server(path, workspace.root, emulate=emulate) as url:
                yield from _against_server(url, sending, profiles=tuple(profiles.values()))


def _against_server(
    url: str, sending: _Sending, attainment: float | None = None, *, profiles: "Sequence[Profile]" = ()
) -> "Iterator[Report]":
    """The report of a replay against the server at ``url``; ``attainment`` replaces the targets of the server.

    ``profiles`` of the server, if they are known. After Ctrl-C no more requests are sent, and the report
    covers the requests before it. Raises `KeyboardInterrupt` after that report; `ServerError`; and `UsageError` for a
    bad ``ca``.
    """
    import asyncio

    import uvloop

    from proteus_cli.cli.servers import server_at
    from proteus_cli.replay.loadgen import replay
    from proteus_cli.units import format_duration

    async def sent() -> "tuple[ReplayResult, StatusReply, StatusReply]":
        async with server_at(url, sending.ca) as target:
            before = await _prepare(target, sending)
            with console.progress(f"replaying against {before.policy}") as advance, _first_interrupt() as stop:
                load = await replay(sending.arrivals, target, before.slo_s, lambda done: advance("", done), stop)
            return load, before, await target.status()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load, before, after = runner.run(sent())
    if load.lag_p99_s > LAG_WARN_S:
        console.warn(
            f"the load generator sent requests late (p99: {format_duration(load.lag_p99_s)}), and the latencies "
            "include that: this machine is too slow for the rate of the trace"
        )
    yield _report(load, before, after, sending.arrivals, attainment, profiles)
    if load.interrupted_s is not None:
        console.warn(f"interrupted after {load.interrupted_s:.1f} s of the trace: the report covers these")
        raise KeyboardInterrupt


def _report(
    load: "ReplayResult", before: "StatusReply", status: "StatusReply", arrivals: "Trace", attainment: float | None,
    profiles: "Sequence[Profile]",
) -> "Report":  # fmt: skip
    """``before`` and ``status``: the replies of the server before and after the replay."""
    from proteus_cli.domain.profile import noisy_cells
    from proteus_cli.domain.profile_changes import accuracy_by_variant
    from proteus_cli.domain.report import Replan
    from proteus_cli.reporting.measures import report

    changes = [(change.unix_s - load.started_unix_s, change) for change in status.changes]
    return report(
        load.records,
        policy=status.policy,
        mode="emulated" if status.emulated else "live",
        trace=arrivals.name,
        duration_s=arrivals.duration_s if load.interrupted_s is None else load.interrupted_s,
        slo_s=status.slo_s,
        best_accuracy=status.best_accuracy,
        estimated=status.estimated,
        attainment=status.attainment_target if attainment is None else dict.fromkeys(status.slo_s, attainment),
        devices=list(status.pace),
        replans=[Replan(at_s, c.reason, c.solve_s, c.swaps, c.activated, c.what) for at_s, c in changes if at_s >= 0],
        generator_lag_s=load.lag_p99_s,
        interrupted=load.interrupted_s is not None,
        noisy_cells=noisy_cells(profiles) if profiles else None,
        profiled=accuracy_by_variant(profiles),
        expected_attainment=status.expected_attainment(before),
    )


@contextmanager
def _first_interrupt() -> "Iterator[Event]":
    """An event that the first Ctrl-C within the block sets; the second one ends the program as usual."""
    import asyncio
    import signal

    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def set_once() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        stop.set()

    loop.add_signal_handler(signal.SIGINT, set_once)
    try:
        yield stop
    finally:
        loop.remove_signal_handler(signal.SIGINT)
