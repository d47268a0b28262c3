"""A trace replayed in real time, against a running server or one that is started for it."""

import asyncio
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import uvloop

from proteus_cli.cli import console
from proteus_cli.cli.options.replay import InputSource
from proteus_cli.cli.servers import server_at
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile, noisy_cells
from proteus_cli.domain.profile_changes import accuracy_by_variant
from proteus_cli.domain.report import Replan, Report
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import UsageError
from proteus_cli.replay.loadgen import ReplayResult, replay
from proteus_cli.replay.local_server import local_server
from proteus_cli.replay.target import HttpTarget, StatusReply
from proteus_cli.reporting.measures import report
from proteus_cli.store import Workspace, write_json
from proteus_cli.store.sharing import with_sharing
from proteus_cli.units import format_duration

LAG_WARN_S = 0.005


@dataclass(frozen=True, slots=True)
class Sending:
    """What is sent: a trace, with rows of eval splits where there are any, by family; ``ca`` is to be trusted.

    ``must_fit``: the families that must have a split that fits.
    """

    arrivals: Trace
    ca: Path | None
    eval_splits: Mapping[str, Path]
    must_fit: frozenset[str]

    @classmethod
    def of(cls, arrivals: Trace, workspace: Workspace, ca: Path | None, inputs: InputSource | None) -> "Sending":
        """Raises `UsageError` where rows of eval splits are asked for, and a family has none."""
        if inputs == InputSource.RANDOM:
            return cls(arrivals, ca, {}, frozenset())
        splits = _eval_splits(workspace)
        must_fit = arrivals.families if inputs == InputSource.EVAL else tuple(arrivals.last_eval_rows())
        if lacking := [family for family in must_fit if family not in splits]:
            raise UsageError(
                f"No eval split of `{lacking[0]}` is known, so none of its rows can be sent, and no answer judged.",
                hint="set `eval` in engines/catalog.toml of the workspace, or send `--inputs random`",
            )
        return cls(arrivals, ca, splits, frozenset(must_fit))

    async def prepare(self, target: HttpTarget) -> StatusReply:
        """The status of the server, once requests are made. Raises `ArtefactError` where a split must fit and doesn't.

        Where one need not, a warning says so.
        """
        last_rows = self.arrivals.last_eval_rows() if self.eval_splits else {}
        status = await target.prepare(self.arrivals.families, self.eval_splits, last_rows)
        for family, error in target.unfit.items():
            if family in self.must_fit:
                raise error
            console.warn(f"{error.message.rstrip('.')}; random rows are sent to `{family}`, and not judged")
        if target.judged:
            console.say(f"sends rows of the eval split, and judges the answers: {', '.join(sorted(target.judged))}")
        return status


def _eval_splits(workspace: Workspace) -> dict[str, Path]:
    """By family of the catalog, if the workspace has one."""
    if not workspace.catalog_path.exists():
        return {}
    paths = {family.name: workspace.eval_path(family) for family in workspace.catalog().families}
    return {name: path for name, path in paths.items() if path is not None}


def replayed_on_local_servers(
    sending: Sending, workspace: Workspace, given: Plan, policies: str, *, emulate: bool
) -> Iterator[Report]:
    """A report for each of the comma-separated policies, from a server that starts with ``given`` or its own plan."""
    from proteus_cli.cli.workflows.simulated_replay import starting_plan  # the planner, which takes a second to import
    from proteus_cli.control.policies import live_policy_named
    from proteus_cli.planning.analysis.expectation import expecting
    from proteus_cli.planning.from_workspace import planner_settings

    profiles = with_sharing(workspace, workspace.profiles_of(given))
    for policy in [live_policy_named(name.strip()) for name in policies.split(",")]:
        planner = planner_settings(workspace, policy, given.headroom, profiles=profiles, rules=given.rules).make()
        plan = starting_plan(planner, policy, given, sending.arrivals)
        with TemporaryDirectory() as directory:
            path = Path(directory) / "plan.json"
            write_json(path, expecting(plan, planner.catalog, planner.profiles))
            console.say(f"starting a server with the policy {policy.name} …")
            with local_server(path, workspace.root, emulate=emulate) as url:
                yield from replayed_against(url, sending, profiles=tuple(profiles.values()))


def replayed_against(
    url: str, sending: Sending, attainment: float | None = None, *, profiles: Sequence[Profile] = ()
) -> Iterator[Report]:
    """The report of a replay against the server at a URL; ``attainment`` replaces the targets of the server.

    ``profiles``: those that the server goes by, where they are known.

    After Ctrl-C no more requests are sent, and the report is on those that were. Raises `KeyboardInterrupt` after that
    report; `ServerError`; and `UsageError` for a bad ``ca``.
    """

    async def run() -> _Replayed:
        async with server_at(url, sending.ca) as target:
            before = await sending.prepare(target)
            with console.progress(f"replaying against {before.policy}") as advance, _first_interrupt() as stop:
                load = await replay(sending.arrivals, target, before.slo_s, lambda done: advance("", done), stop)
            return _Replayed(load, before, await target.status())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        replayed = runner.run(run())
    load = replayed.load
    if load.lag_p99_s > LAG_WARN_S:
        console.warn(
            f"the load generator sent requests late (p99: {format_duration(load.lag_p99_s)}), and the latencies "
            "include that: this machine is too slow for the rate of the trace"
        )
    yield _report(replayed, sending.arrivals, attainment, profiles)
    if load.interrupted_s is not None:
        console.warn(f"interrupted after {load.interrupted_s:.1f} s of the trace: the report covers these")
        raise KeyboardInterrupt


class _Replayed(NamedTuple):
    """What became of the requests of a replay, and what the server said of itself before and after it."""

    load: ReplayResult
    before: StatusReply
    after: StatusReply


def _report(replayed: _Replayed, arrivals: Trace, attainment: float | None, profiles: Sequence[Profile]) -> Report:
    load, before, status = replayed
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
def _first_interrupt() -> Iterator[asyncio.Event]:
    """An event that the first Ctrl-C within the block sets; the second one ends the program as usual."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def set_once() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        stop.set()

    loop.add_signal_handler(signal.SIGINT, set_once)
    try:
        yield stop
    finally:
        loop.remove_signal_handler(signal.SIGINT)
