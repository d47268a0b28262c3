"""Devices as reports show them: like ones together, as there may be hundreds."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from proteus_cli.domain.fleet import base_name
from proteus_cli.domain.report import DeviceSummary, Report


@dataclass(frozen=True, slots=True)
class SimilarDevices:
    """Devices that were made up from one name, such as ``v100-0`` and ``v100-1``, or one real device."""

    name: str
    devices: tuple[str, ...]

    @property
    def label(self) -> str:
        """``gpu0``, or of several ``10 × v100``."""
        return self.devices[0] if len(self.devices) == 1 else f"{len(self.devices)} × {self.name}"

    def summary(self, report: Report) -> DeviceSummary:
        """What its devices did together."""
        return _together([report.devices[device] for device in self.devices if device in report.devices])


def similar_devices(reports: Sequence[Report]) -> tuple[SimilarDevices, ...]:
    """The devices of all reports by kind, in the order in which they first appear."""
    members: dict[str, dict[str, None]] = {}
    for report in reports:
        for device in report.devices:
            members.setdefault(base_name(device), {})[device] = None
    return tuple(SimilarDevices(name, tuple(devices)) for name, devices in members.items())


def variant_shares(summary: DeviceSummary) -> Iterator[tuple[str, float]]:
    """The variants that answered, the busiest first, with their part of the answers."""
    counts = [(name, n) for variants in summary.answers_by_variant.values() for name, n in variants.items()]
    for name, n in sorted(counts, key=lambda each: -each[1]):
        yield name, n / summary.answers


def _together(parts: Sequence[DeviceSummary]) -> DeviceSummary:
    batched = [(part.batches, part.mean_batch) for part in parts if part.batches and part.mean_batch]
    rated = [(part.answers, part.relative_accuracy) for part in parts if part.relative_accuracy is not None]
    batches = sum(n for n, _ in batched)
    answers = sum(n for n, _ in rated)
    return DeviceSummary(
        answers=sum(part.answers for part in parts),
        batches=batches or None,
        mean_batch=sum(n * mean for n, mean in batched) / batches if batches else None,
        relative_accuracy=sum(n * accuracy for n, accuracy in rated) / answers if answers else None,
        answers_by_variant=_added([part.answers_by_variant for part in parts]),
    )


def _added(parts: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    families = dict.fromkeys(family for part in parts for family in part)
    return {family: dict(sum((Counter(part.get(family, {})) for part in parts), Counter())) for family in families}
