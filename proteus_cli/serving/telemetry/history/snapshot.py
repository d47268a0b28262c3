"""The server over the last seconds, as the terminal and the page show it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from proteus_cli.arrays import Ints
from proteus_cli.control.devices.breaker import BreakerState
from proteus_cli.domain.attainment import Attainment
from proteus_cli.domain.base import Count, Fraction
from proteus_cli.domain.catalog import Preference
from proteus_cli.serving.devices.remote.links.link_state import LinkState
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.telemetry.cold_variants import cold_on
from proteus_cli.serving.telemetry.history.counters import Counters
from proteus_cli.serving.telemetry.hosts import HostStatus, host_statuses
from proteus_cli.serving.telemetry.stages import kept_fracs


class ServerEventKind(StrEnum):
    """What an event is about."""

    PLAN = "plan"
    DEVICE = "device"


class ServerEvent(Struct, frozen=True):
    """A change of plan or of a device: seconds since the server was ready, what happened, and why, for people."""

    at_s: float
    kind: ServerEventKind
    text: str
    reason: str = ""


class Flow(NamedTuple):
    """A placement: the rate that it is planned to answer, what others defer to it of that, and its answers lately."""

    device: str
    family: str
    variant: str
    accuracy: float
    planned_qps: float
    deferred_qps: float
    answered_qps: float


class FamilySnapshot(Struct, frozen=True):
    """A family lately; null: no request was answered, or ended, from which it could be known."""

    slo_s: float
    best_accuracy: Fraction | None
    estimated: Annotated[bool, Meta(description="Some accuracies of the family are estimates, without labels.")]
    demand_qps: Annotated[float, Meta(description="Rows that arrived, per second.")]
    throughput_qps: Annotated[
        float, Meta(description="Rows that batches answered per second; deferred ones count once.")
    ]
    goodput_qps: Annotated[float, Meta(description="Rows of requests that were answered in time, per second.")]
    violations: Annotated[Fraction | None, Meta(description="SLO violations among the requests that ended.")]
    accuracy: Annotated[Fraction | None, Meta(description="Mean accuracy of the variants that answered.")]
    relative_accuracy: Annotated[float | None, Meta(description="Accuracy over that of the best variant.")]
    p99_s: Annotated[
        float | None, Meta(description="Over 10 s, of the requests that batches answered; estimated from a histogram.")
    ]
    waiting: Annotated[Count, Meta(description="Requests in the queues.")]
    deferred: Annotated[
        Fraction | None, Meta(description="Of answered requests, those that first stages of cascades were not sure of.")
    ]
    fallbacks: Annotated[Fraction | None, Meta(description="Of these, those that got the first answer all the same.")]
    cut: Annotated[Fraction | None, Meta(description="Of answered requests, those that a multi-exit model cut short.")]
    shifted: Annotated[bool, Meta(description="Requests or answers are no longer distributed as on the eval split.")]
    prefers: Annotated[Preference, Meta(description="What plans aim for once all demand is served.")]
    attainment: Annotated[Attainment, Meta(description="Since the start.")]
    recent_attainment: Annotated[Attainment, Meta(description="Over the last 15 minutes.")]
    expected_attainment: Annotated[
        Fraction | None,
        Meta(description="With what the plan hosts, if arrivals stay as they were. Null: it expects nothing."),
    ]


class DeviceSnapshot(Struct, frozen=True):
    """A device lately. Variants have their `variant_labels`."""

    type: str
    variants: Annotated[tuple[str, ...], Meta(description="Active: what the plan has it host.")]
    warm: Annotated[Sequence[str], Meta(description="Standbys: loaded, so that plans can activate them at once.")]
    cold: Annotated[
        Count, Meta(description="Variants that are neither active nor warm: to activate them takes a load.")
    ]
    load: Annotated[float, Meta(description="Fraction of the time in which batches ran; they count when they end.")]
    mean_batch: Annotated[float | None, Meta(description="Rows.")]
    breaker: BreakerState
    reason: Annotated[str, Meta(description="Why the breaker is not closed.")]
    retry_s: Annotated[float | None, Meta(description="Of a lost device: seconds until it is opened again.")]
    broken: Annotated[Mapping[str, str], Meta(description="Variants that plans do without here, and why.")]
    servers: Annotated[Count, Meta(description="That have the device open, this one included; each has its part.")]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The server at its last sample; ``events`` are the last ones, oldest first. Without a cluster it has no hosts."""

    at_s: float
    state: str
    policy: str
    is_emulated: bool
    inside: int
    families: Mapping[str, FamilySnapshot]
    devices: Mapping[str, DeviceSnapshot]
    flows: Sequence[Flow]
    events: Sequence[ServerEvent]
    hosts: Mapping[str, HostStatus] = field(default_factory=dict)


