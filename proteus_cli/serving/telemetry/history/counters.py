"""The counters of the data plane at one moment. Their growth between two moments gives rates, loads and quantiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.request import Outcome
from proteus_cli.serving.requests.counts import FamilyCounts, quantile
from proteus_cli.serving.requests.data_plane import DataPlane

_OUTCOMES = (Outcome.LATE, Outcome.DROPPED, Outcome.REJECTED, Outcome.FAILED, Outcome.SERVED)


@dataclass(frozen=True, slots=True)
class Counters:
    """All counters at ``at_s``, with a row for each family or device.

    ``families`` has these columns: rows that arrived, that batches answered, and that were in time; requests by outcome
    (late, dropped, rejected, failed, served); the sum of the accuracies of those served; answered requests that first
    stages deferred; fallbacks among them; answers that were cut short. ``latencies`` has the buckets of each family,
    ``devices`` the seconds in which batches ran, batches, and their rows. ``answers`` counts requests answered in time,
    by (family, variant, device). ``counts`` are what the families were read from, by name. A family that has gone and
    come back has other counts.
    """

    at_s: float
    counts: Mapping[str, FamilyCounts]
    families: Floats
    latencies: Floats
    devices: Floats
    answers: Mapping[tuple[str, str, str], int]

    def with_families(self, counts: Mapping[str, FamilyCounts]) -> "Counters":
        """What was read then of the families that there are now; of new ones, nothing had been counted."""
        places = {name: place for place, name in enumerate(self.counts)}
        families, latencies = (np.zeros((len(counts), table.shape[1])) for table in (self.families, self.latencies))
        for row, (name, of) in enumerate(counts.items()):
            if self.counts.get(name) is of:
                families[row], latencies[row] = self.families[places[name]], self.latencies[places[name]]
        answers = {key: number for key, number in self.answers.items() if self.counts.get(key[0]) is counts.get(key[0])}
        return replace(self, counts=dict(counts), families=families, latencies=latencies, answers=answers)

    def family_rates(self, before: "Counters") -> Floats:
        """How much ``families`` have grown per second."""
        took_s, growth = self.at_s - before.at_s, self.families - before.families
        return growth / took_s if took_s > 0 else np.zeros_like(growth)

    def ended(self) -> Ints:
        """The requests of each family that have ended, and how many of them were SLO violations."""
        *violations, served = self.families[:, 3:8].T.astype(np.int64)
        violating = np.sum(violations, axis=0)
        return np.column_stack((violating + served, violating))

    def answer_rate(self, before: "Counters", family: str, variant: str, device: str) -> float:
        """Answers a second of a variant on a device, since an earlier reading."""
        took_s, key = self.at_s - before.at_s, (family, variant, device)
        return (self.answers.get(key, 0) - before.answers.get(key, 0)) / took_s if took_s > 0 else 0.0

    def variant_rates(self, before: "Counters", variants: Sequence[tuple[str, str]]) -> Floats:
        """A row with one column for each of ``variants``, by family and name: the rate of `answers` on all devices."""
        took_s, place = self.at_s - before.at_s, {key: at for at, key in enumerate(variants)}
        rates = np.zeros((len(variants), 1))
        for (family, variant, device), number in self.answers.items():
            if (family, variant) in place and took_s > 0:
                rates[place[family, variant]] += (number - before.answers.get((family, variant, device), 0)) / took_s
        return rates

    def device_loads(self, before: "Counters") -> Floats:
        """The fraction of time in which each device ran batches, and the mean rows of its batches (NaN: none)."""
        growth = self.devices.copy()
        growth[: len(before.devices)] -= before.devices  # devices that joined meanwhile are behind those
        busy_s, batches, rows = growth.T
        took_s = self.at_s - before.at_s
        with np.errstate(invalid="ignore"):
            return np.column_stack((busy_s / took_s if took_s > 0 else busy_s * 0, rows / batches))

    def latency_quantiles_s(self, before: "Counters", plane: DataPlane, fraction: float) -> list[float | None]:
        """A quantile of the latencies meanwhile, by family; None where no batch answered.

        Where buckets have changed with the SLO, what was counted in others is left out.
        """
        growth = np.maximum(self.latencies - before.latencies, 0).tolist()
        families = plane.counts.by_family.values()
        return [quantile(of.latency.bounds, counts, fraction) for of, counts in zip(families, growth, strict=True)]


def read_counters(plane: DataPlane, now_s: float) -> Counters:
    """All counters of the data plane now."""
    by_family, demand = plane.counts.by_family, plane.controller.demand
    families = [
        (
            demand.counts_of(family).total,
            of.answered_rows,
            of.rows,
            *map(of.of_outcome, _OUTCOMES),
            of.accuracy,
            of.deferred,
            of.fallbacks,
            of.cut.total(),
        )
        for family, of in by_family.items()
    ]
    devices = [(worker.busy_s, worker.batches, worker.rows) for worker in plane.fleet.workers.values()]
    return Counters(
        now_s,
        dict(by_family),
        np.array(families, np.float64),
        np.array([of.latency.counts for of in by_family.values()], np.float64),
        np.array(devices, np.float64).reshape(-1, 3),
        {
            (family, variant, device): number
            for family, of in by_family.items()
            for (variant, device, outcome), number in of.outcomes.items()
            if outcome is Outcome.SERVED and device
        },
    )
