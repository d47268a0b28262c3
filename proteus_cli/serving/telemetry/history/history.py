"""``/v2/proteus/history``: the samples of the last 15 minutes in columns, and the state now, as they are sent.

REST makes its OpenAPI schemas from these Structs. Numbers that are not known are null.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from proteus_cli.domain.base import Count, Fraction
from proteus_cli.domain.rollouts import RolloutStatus
from proteus_cli.serving.lifecycle import ServerState
from proteus_cli.serving.telemetry.history.snapshot import DeviceSnapshot, FamilySnapshot, ServerEvent
from proteus_cli.serving.telemetry.hosts import HostStatus
from proteus_cli.serving.telemetry.slots import SlotsStatus
from proteus_cli.serving.telemetry.stages import CascadeStatus, ExitsStatus

SampleValues = Sequence[float | None]


class FamilySamples(Struct, frozen=True):
    """A value for each sample. Rates are per second; demand, throughput and goodput count rows, the others requests."""

    demand_qps: SampleValues
    throughput_qps: SampleValues
    goodput_qps: SampleValues
    late_qps: SampleValues
    dropped_qps: SampleValues
    rejected_qps: SampleValues
    failed_qps: SampleValues
    accuracy: SampleValues
    p99_s: SampleValues
    waiting: SampleValues
    answered_qps: Annotated[
        Mapping[str, SampleValues], Meta(description="By variant: requests that it answered in time, per second.")
    ]


class FamilyHistory(FamilySnapshot, frozen=True, kw_only=True):
    """A family: means over the last 5 s, and its samples."""

    cascades: Annotated[Sequence[CascadeStatus], Meta(description="Of the plan in force.")]
    exits: Annotated[Sequence[ExitsStatus], Meta(description="Of the multi-exit models that the plan in force hosts.")]
    stop_when: Annotated[str | None, Meta(description="The live condition of its multi-exit variants; null: none.")]
    variants: Annotated[Mapping[str, Fraction], Meta(description="Accuracies, the most accurate variant first.")]
    samples: FamilySamples


class DeviceSamples(Struct, frozen=True):
    """A value for each sample."""

    load: SampleValues
    mean_batch: SampleValues


class DeviceHistory(DeviceSnapshot, frozen=True, kw_only=True):
    """A device: means over the last 5 s, and its samples."""

    samples: DeviceSamples


class Flows(Struct, frozen=True):
    """The plan in force in columns: what each placement is planned to answer, and what it answers in time.

    What a first stage of cascades defers is planned to be answered by the second, and in ``deferred_qps`` there.
    """

    device: Sequence[str]
    family: Sequence[str]
    variant: Sequence[str]
    accuracy: Sequence[Fraction]
    planned_qps: Sequence[float]
    deferred_qps: Annotated[Sequence[float], Meta(description="Of what is planned, queries that others defer to it.")]
    answered_qps: Sequence[float]


class History(Struct, frozen=True):
    """The samples after the cursor of the request, and the state now."""

    server: Annotated[str, Meta(description="Names this run of the server; after a restart samples begin anew.")]
    cursor: Annotated[str, Meta(description="For `since`.")]
    complete: Annotated[bool, Meta(description="False: there are more samples than fit; ask for the rest at once.")]
    every_s: float
    keeps_s: float
    version: str
    state: ServerState
    policy: str
    emulated: Annotated[bool, Meta(description="The devices are emulated: no time here is a measurement.")]
    inside: Annotated[Count, Meta(description="Requests that wait or run.")]
    unix_s: Annotated[float, Meta(description="The time of day now.")]
    uptime_s: Annotated[float, Meta(description="Seconds since the server was ready.")]
    at_s: Annotated[Sequence[float], Meta(description="When the samples were taken, as seconds of uptime.")]
    families: Mapping[str, FamilyHistory]
    devices: Annotated[
        Mapping[str, DeviceHistory], Meta(description="By id, which on a host of a cluster begins with it: `b/cpu0`.")
    ]
    hosts: Annotated[Mapping[str, HostStatus], Meta(description="Of the cluster; empty without one.")]
    rollouts: Annotated[
        Sequence[RolloutStatus], Meta(description="The last version roll-out of each family that had one.")
    ]
    slots: Annotated[
        Mapping[str, SlotsStatus],
        Meta(description="Of devices of several slots, by id; of many, those whose slots changed last."),
    ]
    flows: Flows
    events: Annotated[Sequence[ServerEvent], Meta(description="Changes of plan and of devices among these samples.")]
