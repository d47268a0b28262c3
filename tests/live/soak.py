"""A long run: what is served, what is asked of it, what is done to it, and how devices fail because of that."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median

import numpy as np
from chaos import FAMILY as RUDE_FAMILY
from command_line import proteus
from footprint import Process, descendants
from live_server import LiveServer
from tiny import TinyFamily, TinyVariant, add_profiles, make_workspace

from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.synthesis import Diurnal, Poisson, make_trace
from proteus_cli.simulation.conditions import Conditions, Failure, SlowSpan
from proteus_cli.store import Workspace

FIRST_FAULT_S = 4.0
FAULT_EVERY_S = 5.0  # on average, from the end of one to the next
CALM_END_S = 6.0  # without faults
HANG_S = 6.0
GIVEN_UP_S = 0.6  # until the server gives up a device that hangs
SLOW_S = 4.0
TIMES_SLOWER = 3.0
NO_MODEL_S = 4.0
OPENING_S = 1.0  # a process of a device, until it runs batches
BURST_S = 2.0
BURST_EVERY_S = 12.0


class Kind(StrEnum):
    """What may happen."""

    KILLED = "device killed"
    HUNG = "device hangs"
    SLOWED = "device slowed"
    SOLVER_KILLED = "solver killed"
    NO_MODEL = "model file gone"


# --- what is served


@dataclass(frozen=True)
class Site:
    """A workspace with the plan ``plan``, and how it is served: ``busy`` families are those of the trace.

    ``max_qps`` is what the most accurate variants carry. ``rude_family`` is asked by bad clients only; where there is
    none, what they ask is refused. ``kinds`` are the faults that it knows.
    """

    root: Path
    busy: tuple[str, ...]
    max_qps: float
    options: tuple[str, ...]
    kinds: tuple[Kind, ...]
    max_violations: float
    rude_family: str | None

    @property
    def place(self) -> Workspace:
        return Workspace(self.root)

    @property
    def profiles(self) -> dict[str, Profile]:
        return self.place.profiles_of(self.place.plan(Path("plan")))


DEVICES = 8
_SIZES = {"s": (0.02, 0.005), "m": (0.06, 0.02), "l": (0.15, 0.06)}  # of a batch of one row, of each more


def _family(name: str, accuracies: Mapping[str, float]) -> TinyFamily:
    sized = [(size, accuracy, *_SIZES[size]) for size, accuracy in accuracies.items()]
    variants = [TinyVariant(f"{name}-{s}", accuracy, 4, first_s, row_s) for s, accuracy, first_s, row_s in sized]
    return TinyFamily(name, variants, slo="1s")


def emulated_site(root: Path) -> Site:
    """Eight emulated devices: two families that are busy, and one of a single fast variant for bad clients.

    Times are long, so that a machine that is busy with clients and faults is still fast enough to keep to them.
    """
    busy = (
        _family("image", {"s": 0.60, "m": 0.75, "l": 0.95}),
        _family("text", {"s": 0.70, "m": 0.80, "l": 0.90}),
    )
    rude = _family(RUDE_FAMILY, {"s": 0.70})
    made = make_workspace(root, (*busy, rude))
    add_profiles(made, ("cpu0",))
    options = ("--set=executor=process", "--emulate")
    kinds = (Kind.KILLED, Kind.HUNG, Kind.SLOWED, Kind.SOLVER_KILLED)
    site = Site(root, ("image", "text"), 70.0, options, kinds, 0.04, RUDE_FAMILY)
    _plan(site, 40.0, "--fleet", f"cpu0:{DEVICES}", also={RUDE_FAMILY: 20.0})
    return site


def real_site(root: Path) -> Site:
    """The sample zoo on this machine's CPUs, each of which may hold both families, so that one may be lost."""
    for arguments in (("init", root), ("profile", "--budget", "30s", "-w", root)):
        ended = proteus(*arguments)
        assert ended.code == 0, ended
    busy = ("digits", "signals")
    profiles = Workspace(root).profiles()
    slo_s = Workspace(root).catalog().slo_s()
    best = [
        Rules().capacity_within(slo_s[family], measured[-1].points).qps
        for family, measured in _by_family(profiles).items()
    ]
    max_qps = 0.3 * sum(best) * len(profiles) / len(busy)  # client and server need cores, too
    kinds = (*Kind,)
    site = Site(root, busy, max_qps, ("--set=executor=process",), kinds, 0.10, None)
    _plan(site, 0.6 * max_qps, "--residency", "2")
    return site


def _by_family(profiles: Mapping[str, Profile]) -> dict[str, list[VariantProfile]]:
    """What was measured on the first device, the most accurate last."""
    found: dict[str, list[VariantProfile]] = {}
    for measured in sorted(next(iter(profiles.values())).variants, key=lambda each: each.accuracy):
        found.setdefault(measured.family, []).append(measured)
    return found


