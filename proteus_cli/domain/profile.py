"""Profiles: what was measured of the variants on a device.

The module has the values of one file, each of which checks those within it, and what is read out of several profiles.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from proteus_cli.domain.base import (
    FORMAT,
    LARGEST_BATCH,
    LONGEST_S,
    SHORTEST_S,
    MadeBy,
    Value,
    always,
    is_amount,
    is_count,
    require,
)
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.device import Device
from proteus_cli.domain.interference import SharingCost
from proteus_cli.domain.stages.cascade import CascadeProfile
from proteus_cli.domain.stages.exits import ExitProfile, require_exits, slower_exit

LARGEST_SLOTS = 64

LatencyStatistic = Literal["mean", "p50", "p95", "p99"]
"""Names one of the latencies of a point."""


class BackendInfo(Value, frozen=True):
    """What ran the models: its name and the versions that decide the speed."""

    name: str
    versions: dict[str, str]


class Point(Value, frozen=True, omit_defaults=True):
    """Latency of one batch size over ``runs`` measured runs, in seconds, copies included.

    So many as ``slots`` batches were on the device at once, and each took so long; ``qps`` is slots × batch / mean.
    ``compute_s`` is the mean time that the device computed, by its own clock; ``power_w`` the mean that it drew
    meanwhile, and ``energy_j`` what a row took of it. None is unknown. ``noise_frac`` marks a noisy cell: the part of
    the mean that is due to other programs, or to runs that scatter; 0 where the cell can be trusted.
    """

    batch: int
    runs: int
    mean_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    qps: float
    slots: int = 1
    compute_s: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    noise_frac: float = 0.0

    def __post_init__(self) -> None:
        require(is_count(self.batch, 1, LARGEST_BATCH), f"batch must be from 1 to {LARGEST_BATCH:,}")
        require(is_count(self.runs, 1), f"runs of batch {self.batch} must be at least 1")
        require(
            is_count(self.slots, 1, LARGEST_SLOTS), f"slots of batch {self.batch} must be from 1 to {LARGEST_SLOTS}"
        )
        for latency_s in (self.mean_s, self.p50_s, self.p90_s, self.p95_s, self.p99_s):
            within = SHORTEST_S <= latency_s <= LONGEST_S
            require(within, f"latencies of batch {self.batch} must be from {SHORTEST_S:g} to {LONGEST_S:g} s")
        require(is_amount(self.qps) and self.qps > 0, f"qps of batch {self.batch} must be above zero")
        for amount in (self.compute_s, self.power_w, self.energy_j):
            require(amount is None or is_amount(amount), f"amounts of batch {self.batch} must not be negative")
        require(0 <= self.noise_frac <= 1, f"noise_frac of batch {self.batch} must be a fraction from 0 to 1")

    def latency_s(self, of: LatencyStatistic) -> float:
        """The latency of that name, in seconds."""
        return {"mean": self.mean_s, "p50": self.p50_s, "p95": self.p95_s, "p99": self.p99_s}[of]

    def scaled(self, by: float) -> "Point":
        """The point of batches that take ``by`` times as long, at the same power."""
        return replace(
            self,
            mean_s=self.mean_s * by,
            p50_s=self.p50_s * by,
            p90_s=self.p90_s * by,
            p95_s=self.p95_s * by,
            p99_s=self.p99_s * by,
            qps=self.qps / by,
            compute_s=None if self.compute_s is None else self.compute_s * by,
            energy_j=None if self.energy_j is None else self.energy_j * by,
        )


class RecordedPoint(Value, frozen=True):
    """A batch size that was re-estimated: ``factor`` times the measured latency, from so many ``batches``.

    0 batches: it was extrapolated from other batch sizes.
    """

    batch: int
    factor: float
    batches: int

    def __post_init__(self) -> None:
        require(is_count(self.batch, 1, LARGEST_BATCH), f"batch must be from 1 to {LARGEST_BATCH:,}")
        are_amounts = is_amount(self.factor) and is_count(self.batches)
        require(are_amounts, f"factor and batches of batch {self.batch} must not be negative")


class Recorded(Value, frozen=True):
    """A note that times were re-estimated while serving: when (ISO 8601, UTC), and by how much since measured.

    ``replaces`` is the SHA-256 of the profile that was served with.
    """

    time: str
    replaces: str
    points: tuple[RecordedPoint, ...] = ()


class LiveAccuracyRecord(Value, frozen=True):
    """The accuracy of the last so many labelled ``rows`` while serving, and when that was (ISO 8601, UTC).

    From ``low`` to ``high`` is its 95 % confidence interval. Plans count on it in place of the measured accuracy, until
    that is measured anew.
    """

    time: str
    rows: int
    accuracy: float
    low: float
    high: float

    def __post_init__(self) -> None:
        require(is_count(self.rows, 1), "rows of a live accuracy must be at least 1")
        require(0 <= self.low <= self.accuracy <= self.high <= 1, "a live accuracy must be a fraction in its interval")


class VariantProfile(Value, frozen=True, omit_defaults=True):
    """One variant on one device. ``engine_digest`` is the content key: model, backend, device type and threads.

    ``accuracy`` is measured on the eval split whose digest is ``eval_digest``, or as declared where that is None; the
    catalog may declare it as ``estimated``.
    ``model_digest`` is None where the numbers were imported and the file did not say it.
    Seconds to build and load the engine; ``memory_bytes`` is what a loaded one takes with one slot (0: unknown), and
    ``slot_bytes`` what each more takes. ``power_w`` is what the device draws while it runs, where that was measured.
    ``points`` are of one batch at a time, ``concurrent`` of several on the device at once. ``recorded``: some
    points are no longer as measured; ``live``: nor is the accuracy, by feedback. ``exits`` are those of a multi-exit
    model.
    """

    family: str
    variant: str
    accuracy: float
    model_digest: str | None
    engine_digest: str
    eval_digest: str | None
    build_s: float
    load_s: float
    memory_bytes: int
    points: tuple[Point, ...]
    power_w: float | None = always(None)
    slot_bytes: int = 0
    concurrent: tuple[Point, ...] = ()
    estimated: bool = False
    recorded: Recorded | UnsetType = UNSET
    live: LiveAccuracyRecord | UnsetType = UNSET
    exits: tuple[ExitProfile, ...] = ()

    def __post_init__(self) -> None:
        require_exits(self.exits, self.variant)
        require(self.power_w is None or is_amount(self.power_w), f"power_w of `{self.variant}` must not be negative")
        require(0 <= self.accuracy <= 1, f"accuracy of `{self.variant}` must be a fraction from 0 to 1")
        require(is_amount(self.load_s) and is_amount(self.build_s), f"times of `{self.variant}` must not be negative")
        memory = is_count(self.memory_bytes) and is_count(self.slot_bytes)
        require(memory, f"memory_bytes and slot_bytes of `{self.variant}` must be numbers of bytes")
        batches = [point.batch for point in self.points]
        require(batches == sorted(set(batches)), f"batches of `{self.variant}` must rise")
        require(all(point.slots == 1 for point in self.points), f"points of `{self.variant}` are of one slot")
        places = [(point.batch, point.slots) for point in self.concurrent]
        require(places == sorted(set(places)), f"concurrent points of `{self.variant}` must rise by batch and slots")
        require(all(point.slots > 1 for point in self.concurrent), f"concurrent points of `{self.variant}` are of more")

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.variant)

    @property
    def is_imported(self) -> bool:
        """Whether the numbers came from a file, so that no engine is known, and perhaps no model."""
        return self.model_digest is None or not self.engine_digest

    @property
    def noisy(self) -> tuple[Point, ...]:
        """The points that are marked as noisy."""
        return tuple(point for point in (*self.points, *self.concurrent) if point.noise_frac)

    def points_at(self, slots: int) -> tuple[Point, ...]:
        """The points of so many batches at once."""
        return self.points if slots == 1 else tuple(point for point in self.concurrent if point.slots == slots)

    def points_up_to(self, slots: int) -> tuple[tuple[Point, ...], ...]:
        """Points by the number of batches at once, from 1 to ``slots``; of the next larger if one wasn't measured."""
        found = [self.points_at(slots)]
        for fewer in range(slots - 1, 0, -1):
            found.append(self.points_at(fewer) or found[-1])
        return tuple(reversed(found))

    def memory_with(self, slots: int) -> int:
        """Bytes that a loaded engine takes with so many slots; 0: unknown."""
        return self.memory_bytes + (slots - 1) * self.slot_bytes if self.memory_bytes else 0


