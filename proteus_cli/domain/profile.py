"""Profiles: what was measured of the variants on a device."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from proteus_cli.domain.arrays import Floats
from proteus_cli.domain.base import FORMAT, MadeBy, Value, always, is_amount, is_count, require
from proteus_cli.domain.cascade import CascadeProfile
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.network import Network

LARGEST_BATCH = 65_536
"""Tables of latencies have an entry for each row of the largest batch."""
LARGEST_SLOTS = 64
SHORTEST_S, LONGEST_S = 1e-9, 1e7
"""Of a batch: from less than a step of any clock to a third of a year. Rates, their inverse, stay finite."""

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
    """That times were re-estimated while serving, when (ISO 8601, UTC), and by how much since they were measured.

    ``replaces`` is the SHA-256 of the profile that was served with.
    """

    time: str
    replaces: str
    points: tuple[RecordedPoint, ...] = ()


class VariantProfile(Value, frozen=True, omit_defaults=True):
    """One variant on one device. ``engine_digest`` is the content key: model, backend, device type and threads.

    ``accuracy`` is measured on the eval split whose digest is ``eval_digest``, or as declared where that is None; the
    catalog may declare it as ``estimated``.
    ``model_digest`` is None where the numbers were imported and the file did not say it.
    Seconds to build and load the engine; ``memory_bytes`` is what a loaded one takes with one slot (0: unknown), and
    ``slot_bytes`` what each more takes. ``power_w`` is what the device draws while it runs, where that was measured.
    ``points`` are of one batch at a time, ``concurrent`` of several on the device at once. ``recorded``: some
    points are no longer as measured.
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

    def __post_init__(self) -> None:
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
    was measured. ``cascades`` are of variants whose accuracy was measured on the same eval split.
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

    def of(self, family: str, variant: str) -> VariantProfile | None:
        """The measured variant of that name, or None."""
        return next((v for v in self.variants if v.family == family and v.variant == variant), None)


class Capacity(Value, frozen=True):
    """The best rate of a variant on a device within its SLO, and the batch size that gives it."""

    qps: float
    max_batch: int


NO_CAPACITY = Capacity(qps=0.0, max_batch=0)


class CapacityStep(Value, frozen=True):
    """The capacity of a variant on a device where ``hosts`` or more serve its family, up to those of the next step."""

    hosts: int
    capacity: Capacity


NO_STEP = CapacityStep(0, NO_CAPACITY)


ROUNDING = 1e-9  # hosts; a count that is whole but for the last bits is not the next one
SAME_RATE_FRAC = 0.03
"""Rates that differ by less are the same: batches are measured until their p95 is stable to so much. The largest batch
is a limit, and with a larger one the server has less to do for each query."""
LONG_WAIT_FRAC = 0.005
"""The part of queries that may wait longer than `slo_fraction` counts on: so many miss an attainment of 99.5 %."""


HOST_STEPS = np.array([1, *(n * 2**power for power in range(17) for n in (2, 3)), math.inf])
"""The numbers of hosts at which capacities change: 1, 2, 3, 4, 6, 8, 12 … With finer steps, plans of one host less than
their batches count on would be the rule, and each of them is solved again."""


def slo_fraction(hosts: int) -> float:
    """The part of the SLO that one batch may take where so many hosts serve a family from one queue.

    The first query in the queue waits for the first host that ends its batch. If all are busy with batches of a latency
    L, at any place in them, it waits longer than w with the probability ``(1 - w/L) ** hosts``. The wait that no more
    than `LONG_WAIT_FRAC` of queries exceed, and the batch itself, fit the SLO: near a half with one host, as a query
    may just miss a batch, and near 1 with many.
    """
    longest_wait = 1 - math.pow(LONG_WAIT_FRAC, 1 / hosts)  # in batches
    return 1 / (1 + longest_wait)


def hosts_needed(parts: Floats) -> Floats:
    """The fewest hosts with which one batch may take each part of the SLO; infinite where no number is enough."""
    found = np.where(parts < 1, 1.0, math.inf)
    is_longer = (parts > slo_fraction(1)) & (parts < 1)
    found[is_longer] = np.ceil(math.log(LONG_WAIT_FRAC) / np.log(2 - 1 / parts[is_longer]) - ROUNDING)
    return found


def points_in_time(points: Iterable[Point], longest_s: float, *, of: LatencyStatistic = "p95") -> list[Point]:
    """The points whose latency is at most ``longest_s``."""
    return [point for point in points if point.latency_s(of) <= longest_s]


def capacity(points: Iterable[Point], *, of: LatencyStatistic = "mean") -> Capacity:
    """The best batch / latency of these points (paper §4).

    Where several batches are on the device at once, latencies are those of that many, and as many end in that time.
    """
    within = list(points)
    if not within:
        return NO_CAPACITY
    best = max(within, key=lambda point: _rate_qps(point, of))
    return Capacity(qps=_rate_qps(best, of), max_batch=best.batch)