def _plan(site: Site, demand_qps: float, *options: str, also: Mapping[str, float] | None = None) -> None:
    rates = {family: demand_qps / len(site.busy) for family in site.busy} | dict(also or {})
    demand = ",".join(f"{family}={qps:.1f}qps" for family, qps in rates.items())
    plan = site.root / "plans" / "plan.json"
    ended = proteus("plan", "--demand", demand, *options, "-o", plan, "-w", site.root)
    assert ended.code == 0, ended


# --- what is asked of it


def diurnal_with_bursts(site: Site, lasts_s: float, rng: np.random.Generator) -> Trace:
    """From 0.4 to 1.6 times what the most accurate variants carry and back, again and again; bursts on top of that."""
    period_s = min(max(lasts_s / 2, 20.0), 600.0)
    shares = dict.fromkeys(site.busy, 1.0)
    low_qps, high_qps = 0.4 * site.max_qps, 1.6 * site.max_qps

    def made(shape: Diurnal | Poisson, qps: float, duration_s: float) -> Trace:
        return make_trace("soak", shape, rate_qps=qps, duration_s=duration_s, shares=shares, rng=rng)

    parts, starts_s = [made(Diurnal(high_qps, period_s), low_qps, lasts_s)], [0.0]
    start_s = rng.exponential(BURST_EVERY_S)
    while start_s + BURST_S < lasts_s:
        parts.append(made(Poisson(), site.max_qps, BURST_S))
        starts_s.append(start_s)
        start_s += BURST_S + rng.exponential(BURST_EVERY_S)
    return joined(parts, starts_s)


def joined(parts: Sequence[Trace], starts_s: Sequence[float]) -> Trace:
    """Traces on top of each other, each from a time on; families in alphabetical order."""
    families = tuple(sorted({family for part in parts for family in part.families}))
    arrival_s = np.concatenate([part.arrival_s + start_s for part, start_s in zip(parts, starts_s, strict=True)])
    place = [np.array([families.index(name) for name in part.families])[part.family] for part in parts]
    order = np.argsort(arrival_s, kind="stable")
    return Trace(parts[0].name, families, arrival_s[order], np.concatenate(place)[order], np.full(len(order), np.nan))


# --- what is done to it


@dataclass(frozen=True)
class Fault:
    """What is to happen when, in seconds of the trace; ``pick`` (0 to 1) says to which device or model."""

    kind: Kind
    at_s: float
    pick: float


@dataclass(frozen=True)
class Injected:
    """What was done to whom, when, and what fails because of that. In seconds of the trace."""

    kind: Kind
    target: str
    at_s: float
    failures: tuple[Failure, ...] = ()


def schedule(kinds: Sequence[Kind], lasts_s: float, rng: np.random.Generator) -> list[Fault]:
    """Each kind once, in any order, then again; at random times, but not at the end."""
    faults: list[Fault] = []
    at_s, waiting = FIRST_FAULT_S, list[Kind]()
    while at_s < lasts_s - CALM_END_S:
        waiting = waiting or [kinds[place] for place in rng.permutation(len(kinds))]
        faults.append(Fault(waiting.pop(), at_s, rng.random()))
        at_s += rng.uniform(0.5, 1.5) * FAULT_EVERY_S
    return faults


