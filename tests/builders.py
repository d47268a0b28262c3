"""Small values for tests of decisions: catalogs, profiles, plans and requests with latencies that heads can add up."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from proteus_cli.backends.tensorrt.records import BuildOptions, EngineKey, Gpu
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import CascadeRoute, Effects, HostedVariant, Launch
from proteus_cli.control.policies import Policy
from proteus_cli.domain.base import FORMAT, MadeBy
from proteus_cli.domain.catalog import NO_VARIANTS, Catalog, Family, Variant, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.interference import CostPoint, SharingCost, VariantName
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.plan import PLAN_FORMAT, Placement, Plan, Solver
from proteus_cli.domain.profile import BackendInfo, Point, Profile, VariantProfile
from proteus_cli.domain.request import Bounds, DeferredRequest, Request
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.stages.cascade import CascadePoint, PlannedCascade
from proteus_cli.domain.trace import Trace

MADE_BY = MadeBy(version="0.0.0", host="bench", time="2026-01-02T03:04:05+00:00")
SOLVER = Solver(name="by hand", status="optimal", gap=0.0, solve_s=0.0)
NO_SLO = float("nan")


def near(number: float) -> Any:
    """`pytest.approx`, to stand as a field of a value."""
    return pytest.approx(number)


def make_point(batch: int, latency_s: float, slots: int = 1) -> Point:
    """A batch size that always takes ``latency_s``, with so many batches at once."""
    same = (latency_s,) * 5
    return Point(batch, 10, *same, qps=slots * batch / latency_s, slots=slots)


def make_points(latency_s: Mapping[int, float]) -> tuple[Point, ...]:
    """Latency in seconds by batch size."""
    return tuple(make_point(batch, seconds) for batch, seconds in latency_s.items())


def make_table(latency_s: Mapping[int, float]) -> LatencyTable:
    return LatencyTable(make_points(latency_s), of=lambda point: point.p95_s)


def make_measured(
    family: str,
    variant: str,
    accuracy: float,
    latency_s: Mapping[int, float],
    *,
    load_s: float = 1.0,
    memory_bytes: int = 1000,
    power_w: float | None = None,
    at_once_s: Mapping[int, Mapping[int, float]] | None = None,
    slot_bytes: int = 0,
) -> VariantProfile:
    """``at_once_s``: latency in seconds by batch size, by how many batches are on the device at once, from 2 on."""
    return VariantProfile(
        family=family,
        variant=variant,
        accuracy=accuracy,
        model_digest="m",
        engine_digest="e",
        eval_digest=None,
        build_s=0.0,
        load_s=load_s,
        memory_bytes=memory_bytes,
        points=make_points(latency_s),
        power_w=power_w,
        slot_bytes=slot_bytes,
        concurrent=tuple(
            sorted(
                (
                    make_point(batch, seconds, slots)
                    for slots, by in (at_once_s or {}).items()
                    for batch, seconds in by.items()
                ),
                key=lambda point: (point.batch, point.slots),
            )
        ),
    )


def make_cascade_point(threshold: float, deferred_frac: float, accuracy: float) -> CascadePoint:
    """Whatever is deferred: what is answered is as accurate."""
    return CascadePoint(threshold, deferred_frac, *(accuracy,) * 4, unsure_accuracy=0.0, second_accuracy=accuracy)


def make_sharing_cost(
    key: tuple[str, str], *beside: tuple[str, str], ratio: float, batches: Sequence[int] = (1,)
) -> SharingCost:
    """What a variant's batches cost beside others on one device, without any doubt."""
    points = tuple(CostPoint(batch, 10, 0.01, ratio, ratio, ratio) for batch in batches)
    return SharingCost(*key, tuple(VariantName(*other) for other in beside), points)


def make_profile(
    device: str, *measured: VariantProfile, device_type: str = "cpu", memory_bytes: int = 2**30, slots: int = 1
) -> Profile:
    return Profile(
        format=FORMAT,
        made_by=MADE_BY,
        device=Device(device, device_type, "cpu", "a test device", memory_bytes, cores=(0,)),
        measured_on=device,
        backend=BackendInfo(name="by hand", versions={}),
        variants=measured,
        slots=slots,
    )


