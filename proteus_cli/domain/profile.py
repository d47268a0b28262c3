"""Profiles: measurements of the variants on a device, one file each (``profiles/<device>.json``)."""

from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from proteus_cli.domain.base import (
    Amount,
    BatchSeconds,
    BatchSize,
    Count,
    Fraction,
    MadeBy,
    PositiveAmount,
    PositiveCount,
    Value,
    always,
    require,
    require_format,
    require_rising,
    scaled,
)
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.device import Device
from proteus_cli.domain.interference import SharingCost
from proteus_cli.domain.stages.cascade import CascadeProfile
from proteus_cli.domain.stages.exits import ExitProfile, require_exits, slower_exit

LARGEST_SLOTS = 64
Slots = Annotated[int, Meta(ge=1, le=LARGEST_SLOTS)]
"""Number of batches that are on a device at once."""

LatencyStatistic = Literal["mean", "p50", "p95", "p99"]
"""Names one of the latencies of a point."""


class BackendInfo(Value, frozen=True):
    """The software that ran the models: its name and the versions that decide the speed."""

    name: str
    versions: dict[str, str]


class Point(Value, frozen=True, omit_defaults=True):
    """Latency of one batch size over ``runs`` measured runs, in seconds, copies included.

    ``slots`` batches were on the device at once, each with these latencies; ``qps`` is slots × batch / mean.
    ``compute_s`` is the mean compute time by the device's own clock, ``power_w`` the mean power during the runs, and
    ``energy_j`` the energy of a row; None is unknown. ``noise_frac`` marks a noisy cell: the part of the mean that is
    due to other programs or to scatter; 0 for a cell that can be trusted.
    """

    batch: BatchSize
    runs: PositiveCount
    mean_s: BatchSeconds
    p50_s: BatchSeconds
    p90_s: BatchSeconds
    p95_s: BatchSeconds
    p99_s: BatchSeconds
    qps: PositiveAmount
    slots: Slots = 1
    compute_s: Amount | None = None
    power_w: Amount | None = None
    energy_j: Amount | None = None
    noise_frac: Fraction = 0.0

    def latency_s(self, of: LatencyStatistic) -> float:
        """The latency of that name, in seconds."""
        return {"mean": self.mean_s, "p50": self.p50_s, "p95": self.p95_s, "p99": self.p99_s}[of]

    def scaled(self, by: float) -> "Point":
        """The point of batches that take ``by`` times as long, at the same power."""
        times = "mean_s", "p50_s", "p90_s", "p95_s", "p99_s", "compute_s", "energy_j"
        return replace(scaled(self, by, *times), qps=self.qps / by)


class RecordedPoint(Value, frozen=True):
    """A re-estimated batch size: ``factor`` times the measured latency, from ``batches`` batches.

    0 batches: extrapolated from other batch sizes.
    """

    batch: BatchSize
    factor: Amount
    batches: Count


class Recorded(Value, frozen=True):
    """A note that times were re-estimated while serving: its time (ISO 8601, UTC), and the factors since measured.

    ``replaces`` is the SHA-256 of the profile that was served with.
    """

    time: str
    replaces: str
    points: tuple[RecordedPoint, ...] = ()


class LiveAccuracyRecord(Value, frozen=True):
    """The accuracy of the last ``rows`` labelled rows while serving, at a ``time`` (ISO 8601, UTC).

    ``low`` to ``high`` is its 95 % confidence interval. Plans use it instead of the measured accuracy until the next
    measurement.
    """

    time: str
    rows: PositiveCount
    accuracy: Fraction
    low: Fraction
    high: Fraction

    def __post_init__(self) -> None:
        require(self.low <= self.accuracy <= self.high, "a live accuracy must be in its interval")


