"""``proteus replay``: replay a trace in simulation or against a server, and report how requests ended."""

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from proteus_cli.cli import console
from proteus_cli.cli.command_line.defaults import flags
from proteus_cli.cli.options import common
from proteus_cli.cli.options import replay as options
from proteus_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from proteus_cli.domain.plan import Plan
    from proteus_cli.domain.report import Report
    from proteus_cli.domain.trace import Trace
    from proteus_cli.store import Workspace


def replay(
    context: typer.Context,
    trace: common.Trace,
    *,
    url: options.Url = None,
    ca: common.Ca = None,
    serve: options.Serve = None,
    emulate: options.Emulate = False,
    inputs: options.Inputs = None,
    plan: options.Plan = None,
    fleet: common.Fleet = None,
    policy: options.Policy = common.POLICY,
    headroom: common.Headroom = options.HEADROOM,
    attainment: common.Attainment = None,
    batching: options.Batching = None,
    load_time: options.LoadTime = None,
    max_unavailable: options.MaxUnavailable = 0.5,
    memory: common.Memory = None,
    jitter: options.Jitter = None,
    fail: options.Fail = None,
    scale_to: options.ScaleTo = None,
    seed: options.Seed = 0,
    fail_on: options.FailOn = None,
    output: options.Output = None,
    report: options.Report = None,
    png: options.Png = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
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
    workspace = Workspace(workspace_dir)
    given = _up_to_date_plan(workspace, serve or plan, attainment)
    if url is not None or serve is not None:
        made = _live(arrivals, workspace, url, given, policy, ca, attainment, inputs, emulate=emulate)
    else:
        from proteus_cli.cli.workflows.simulation_options import SimulationOptions

        asked = SimulationOptions(fleet, headroom, batching, load_time, max_unavailable, memory, jitter, fail or ())
        made = asked.simulated(arrivals, workspace, given, policy, seed, attainment)
    reports = _delivered(made, is_list=url is None and _is_list(policy), output=output, page=report, png=png, json=json)
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
    if url is None and serve is None and (live_only := sorted(options.LIVE_ONLY & given)):
        raise UsageError(
            f"`{live_only[0]}` is for replays against a server.", hint="give `--url` or `--serve`, or leave it out"
        )
    simulated_only = sorted(options.SIMULATED_ONLY & given)
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


def _up_to_date_plan(workspace: "Workspace", name: Path | None, attainment: float | None) -> "Plan | None":
    """The plan of that name, if one is given, with the target that is given.

    Raises `ArtefactError` if an input of the plan has changed.
    """
    if name is None:
        return None
    plan = workspace.plan(name)
    workspace.require_current(plan.inputs)
    return plan.with_attainment(attainment)


def _live(
    arrivals: "Trace", workspace: "Workspace", url: str | None, given: "Plan | None", policies: str, ca: Path | None,
    attainment: float | None, inputs: options.InputSource | None, *, emulate: bool,
) -> "Iterator[Report]":  # fmt: skip
    """The report of the server at ``url``, or those of servers that are started with a plan."""
    from proteus_cli.cli.workflows.live_replay import Sending, replayed_against, replayed_on_local_servers

    sending = Sending.of(arrivals, workspace, ca, inputs)
    if url is not None:
        return replayed_against(url, sending, attainment)
    assert given is not None  # noqa: S101 - without a URL, there is a plan
    return replayed_on_local_servers(sending, workspace, given, policies, emulate=emulate)


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


def _delivered(
    made: "Iterable[Report]", *, is_list: bool, output: Path | None, page: Path | None, png: Path | None, json: bool
) -> "Sequence[Report]":
    """The reports, delivered. Raises `KeyboardInterrupt` after that, if Ctrl-C came before the last of them."""
    reports, is_interrupted = _until_interrupted(made)
    _deliver(reports, is_list=is_list, output=output, page=page, png=png, json=json)
    if is_interrupted:
        raise KeyboardInterrupt
    return reports


def _deliver(
    reports: "list[Report]", *, is_list: bool, output: Path | None, page: Path | None, png: Path | None, json: bool
) -> None:
    document = reports if is_list else reports[0]
    if output is not None:
        console.save(document, output)
    _draw(reports, page, png)
    if output == console.DASH:
        return
    if json:
        console.show_json(document)
    else:
        from proteus_cli.reporting.terminal_tables import report_tables

        for table in report_tables(reports):
            console.show(table)


def _draw(reports: "list[Report]", page: Path | None, png: Path | None) -> None:
    if page is not None:
        from proteus_cli.reporting.html_page import write_html

        write_html(page, reports)
        console.say(f"wrote {page}")
    if png is not None:
        from proteus_cli.reporting.plots.plots import write_png

        for path in write_png(png, reports):
            console.say(f"wrote {path}")