def make_family(
    name: str, accuracies: Mapping[str, float], *, slo: str = "100ms", weight: float = 1.0, attainment: float = 0.995
) -> Family:
    """A family by the accuracy of each variant."""
    variants = tuple(Variant(variant, accuracy, f"{variant}.onnx") for variant, accuracy in accuracies.items())
    return Family(name, slo, variants, weight, attainment)


def make_catalog(*families: Family) -> Catalog:
    return Catalog(format=FORMAT, families=families)


def make_placement(
    device: str,
    family: str,
    variant: str,
    *,
    rate_qps: float = 10.0,
    share: float = 1.0,
    capacity_qps: float = 100.0,
    max_batch: int = 4,
) -> Placement:
    return Placement(device, family, variant, max_batch, rate_qps, share, capacity_qps)


def make_plan(
    *placements: Placement,
    demand_qps: Mapping[str, float] | None = None,
    served_qps: Mapping[str, float] | None = None,
    devices: Sequence[str] = (),
    headroom: float = 1.0,
    cascades: Sequence[PlannedCascade] = (),
) -> Plan:
    """A plan of ``placements``; without a demand, one for just what is placed."""
    rates = {p.family: sum(q.rate_qps for q in placements if q.family == p.family) for p in placements}
    demand = dict(demand_qps) if demand_qps is not None else rates
    served = dict(served_qps) if served_qps is not None else {f: min(rates.get(f, 0.0), demand[f]) for f in demand}
    return Plan(
        format=PLAN_FORMAT,
        made_by=MADE_BY,
        policy="proteus",
        objective="by hand",
        rules=Rules(),
        headroom=headroom,
        demand_qps=demand,
        served_qps=served,
        unserved_qps={family: demand[family] - served[family] for family in demand},
        effective_accuracy=None,
        relative_accuracy=None,
        solver=SOLVER,
        fleet={"cpu": tuple(devices) or tuple(dict.fromkeys(p.device for p in placements))},
        placements=placements,
        inputs={},
        cascades=tuple(cascades),
    )


def make_cascade(
    family: str = "a", first: str = "a-s", second: str = "a-l", *, rate_qps: float = 10.0, deferred_frac: float = 0.5
) -> PlannedCascade:
    """A cascade that defers what has a confidence below 0.5, which is ``deferred_frac`` of it.

    Of sure answers 95 % are right, of unsure ones 60 %, and of second ones 90 %.
    """
    accuracy = (1 - deferred_frac) * 0.95 + deferred_frac * 0.9
    point = CascadePoint(0.5, deferred_frac, accuracy, accuracy, accuracy, 0.95, 0.6, 0.9)
    return PlannedCascade(family, first, second, point, rate_qps, 1.0)


def make_deferred(
    request: Request, route: CascadeRoute, *, rows: int = 1, bounds: Bounds | None = None
) -> DeferredRequest:
    """So many rows of a request, deferred by a cascade; its first stage has left these ``bounds``."""
    minimum = max(request.min_accuracy, route.min_accuracy)
    times_s = request.arrival_s, request.deadline_s
    return DeferredRequest(
        request.id,
        request.family,
        *times_s,
        rows,
        request.slo_s,
        request.priority,
        min_accuracy=minimum,
        bounds=bounds,
    )


def hosted(
    device: str = "cpu0",
    family: str = "a",
    variant: str = "a-s",
    *,
    latency_s: Mapping[int, float],
    max_batch: int = 4,
    weight: float = 1.0,
    capacity_qps: float = 1000.0,
    accuracy: float = 0.9,
    mean_latency_s: Mapping[int, float] | None = None,
    power_w: float | None = None,
) -> HostedVariant:
    """A loaded variant; ``latency_s`` by rows; batches take so long in the mean, too, unless ``mean_latency_s``."""
    table = make_table(latency_s)
    mean_table = table if mean_latency_s is None else make_table(mean_latency_s)
    return HostedVariant(
        device, family, variant, accuracy, max_batch, weight, capacity_qps, table, mean_table, power_w=power_w
    )