def make_snapshot(
    plane: DataPlane,
    counters: Counters,
    before: Counters,
    p99_s: Sequence[float | None],
    recent: Ints,
    start_s: float,
    events: Sequence[ServerEvent],
    links: Mapping[str, LinkState],
    is_shifted: Callable[[str], bool],
) -> Snapshot:
    """The means between two readings of the counters. Devices that have joined since then are left out.

    ``p99_s`` and ``recent`` are of the families, in their order; the latter has the requests that have ended in the
    last 15 minutes, and how many of them were SLO violations.
    """
    controller, fleet, standbys = plane.controller, plane.fleet, plane.controller.change.standbys
    rates, loads = counters.family_rates(before).tolist(), counters.device_loads(before).tolist()
    labels = fleet.loader.labels
    hosted: dict[str, list[str]] = {}
    for placement in controller.placements:
        hosted.setdefault(placement.device, []).append(labels[placement.key])
    kept = kept_fracs(controller)
    broken: dict[str, dict[str, str]] = {}
    for (device, key), breaker in fleet.broken_engines.breakers.items():
        if not breaker.is_closed:
            broken.setdefault(device, {})[labels[key]] = breaker.reason or ""
    return Snapshot(
        at_s=counters.at_s - start_s,
        state=plane.lifecycle.state.value,
        policy=controller.policy.name,
        is_emulated=plane.is_emulated,
        inside=plane.results.in_flight_count,
        families={
            name: _family(plane, name, of, tail_s, ended, is_shifted=is_shifted(name))
            for name, of, tail_s, ended in zip(plane.families.by_name, rates, p99_s, recent.tolist(), strict=True)
        },
        devices={
            name: DeviceSnapshot(
                fleet.type_of(name), tuple(hosted.get(name, ())),
                sorted(labels[key] for key in standbys.get(name, ())),
                len(cold_on(name, fleet.loader, controller)),
                min(1.0, load), _known(mean_batch), fleet.breakers[name].state, fleet.breakers[name].reason or "",
                _until(fleet.retry_s(name), counters.at_s), broken.get(name, {}), worker.servers,
            )
            for (name, worker), (load, mean_batch) in zip(fleet.workers.items(), loads, strict=False)
        },
        flows=[
            Flow(
                of.device, of.family, of.variant, round(of.accuracy, 5),
                round(kept.get(of.key, 1.0) * of.weight + of.deferred_qps, 2), round(of.deferred_qps, 2),
                round(counters.answer_rate(before, of.family, of.variant, of.device), 2),
            )
            for family in plane.families.by_name
            for of in controller.families[family].hosts
        ],
        events=events,
        hosts=host_statuses(fleet, links, counters.at_s),
    )  # fmt: skip


def _family(
    plane: DataPlane,
    name: str,
    rates: Sequence[float],
    p99_s: float | None,
    recent: Sequence[int],
    *,
    is_shifted: bool,
) -> FamilySnapshot:
    """``rates`` are the growth per second of the columns of `Counters.families`; ``recent`` requests and violations."""
    requests, violations = recent
    served, target = plane.families.by_name[name], plane.families.attainment_target(name)
    demand_qps, throughput_qps, goodput_qps, *violated, served_qps, accuracy, deferred_qps, fallback_qps, cut_qps = (
        rates
    )
    has_cascades = deferred_qps or any(route.cascade.family == name for route in plane.controller.cascades.in_use)
    has_exits = cut_qps or any(host.exits for host in plane.controller.families[name].hosts)
    ended_qps = sum(violated) + served_qps
    found = accuracy / served_qps if served_qps else None
    return FamilySnapshot(
        slo_s=served.slo_s,
        best_accuracy=served.best_accuracy,
        estimated=served.estimated,
        demand_qps=demand_qps,
        throughput_qps=throughput_qps,
        goodput_qps=goodput_qps,
        violations=sum(violated) / ended_qps if ended_qps else None,
        accuracy=found,
        relative_accuracy=None if found is None or not served.best_accuracy else found / served.best_accuracy,
        p99_s=p99_s,
        waiting=plane.controller.families[name].waiting,
        attainment=plane.counts.by_family[name].attainment(target),
        recent_attainment=Attainment.of(requests, violations, target),
        expected_attainment=plane.controller.plan.expected_attainment.get(name),
        deferred=min(deferred_qps / served_qps, 1.0) if has_cascades and served_qps else None,
        fallbacks=fallback_qps / deferred_qps if deferred_qps else None,
        cut=min(cut_qps / served_qps, 1.0) if has_exits and served_qps else None,
        shifted=is_shifted,
        prefers=plane.controller.plan.rules.prefers(name),
    )


def _until(at_s: float | None, now_s: float) -> float | None:
    return None if at_s is None else max(0.0, at_s - now_s)


def _known(value: float) -> float | None:
    return None if value != value else value  # noqa: PLR0124 - NaN
