"""The sample zoo on all cores but the last, which client and front end have for themselves.

On machines of their own, clients and models don't take each other's time. Here they would: the profiled rates could
not be carried, and everything would be measured but adaptation.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from urllib.request import urlopen

import uvloop

from benchmarks.frame import proteus
from proteus_cli.backends.affinity import pinned, usable_cores
from proteus_cli.control.policies import Policy, policy_named
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.trace import Trace
from proteus_cli.planning.analysis.explain import max_multiple
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.planning.planner import Planner
from proteus_cli.replay.loadgen import ReplayResult, replay
from proteus_cli.replay.local_server import local_server
from proteus_cli.replay.target import StatusReply, http_target
from proteus_cli.store import Workspace, write_json

WARM_WITHIN_S = 60.0
BUSY_FRAC = 0.3  # about the part of a core that client and front end need
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
SHARED = Rules(residency="memory")
"""With few devices, families share them, and variants stand beside each other."""


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
        """The rate that the most accurate variants carry, of all families alike."""
        return max_multiple(self.planner(policy_named("most-accurate"), 1.0), self.shares)

    def planner(
        self, policy: Policy, headroom: float, rules: Rules = SHARED, profiles: Mapping[str, Profile] | None = None
    ) -> Planner:
        """For the devices of ``profiles``; None: for all."""
        known = self.profiles if profiles is None else profiles
        return planner_settings(self.place, policy, headroom, profiles=known, rules=rules).make()

    def copy(self, name: str) -> "Lab":
        """The same workspace beside this one."""
        shutil.copytree(self.root, self.root.with_name(name))
        return Lab(self.root.with_name(name), self.client_cores)

    @contextmanager
    def served(self, plan: Plan, *options: str) -> Iterator[str]:
        """The URL of a warm server with a plan; this process has the client's cores meanwhile."""
        path = self.place.plans_dir / "benchmark.json"
        write_json(path, plan)
        with local_server(path, self.root, options=options) as url, pinned(self.client_cores):
            until_warm(url)
            yield url


def replayed(
    url: str, trace: Trace, eval_splits: Mapping[str, Path] = MappingProxyType({})
) -> tuple[ReplayResult, StatusReply]:
    """The outcome of a trace that is sent to a server, with rows of eval splits by family, and its status then."""

    async def run() -> tuple[ReplayResult, StatusReply]:
        async with http_target(url) as target:
            before = await target.prepare(trace.families, eval_splits)
            load = await replay(trace, target, before.slo_s)
            assert len(load.records) == len(trace), "each request must end once"
            return load, await target.status()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def until_warm(url: str) -> None:
    """Wait for the solver, if there is one: how fast a server starts is another question."""
    stop_s = time.monotonic() + WARM_WITHIN_S
    while True:
        with urlopen(f"{url}/v2/proteus/status") as reply:  # noqa: S310 - of our own server
            solver = json.load(reply)["solver"]
        if solver is None or solver["is_warm"]:
            return
        assert time.monotonic() < stop_s, "the solver does not get ready"
        time.sleep(0.1)


def laboratory(root: Path, budget: str) -> Lab:
    """The sample zoo in a new workspace, profiled for so long on all cores but the last.

    That one is about as busy meanwhile as client and front end make it: a core whose neighbour works may be slower.
    """
    *cores, last = usable_cores()
    if not cores:
        raise SystemExit("needs two cores: one for models, one for the client and the front end")
    lab = Lab(root, (last,))
    if not root.is_dir():
        proteus("init", str(root))
        (root / "proteus.toml").write_text(f"[devices]\ncpu = {[[core] for core in cores]}\n")
        with _busy(last):
            proteus("profile", "--budget", budget, "--workspace", str(root))
    return lab


@contextmanager
def _busy(core: int) -> Iterator[None]:
    process = subprocess.Popen((sys.executable, "-c", WORK, str(core), str(BUSY_FRAC)))
    try:
        yield
    finally:
        process.kill()
        process.wait()