def capacity_by_hosts(points: Sequence[Point], slo_s: float, *, of: LatencyStatistic = "mean") -> list[CapacityStep]:
    """The capacity by the number of hosts that serve a family: the best rate of all batches that may wait for so many.

    Of all sizes, as latencies are linear between the measured ones, that of the best rate; or the largest measured one
    of the same rate, within what rates are measured to. All points are of one number of slots.
    """
    if not points:
        return []
    measured = [point.batch for point in points]
    batches = np.arange(measured[0], measured[-1] + 1)
    needed = hosts_needed(np.interp(batches, measured, [point.p95_s for point in points]) / slo_s)
    hosts = HOST_STEPS[np.searchsorted(HOST_STEPS, needed)]
    rates_qps = points[0].slots * batches / np.interp(batches, measured, [point.latency_s(of) for point in points])
    steps: list[CapacityStep] = []
    for fewest in np.unique(hosts[hosts < math.inf]).tolist():
        within = np.where(hosts <= fewest, rates_qps, 0.0)
        best = int(within.argmax())
        if not steps or within[best] > steps[-1].capacity.qps:
            same = [n for n in measured if within[n - measured[0]] >= (1 - SAME_RATE_FRAC) * within[best]]
            largest_batch = max([measured[0] + best, *same])
            steps.append(CapacityStep(int(fewest), Capacity(float(within[best]), largest_batch)))
    return steps


def capacity_at(steps: Iterable[CapacityStep], hosts: int) -> Capacity:
    """The capacity where so many hosts serve the family; the steps rise."""
    return max((step for step in steps if step.hosts <= hosts), key=lambda step: step.hosts, default=NO_STEP).capacity


def _rate_qps(point: Point, of: LatencyStatistic) -> float:
    return point.slots * point.batch / point.latency_s(of)


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


def relative(accuracy: float, best: float) -> float:
    """``accuracy`` as a part of the best; the whole where even the best is 0."""
    return accuracy / best if best > 0 else 1.0


def best_accuracy(profiles: Iterable[Profile]) -> dict[str, float]:
    """The accuracy of the most accurate variant of each family, whatever it costs."""
    return {family: max(of.values()) for family, of in accuracy_by_variant(profiles).items()}


def accuracy_by_variant(profiles: Iterable[Profile]) -> dict[str, dict[str, float]]:
    """By family the variants, the most accurate first, each with its accuracy on the device where that is highest."""
    found: dict[str, dict[str, float]] = {}
    distinct = {id(profile.variants): profile.variants for profile in profiles}  # like devices share theirs
    for measured in (variant for variants in distinct.values() for variant in variants):
        of_family = found.setdefault(measured.family, {})
        of_family[measured.variant] = max(of_family.get(measured.variant, 0.0), measured.accuracy)
    return {family: dict(sorted(of.items(), key=lambda each: -each[1])) for family, of in found.items()}


def estimated_families(profiles: Iterable[Profile]) -> frozenset[str]:
    """The families of which some variant's accuracy is an estimate, and with it the relative accuracy of all."""
    distinct = {id(profile.variants): profile.variants for profile in profiles}
    return frozenset(measured.family for variants in distinct.values() for measured in variants if measured.estimated)


def accuracies(profiles: Mapping[str, Profile]) -> Callable[[str, str, str], float]:
    """The accuracy of a variant by device id, family and variant; raises `KeyError` where it was never profiled.

    Devices that share one profile share the work.
    """
    known: dict[int, dict[tuple[str, str], float]] = {}

    def accuracy(device: str, family: str, variant: str) -> float:
        variants = profiles[device].variants
        if id(variants) not in known:
            known[id(variants)] = {(v.family, v.variant): v.accuracy for v in variants}
        return known[id(variants)][family, variant]

    return accuracy


class LatencyTable:
    """Latency in seconds of every batch size, linear between the measured ones and never falling.

    Beyond the largest measured batch it goes on with the cost per row of that batch.
    """

    def __init__(self, points: tuple[Point, ...], of: Callable[[Point], float]) -> None:
        require(bool(points), "a latency table needs at least one point")
        batches = [point.batch for point in points]
        latencies_s = np.maximum.accumulate([of(point) for point in points])
        # A batch below the first measured one costs what the first one does: it would be padded.
        by_rows_s = np.interp(np.arange(batches[-1] + 1), batches, latencies_s)
        self._by_rows: tuple[float, ...] = (0.0, *by_rows_s[1:].tolist())
        self._per_row_s = self._by_rows[-1] / (len(self._by_rows) - 1)

    def __call__(self, rows: int) -> float:
        """Seconds that a batch of ``rows`` takes."""
        try:
            return self._by_rows[rows]
        except IndexError:
            return self._by_rows[-1] + (rows - len(self._by_rows) + 1) * self._per_row_s

    def max_rows_within(self, budget_s: float, at_most: int) -> int:
        """The largest batch of ``at_most`` rows or fewer that takes ``budget_s`` or less; 0 if none does."""
        measured = len(self._by_rows) - 1
        rows = at_most
        while rows > measured and self(rows) > budget_s:
            rows -= 1
        return rows if rows > measured else bisect_right(self._by_rows, budget_s, 1, rows + 1) - 1
