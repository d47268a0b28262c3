"""Where things run: the sample zoo on all cores but one, which client and front end have for themselves.

On machines of their own, clients and models don't take each other's time. Here they would: what the zoo was profiled
to carry could not be carried, and everything would be measured but adaptation.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from urllib.request import Request, urlopen

import numpy as np
import uvloop

from benchmarks.adaptation.results import LEAST_ACCURATE, MEAN, MOST_ACCURATE, ORACLE, PEAK, PROTEUS
from proteus_cli.backends.affinity import pinned, usable_cores
from proteus_cli.backends.free_memory import free_bytes
from proteus_cli.cli.simulating import Scenario, first_demand, simulated, starting_plan
from proteus_cli.control.policies import PROTEUS as POLICY
from proteus_cli.control.policies import Policy, policy_named
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.profile_changes import best_accuracy
from proteus_cli.domain.report import Replan, Report
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.trace import Trace
from proteus_cli.planning.analysis.explain import max_multiple
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.planning.planner import Planner
from proteus_cli.replay.loadgen import ReplayResult, replay
from proteus_cli.replay.local_server import local_server
from proteus_cli.replay.synthesis import Diurnal, make_trace
from proteus_cli.replay.target import StatusReply, http_target
from proteus_cli.reporting.measures import report
from proteus_cli.serving.workspace.memory import memory_limits
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.store import Workspace, write_json

LOWEST, PEAK_MULTIPLE = 0.3, 3.0  # of what the most accurate variants carry
HEADROOM = 1.2  # of static plans, as `proteus plan` has it; proteus keeps room by itself, so that its plans need none
WARM_WITHIN_S = 60.0
BUSY_FRAC = 0.3  # about what client and front end need of a core
WORK = """
import os, sys, time
core, busy_frac = int(sys.argv[1]), float(sys.argv[2])
os.sched_setaffinity(0, {core})
while True:
    stop_s = time.perf_counter() + 0.001 * busy_frac
    while time.perf_counter() < stop_s:
        pass
    time.sleep(0.001 * (1 - busy_frac))