class VariantProfile(Value, frozen=True, omit_defaults=True):
    """One variant on one device. ``engine_digest`` is the content key: model, backend, device type and threads.

    ``accuracy`` is measured on the eval split with the digest ``eval_digest``, or declared if that is None; the catalog
    may declare it as ``estimated``. ``model_digest`` is None if the numbers were imported without it. ``build_s`` and
    ``load_s`` are the seconds to build and load the engine. ``memory_bytes`` is the size of a loaded engine with one
    slot (0: unknown), ``slot_bytes`` the size of each further slot. ``power_w`` is the power of the device while it
    runs, if measured. ``points`` are of one batch at a time, ``concurrent`` of several on the device at once.
    ``recorded`` marks times, and ``live`` an accuracy, that were corrected while serving. A multi-exit model has
    ``exits``.
    """

    family: str
    variant: str
    accuracy: Fraction
    model_digest: str | None
    engine_digest: str
    eval_digest: str | None
    build_s: Amount
    load_s: Amount
    memory_bytes: Count
    points: tuple[Point, ...]
    power_w: Amount | None = always(None)
    slot_bytes: Count = 0
    concurrent: tuple[Point, ...] = ()
    estimated: bool = False
    recorded: Recorded | UnsetType = UNSET
    live: LiveAccuracyRecord | UnsetType = UNSET
    exits: tuple[ExitProfile, ...] = ()

    def __post_init__(self) -> None:
        require_exits(self.exits, self.variant)
        require_rising([point.batch for point in self.points], f"batches of `{self.variant}`")
        require(all(point.slots == 1 for point in self.points), f"points of `{self.variant}` are of one slot")
        places = [(point.batch, point.slots) for point in self.concurrent]
        require_rising(places, f"batches and slots of concurrent points of `{self.variant}`")
        require(all(point.slots > 1 for point in self.concurrent), f"concurrent points of `{self.variant}` are of more")

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.variant)

    @property
    def is_imported(self) -> bool:
        """Whether the numbers came from a file, so that the engine, and perhaps the model, is unknown."""
        return self.model_digest is None or not self.engine_digest

    @property
    def noisy(self) -> tuple[Point, ...]:
        """The points that are marked as noisy."""
        return tuple(point for point in (*self.points, *self.concurrent) if point.noise_frac)

    def points_at(self, slots: int) -> tuple[Point, ...]:
        """The points of ``slots`` batches at once."""
        return self.points if slots == 1 else tuple(point for point in self.concurrent if point.slots == slots)

    def points_up_to(self, slots: int) -> tuple[tuple[Point, ...], ...]:
        """Points by the number of batches at once, from 1 to ``slots``. A missing number has the points of the next."""
        found = [self.points_at(slots)]
        for fewer in range(slots - 1, 0, -1):
            found.append(self.points_at(fewer) or found[-1])
        return tuple(reversed(found))

    def memory_with(self, slots: int) -> int:
        """Bytes of a loaded engine with ``slots`` slots; 0: unknown."""
        return self.memory_bytes + (slots - 1) * self.slot_bytes if self.memory_bytes else 0


class Profile(Value, frozen=True, omit_defaults=True):
    """All variants measured on one device.

    ``measured_on`` is the device of the same type that was measured. ``slots`` is the number of batches that serving
    keeps on it at once. On a host of a cluster, latencies include the transfer over its ``network``, if measured.
    ``cascades`` are of variants whose accuracy was measured on the same eval split. ``sharing`` has the costs that its
    variants cause each other. These are in a file of their own, so a profile on the disk has none.
    """

    format: int
    made_by: MadeBy
    device: Device
    measured_on: str
    backend: BackendInfo
    variants: tuple[VariantProfile, ...]
    slots: Slots = 1
    network: Network | None = None
    cascades: tuple[CascadeProfile, ...] = ()
    sharing: tuple[SharingCost, ...] = ()

    def __post_init__(self) -> None:
        require_format(self.format)
        require(len({v.key for v in self.variants}) == len(self.variants), "a variant is listed twice")
        pairs = {(cascade.family, cascade.first, cascade.second) for cascade in self.cascades}
        require(len(pairs) == len(self.cascades), "a cascade is listed twice")

    def points_of(self, measured: VariantProfile) -> tuple[Point, ...]:
        """The points of one of its variants while all slots of the device are busy."""
        return measured.points_at(self.slots)

    def exits_of(self, measured: VariantProfile) -> tuple[ExitProfile, ...]:
        """The exits of one of its variants while all slots of the device are busy.

        Their stages were measured alone. They slow down as the whole model does, without its transfer.
        """
        at_once_s, factors = {each.batch: each.mean_s for each in self.points_of(measured)}, dict[int, float]()
        for each in measured.points if self.slots > 1 else ():
            way_s = self.way_s(measured.family, each.batch)
            if each.batch in at_once_s and each.mean_s > way_s:
                factors[each.batch] = (at_once_s[each.batch] - way_s) / (each.mean_s - way_s)
        if not factors:
            return measured.exits

        def factor(batch: int) -> float:
            return max(float(np.interp(batch, list(factors), list(factors.values()))), 1.0)

        return tuple(slower_exit(each, factor) for each in measured.exits)

    def way_s(self, family: str, rows: int) -> float:
        """Seconds of a batch's transfer to the device and back; 0 on this machine."""
        return 0.0 if self.network is None else self.network.transfer_s(family, rows)

    def has_stages(self, measured: VariantProfile) -> bool:
        """Whether one of its variants is served stage by stage, so that rows may be cut short.

        This needs the times of its stages.
        """
        return bool(self.points_of(measured)) and bool(measured.exits) and bool(measured.exits[0].points)

    def of(self, family: str, variant: str) -> VariantProfile | None:
        """The measured variant of that name, or None."""
        return next((v for v in self.variants if v.family == family and v.variant == variant), None)

    def needed_bytes(self, keys: Iterable[VariantKey]) -> int:
        """Bytes of loaded engines of these variants together, with all slots. Unmeasured ones count 0."""
        return sum(m.memory_with(self.slots) for key in set(keys) if (m := self.of(*key)) is not None)


def noisy_cells(profiles: Iterable[Profile]) -> int:
    """The number of noisy cells. A cell that devices share counts once."""
    distinct = {profile.measured_on: profile for profile in profiles}
    return sum(len(variant.noisy) for profile in distinct.values() for variant in profile.variants)