def plan_hosting(
    *hosts: HostedVariant,
    demand_qps: Mapping[str, float] | None = None,
    devices: Sequence[str] = ("cpu0", "cpu1"),
    cascades: Sequence[PlannedCascade] = (),
) -> Plan:
    """A plan that places these hosts."""
    placements = (
        make_placement(host.device, host.family, host.variant, rate_qps=host.weight, capacity_qps=host.capacity_qps)
        for host in hosts
    )
    return make_plan(*placements, demand_qps=demand_qps, devices=devices, cascades=cascades)


def controller_hosting(
    *hosts: HostedVariant,
    policy: Policy,
    families: Sequence[str] = ("a", "b"),
    slots: Mapping[str, int] = MappingProxyType({"cpu0": 1, "cpu1": 1}),
    demand_qps: float = 10.0,
    dispatch_ahead_s: float = 0.0,
    cascades: Sequence[PlannedCascade] = (),
) -> Controller:
    """A controller with these hosts loaded; SLOs of 100 ms."""
    controller = Controller(dict.fromkeys(families, 0.1), slots, policy, dispatch_ahead_s=dispatch_ahead_s)
    demand = dict.fromkeys(families, demand_qps)
    plan = plan_hosting(*hosts, demand_qps=demand, devices=tuple(slots), cascades=cascades)
    assert controller.adopt(plan, hosts, 0.0) == Effects(ask=tuple(slots))
    return controller


def never(*_asked: object) -> Plan:
    """Makes the plans of a policy that needs none but the first."""
    raise AssertionError("this policy never re-plans")


@dataclass(frozen=True)
class NeverHurried:
    """Makes plans by a function; to be asked to end early changes nothing."""

    solve: Callable[..., Awaitable[Plan]]

    def __call__(self, *asked: Any) -> Awaitable[Plan]:
        return self.solve(*asked)

    def end_early(self) -> None:
        pass


def launched(controller: Controller, device: str, now_s: float) -> Launch:
    """The batch that a worker launches now."""
    decision = controller.decide(device, now_s)
    assert isinstance(decision, Launch)
    assert decision.rows == sum(request.rows for request in decision.requests)
    return decision


def routes_of(controller: Controller, launch: Launch) -> tuple[CascadeRoute | None, ...]:
    """Which way the requests of a batch go that has ended in time."""
    return tuple(controller.cascades.route(request, launch.hosted) for request in launch.requests)


def ids(launch: Launch) -> list[int]:
    return [request.id for request in launch.requests]


def requests_waiting(controller: Controller) -> int:
    """The requests in all queues."""
    return sum(family.waiting for family in controller.families.values())


def swaps_from(after: Plan, before: Plan, standbys: Mapping[str, frozenset[VariantKey]] = MappingProxyType({})) -> int:
    """The loads that lead from one plan to another; ``standbys`` (by device) need none."""
    old = before.hosted()
    hosted = {device: new - old.get(device, NO_VARIANTS) for device, new in after.hosted().items()}
    return sum(len(new - standbys.get(device, NO_VARIANTS)) for device, new in hosted.items())


def make_request(
    number: int = 0, *, family: str = "a", at_s: float = 0.0, slo_s: float = 0.1, rows: int = 1, priority: int = 0
) -> Request:
    return Request(number, family, at_s, at_s + slo_s, rows, priority=priority)


def make_trace(*arrivals: tuple[float, str], families: Iterable[str] = (), slo_s: Sequence[float] = ()) -> Trace:
    """(second, family) pairs in order."""
    names = tuple(families) or tuple(sorted({family for _, family in arrivals}))
    return Trace(
        name="by hand",
        families=names,
        arrival_s=np.array([at_s for at_s, _ in arrivals], dtype=np.float64),
        family=np.array([names.index(family) for _, family in arrivals], dtype=np.int64),
        slo_s=np.array(slo_s or [NO_SLO] * len(arrivals), dtype=np.float64),
    )


def make_key(model_digest: str = "0" * 64, *, tensorrt: str = "10.13.3.9", max_batch: int = 32) -> EngineKey:
    """What an engine was built from, on a GPU that isn't here."""
    gpu = Gpu(name="Tesla T4", compute_capability="7.5", multiprocessors=40, driver="550.54")
    return EngineKey(model_digest, tensorrt, gpu, BuildOptions(opt_batch=8, max_batch=max_batch))