class Profile(Value, frozen=True, omit_defaults=True):
    """All variants measured on one device (``profiles/<device>.json``).

    ``measured_on`` is the device of the same type whose measurements these are. It is served with so many ``slots``:
    batches that are on it at once. Of a host of a cluster, latencies have the transfer over its ``network``, where that
    was measured. ``cascades`` are of variants whose accuracy was measured on the same eval split. ``sharing`` is what
    its variants cost each other on the device: it is in a file of its own, and in no profile on the disk.
    """

    format: int
    made_by: MadeBy
    device: Device
    measured_on: str
    backend: BackendInfo
    variants: tuple[VariantProfile, ...]
    slots: int = 1
    network: Network | None = None
    cascades: tuple[CascadeProfile, ...] = ()
    sharing: tuple[SharingCost, ...] = ()

    def __post_init__(self) -> None:
        require(self.format == FORMAT, f"`format` is {self.format}; this version reads {FORMAT}")
        require(is_count(self.slots, 1, LARGEST_SLOTS), f"slots must be from 1 to {LARGEST_SLOTS}")
        keys = [(v.family, v.variant) for v in self.variants]
        require(len(keys) == len(set(keys)), "a variant is listed twice")
        pairs = [(cascade.family, cascade.first, cascade.second) for cascade in self.cascades]
        require(len(pairs) == len(set(pairs)), "a cascade is listed twice")

    def points_of(self, measured: VariantProfile) -> tuple[Point, ...]:
        """The points of one of its variants while all slots of the device are busy."""
        return measured.points_at(self.slots)

    def exits_of(self, measured: VariantProfile) -> tuple[ExitProfile, ...]:
        """The exits of one of its variants while all slots of the device are busy.

        Their stages were measured alone. They slow down as the whole does, without its way over the network.
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
        """The time that a batch is on its way to the device and back; 0 on this machine."""
        return 0.0 if self.network is None else self.network.transfer_s(family, rows)

    def has_stages(self, measured: VariantProfile) -> bool:
        """Whether one of its variants is served stage by stage, so that rows of it may be cut short.

        It is where the times of its stages are known.
        """
        return bool(self.points_of(measured)) and bool(measured.exits) and bool(measured.exits[0].points)

    def of(self, family: str, variant: str) -> VariantProfile | None:
        """The measured variant of that name, or None."""
        return next((v for v in self.variants if v.family == family and v.variant == variant), None)

    def needed_bytes(self, keys: Iterable[VariantKey]) -> int:
        """What loaded engines of these variants take together with all slots, as far as it was measured."""
        return sum(m.memory_with(self.slots) for key in set(keys) if (m := self.of(*key)) is not None)


def reached_over(network: Network, profile: Profile) -> Profile:
    """What was measured on the host itself, as the server sees it: each batch is on its way, too."""
    variants = tuple(
        replace(
            each,
            points=tuple(_later(point, network.transfer_s(each.family, point.batch)) for point in each.points),
            concurrent=tuple(_later(point, network.transfer_s(each.family, point.batch)) for point in each.concurrent),
        )
        for each in profile.variants
    )
    return replace(profile, variants=variants, network=network)


def _later(point: Point, by_s: float) -> Point:
    mean_s = point.mean_s + by_s
    return replace(
        point,
        mean_s=mean_s,
        p50_s=point.p50_s + by_s,
        p90_s=point.p90_s + by_s,
        p95_s=point.p95_s + by_s,
        p99_s=point.p99_s + by_s,
        qps=point.slots * point.batch / mean_s,
    )


def with_load_time(profiles: Mapping[str, Profile], load_s: float) -> dict[str, Profile]:
    """The profiles with that load time for every variant; devices that share measurements still do."""
    changed: dict[int, tuple[VariantProfile, ...]] = {}
    for profile in profiles.values():
        if id(profile.variants) not in changed:
            changed[id(profile.variants)] = tuple(replace(variant, load_s=load_s) for variant in profile.variants)
    return {device: replace(profile, variants=changed[id(profile.variants)]) for device, profile in profiles.items()}


def noisy_cells(profiles: Iterable[Profile]) -> int:
    """How many cells are marked as noisy; those that devices share count once."""
    distinct = {profile.measured_on: profile for profile in profiles}
    return sum(len(variant.noisy) for profile in distinct.values() for variant in profile.variants)
