"""Devices in groups of a host, or of similar ones: a fleet may have hundreds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import by_host
from proteus_cli.domain.fleet import base_name
from proteus_cli.domain.report import DeviceSummary, Report
from proteus_cli.reporting.timeline import summed_answers, weighted_mean


@dataclass(frozen=True, slots=True)
class SimilarDevices:
    """Hypothetical or emulated devices of one base name, such as ``v100-0`` and ``v100-1``, or one real device.

    Devices of a host have base names of their own, such as ``a/v100``.
    """

    name: str
    devices: tuple[str, ...]

    @property
    def label(self) -> str:
        """``gpu0``, or of several ``10 × v100``."""
        return self.devices[0] if len(self.devices) == 1 else f"{len(self.devices)} × {self.name}"

    def summary(self, report: Report) -> DeviceSummary:
        """The answers and batches of all its devices in a run."""
        return _sum([report.devices[device] for device in self.devices if device in report.devices])


@dataclass(frozen=True, slots=True)
class DevicesOfHost(SimilarDevices):
    """The devices of a host; ``name`` is empty for this machine."""

    @property
    def label(self) -> str:
        """``host a``, or ``this machine``."""
        return f"host {self.name}" if self.name else "this machine"


def grouped_devices(reports: Sequence[Report]) -> tuple[SimilarDevices, ...]:
    """The devices of all reports by host where there are several, else as `similar_devices`."""
    hosts = by_host(dict.fromkeys(device for report in reports for device in report.devices))
    if len(hosts) < 2:  # noqa: PLR2004
        return similar_devices(reports)
    return tuple(DevicesOfHost(name, tuple(devices)) for name, devices in hosts.items())


def similar_devices(reports: Sequence[Report]) -> tuple[SimilarDevices, ...]:
    """The devices of all reports by base name, in the order in which they first appear."""
    members: dict[str, dict[str, None]] = {}
    for device in dict.fromkeys(device for report in reports for device in report.devices):
        members.setdefault(base_name(device), {})[device] = None
    return tuple(SimilarDevices(name, tuple(devices)) for name, devices in members.items())


def variant_shares(summary: DeviceSummary) -> Iterator[tuple[VariantKey, float]]:
    """The variants that answered, the busiest first, with their share of the answers."""
    by_variant = summary.answers_by_variant.items()
    counts = [(VariantKey(family, name), n) for family, variants in by_variant for name, n in variants.items()]
    for key, n in sorted(counts, key=lambda each: -each[1]):
        yield key, n / summary.answers


def _sum(parts: Sequence[DeviceSummary]) -> DeviceSummary:
    batches = [part.batches or 0 for part in parts]
    return DeviceSummary(
        answers=sum(part.answers for part in parts),
        batches=sum(batches) or None,
        mean_batch=weighted_mean([part.mean_batch for part in parts], batches),
        relative_accuracy=weighted_mean([part.relative_accuracy for part in parts], [part.answers for part in parts]),
        answers_by_variant=summed_answers(part.answers_by_variant for part in parts),
    )