"""
RULES = Rules(residency="memory")  # so few devices must share families, and keep variants beside each other


@dataclass
class Lab:
    """A profiled workspace, and the cores on which the client runs."""

    root: Path
    client_cores: tuple[int, ...]

    @property
    def place(self) -> Workspace:
        return Workspace(self.root)

    @cached_property
    def profiles(self) -> dict[str, Profile]:
        return self.place.profiles()

    @cached_property
    def shares(self) -> dict[str, float]:
        names = self.place.catalog().names
        return dict.fromkeys(names, 1 / len(names))

    @cached_property
    def most_accurate_qps(self) -> float:
        """What the most accurate variants carry, of all families alike."""
        return max_multiple(self.planner(policy_named("most-accurate"), 1.0), self.shares)

    def planner(
        self,
        policy: Policy,
        headroom: float,
        rules: Rules = RULES,
        *,
        profiles: Mapping[str, Profile] | None = None,
    ) -> Planner:
        """For the devices of ``profiles``; None: for all."""
        return planner_settings(
            self.place, policy, headroom, profiles=self.profiles if profiles is None else profiles, rules=rules
        ).make()

    def trace(self, lasts_s: float, seed: int) -> Trace:
        """One day of so many seconds: from far less than the most accurate variants carry to 3 times that, and back."""
        shape = Diurnal(PEAK_MULTIPLE * self.most_accurate_qps)
        rng, low_qps = np.random.default_rng(seed), LOWEST * self.most_accurate_qps
        return make_trace("day", shape, rate_qps=low_qps, duration_s=lasts_s, shares=self.shares, rng=rng)

    # --- plans

    def first_plan(self, trace: Trace, rules: Rules = RULES) -> Plan:
        """What proteus starts from, and by which rules it goes on."""
        rule = POLICY.replanning
        assert rule is not None
        return self.planner(POLICY, 1.0, rules)(rule.initial_demand(first_demand(trace), self.place.catalog().slo_s()))

    def plans(self, trace: Trace) -> dict[str, Plan]:
        """What each of the servers is started with."""
        static = self.planner(POLICY, HEADROOM)
        plans = {
            PROTEUS: self.first_plan(trace),
            MEAN: static(trace.demand(0.0, trace.duration_s)),
            PEAK: static(trace.peak_demand()),
        }
        for name, policy in ((MOST_ACCURATE, "most-accurate"), (LEAST_ACCURATE, "least-accurate")):
            rule = policy_named(policy)
            plans[name] = starting_plan(self.planner(rule, HEADROOM), rule, None, trace)
        return plans

    # --- runs

    def live(self, name: str, plan: Plan, trace: Trace, *more: str) -> tuple[Report, ReplayResult]:
        """The trace against a server with that plan, which only proteus may change; ``more`` are options of it."""
        path = self.place.plans_dir / "adaptation.json"
        write_json(path, plan)
        options = ("--set=plan-history=1000", f"--replan={'auto' if name == PROTEUS else 'off'}", *more)
        with local_server(path, self.root, options=options) as url, pinned(self.client_cores):
            until_warm(url)
            load, status = replayed(url, trace)
        assert len(load.records) == len(trace), "each request must end once"
        return self._reported(name, trace, load, status), load

    def simulated(self, name: str, plan: Plan, trace: Trace) -> Report:
        policy = policy_named("oracle") if name == ORACLE else POLICY
        devices = {device: profile.device for device, profile in self.profiles.items()}
        conditions = Conditions(memory_bytes=memory_limits(None, devices, free_bytes()))  # as of the live server
        scenario = Scenario(self.place, self.profiles, trace, plan, plan.headroom, conditions, 0)
        (found,) = simulated(scenario, [policy])
        return found

    def _reported(self, name: str, trace: Trace, load: ReplayResult, status: StatusReply) -> Report:
        changes = [(change.unix_s - load.started_unix_s, change) for change in status.changes]
        return report(
            load.records,
            policy=name,
            mode="emulated" if status.emulated else "live",
            trace=trace.name,
            duration_s=trace.duration_s,
            slo_s=status.slo_s,
            best_accuracy=best_accuracy(self.profiles.values()),
            devices=list(status.pace),
            replans=[
                Replan(at_s, c.reason, c.solve_s, c.swaps, c.activated, c.what) for at_s, c in changes if at_s >= 0
            ],
            generator_lag_s=load.lag_p99_s,
        )


def replayed(
    url: str, trace: Trace, eval_splits: Mapping[str, Path] = MappingProxyType({})
) -> tuple[ReplayResult, StatusReply]:
    """What became of a trace that was sent to a server, with rows of eval splits by family, and its status then."""

    async def run() -> tuple[ReplayResult, StatusReply]:
        async with http_target(url) as target:
            before = await target.prepare(trace.families, eval_splits)
            load = await replay(trace, target, before.slo_s)
            return load, await target.status()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def until_warm(url: str, token: str = "") -> None:
    """Wait for the solver, if there is one: how fast a server starts is another question."""
    stop_s, headers = time.monotonic() + WARM_WITHIN_S, {"Authorization": f"Bearer {token}"} if token else {}
    while True:
        asked = Request(f"{url}/v2/proteus/status", headers=headers)  # noqa: S310 - of our own server
        with urlopen(asked) as reply:  # noqa: S310 - of our own server
            solver = json.load(reply)["solver"]
        if solver is None or solver["is_warm"]:
            return
        assert time.monotonic() < stop_s, "the solver does not get ready"
        time.sleep(0.1)


def laboratory(root: Path, budget: str) -> Lab:
    """The sample zoo in a new workspace, profiled for so long on all cores but the last.

    That is about as busy meanwhile as client and front end make it: a core whose neighbour works may be slower, and
    nothing would run as fast as was measured.
    """
    *cores, last = _cores()
    proteus("init", str(root))
    (root / "proteus.toml").write_text(f"[devices]\ncpu = {[[core] for core in cores]}\n")
    with _busy(last):
        proteus("profile", "--budget", budget, "--workspace", str(root))
    return Lab(root, (last,))


def profiled_lab(root: Path) -> Lab:
    """A workspace whose devices are profiled, and leave out the last core."""
    return Lab(root, _cores()[-1:])


def _cores() -> tuple[int, ...]:
    cores = usable_cores()
    if len(cores) < 2:
        raise SystemExit("needs two cores: one for models, one for the client and the front end")
    return tuple(cores)


@contextmanager
def _busy(core: int) -> Iterator[None]:
    """Meanwhile a core works for `BUSY_FRAC` of the time."""
    process = subprocess.Popen((sys.executable, "-c", WORK, str(core), str(BUSY_FRAC)))
    try:
        yield
    finally:
        process.kill()
        process.wait()


def proteus(*arguments: str) -> None:
    """Run a command, quietly. Raises `subprocess.CalledProcessError` where it fails."""
    subprocess.run((sys.executable, "-m", "proteus_cli", "-q", *arguments), check=True, stdout=subprocess.DEVNULL)