class Injector:
    """Does the faults to a server, one after another, in a thread of its own.

    How devices fail follows from what was done, and never from what the server says of itself: the simulator works out
    for how long they are away. The server is asked only whom there is to do something to.
    """

    def __init__(self, live: LiveServer, site: Site, faults: Sequence[Fault]) -> None:
        self._live, self._site, self._faults = live, site, faults
        self._profiles = site.profiles
        self._stop = threading.Event()
        self._start_s = 0.0
        self.done: list[Injected] = []
        self.missed: Counter[Kind] = Counter()  # nobody was there to whom it could be done
        self.errors: list[BaseException] = []

    @contextmanager
    def injecting(self, start_s: float) -> Iterator[None]:
        """``start_s``: when the trace starts, by `time.monotonic`."""
        self._start_s = start_s
        thread = threading.Thread(target=self._run, name="faults")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
        assert self.errors == []

    def _run(self) -> None:
        try:
            for fault in self._faults:
                if self._stop.wait(max(0.0, fault.at_s - self._now_s())):
                    return
                injected = self._inject(fault)
                if injected is None:
                    self.missed[fault.kind] += 1
                else:
                    self.done.append(injected)
        except BaseException as error:  # noqa: BLE001 - it is told where the thread is joined
            self.errors.append(error)

    def _now_s(self) -> float:
        return time.monotonic() - self._start_s

    def _inject(self, fault: Fault) -> Injected | None:
        match fault.kind:
            case Kind.SOLVER_KILLED:
                return self._kill_solver()
            case Kind.NO_MODEL:
                return self._take_model(fault.pick)
        status = self._live.status()
        there = sorted(device for device, of in status["devices"].items() if of["breaker"] == "closed")
        if not there:
            return None
        device = there[int(fault.pick * len(there))]
        process = self._process(status["devices"][device]["pid"])
        if process is None:
            return None
        batch_s = self._longest_batch_s(status["placements"], device)
        match fault.kind:
            case Kind.KILLED:
                return self._kill(device, process)
            case Kind.HUNG:
                return self._hang(device, process)
            case _:
                return self._slow_down(device, process, batch_s)

    def _kill(self, device: str, process: Process) -> Injected:
        at_s = self._now_s()
        os.kill(process.pid, signal.SIGKILL)
        return Injected(Kind.KILLED, device, at_s, (Failure((device,), at_s, at_s + OPENING_S),))

    def _hang(self, device: str, process: Process) -> Injected:
        """Stop the process, and let it go on later if it is still there. The simulated device is lost when given up."""
        at_s = self._now_s()
        os.kill(process.pid, signal.SIGSTOP)
        self._wait(process, HANG_S)
        if process.is_there:
            os.kill(process.pid, signal.SIGCONT)
        lost_s = at_s + GIVEN_UP_S
        return Injected(Kind.HUNG, device, at_s, (Failure((device,), lost_s, lost_s + OPENING_S),))

    def _slow_down(self, device: str, process: Process, batch_s: float) -> Injected:
        """Stop it again and again: for twice the time of a batch, after as long as a batch, so all take three times.

        The simulated device is away for the part of the time in which this one does nothing.
        """
        at_s = self._now_s()
        while self._now_s() < at_s + SLOW_S and process.is_there and not self._stop.is_set():
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep((TIMES_SLOWER - 1) * batch_s)
            if process.is_there:
                os.kill(process.pid, signal.SIGCONT)
            time.sleep(batch_s)
        away_s = (1 - 1 / TIMES_SLOWER) * (self._now_s() - at_s)
        return Injected(Kind.SLOWED, device, at_s, (Failure((device,), at_s, at_s + away_s),))

    def _kill_solver(self) -> Injected | None:
        process = self._process(self._live.status()["solver"]["pid"])
        if process is None:
            return None
        at_s = self._now_s()
        os.kill(process.pid, signal.SIGKILL)
        return Injected(Kind.SOLVER_KILLED, "", at_s)

    def _take_model(self, pick: float) -> Injected:
        place = self._site.place
        named = [variant.onnx for family in place.catalog().families for variant in family.variants]
        models = [place.model_path(onnx) for onnx in named if onnx is not None]
        model = models[int(pick * len(models))]
        aside, at_s = model.with_suffix(".gone"), self._now_s()
        model.rename(aside)
        try:
            self._stop.wait(NO_MODEL_S)
        finally:
            aside.rename(model)
        return Injected(Kind.NO_MODEL, model.stem, at_s)

    def _longest_batch_s(self, placements: Sequence[Mapping[str, object]], device: str) -> float:
        """Of those that the device should run now, as profiled; of one row of what is fastest where it runs none."""
        mine = [each for each in placements if each["device"] == device]
        keys = {(str(each["family"]), str(each["variant"])): int(str(each["max_batch"])) for each in mine}
        measured = [each for each in self._profiles[device].variants if each.points]
        times_s = [
            LatencyTable(each.points, of=lambda point: point.mean_s)(keys[each.family, each.variant])
            for each in measured
            if (each.family, each.variant) in keys
        ]
        return max(times_s, default=min(each.points[0].mean_s for each in measured))

    def _process(self, pid: int | None) -> Process | None:
        """One that the server has started."""
        mine = {process.pid: process for process in descendants(self._live.process.pid)}
        return mine.get(pid) if pid is not None else None

    def _wait(self, process: Process, lasts_s: float) -> None:
        stop_s = time.monotonic() + lasts_s
        while process.is_there and time.monotonic() < stop_s:
            self._stop.wait(0.05)


def conditions(injected: Sequence[Injected], plans_s: Sequence[float], slowdown: float) -> Conditions:
    """For the simulator, which knows lost devices, but no killed solver.

    How long plans took, and how much longer batches than profiled, depends on the machine.
    """
    return Conditions(
        failures=tuple(failure for each in injected for failure in each.failures),
        slow=SlowSpan(slowdown),
        solve_s=median(plans_s),
    )
