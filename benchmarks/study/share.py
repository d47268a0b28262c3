"""How well pairs predict sets of three that share a device: real measurements of the zoo on this machine.

The prediction of a triple has seen its pairs and nothing else. Beside it stands what would be off if sharing were taken
to cost nothing; and by how much a triple differs from itself, measured again after all others: what is beyond
about that is the error of the model, not of the measurement.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from benchmarks.study.parts import Found
from benchmarks.tables import Aim
from proteus_cli.backends.discovery import discover
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.interference import SharingModel
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.profile import Profile
from proteus_cli.settings import DeviceSettings
from proteus_cli.store import Workspace
from proteus_cli.studies.sharing import (
    SetCheck,
    SharingCell,
    SharingResult,
    Sizes,
    batch_sizes,
    checks_of,
    costs_of,
    opening_of,
    pairs_only,
    qps_of,
)
from proteus_cli.studies.sharing_bench import Work, opened_bench

ROOT = Path(__file__).parents[2]
VARIANTS = ("digits-s", "digits-m", "digits-l", "signals-l", "digits-xl")
FEW = 3
CELL_S = 6.0
"""The longest that a cell takes, but for its fewest rounds."""
MAX_PERCENT = 10.0


@dataclass(frozen=True, slots=True)
class _Zoo:
    """The zoo on the first device of this machine; times of the profile in the repository only set the scale."""

    workspace: Workspace
    catalog: Catalog
    profile: Profile

    @classmethod
    def here(cls) -> "_Zoo":
        workspace = Workspace(ROOT)
        device = discover(DeviceSettings())[0]
        return cls(workspace, workspace.catalog(), replace(workspace.profile("cpu0"), device=device))

    def sizes(self, names: tuple[str, ...]) -> dict[VariantKey, Sizes]:
        found = {}
        for family, variant in map(self.catalog.find, names):
            measured = self.profile.of(family.name, variant.name)
            assert measured is not None
            found[measured.key] = batch_sizes(measured, family.slo_s)
        return found

    def batch_s(self, work: Work) -> float:
        measured = self.profile.of(*work.key)
        assert measured is not None
        return LatencyTable(measured.points, of=lambda point: point.mean_s)(work.batch)


def measure(is_quick: bool) -> Found:  # noqa: FBT001 - a part of the benchmark
    """Measure all pairs and all triples on one device, with small and with larger batches."""
    zoo = _Zoo.here()
    sizes = zoo.sizes(VARIANTS[:FEW] if is_quick else VARIANTS)
    results = _measured(zoo, _cells(sizes, (2, 3), is_quick=is_quick), sizes, is_quick=is_quick)
    again = _measured(zoo, _cells(sizes, (3,), is_quick=is_quick), sizes, is_quick=is_quick)
    checks = checks_of(results)
    worst_percent = 100 * max(check.error_frac for check in checks)
    return Found(
        [*_lines(results, checks), *_noise_lines(checks, again)],
        [
            Aim(
                f"throughput of {len(checks)} triples by their pairs",
                worst_percent,
                MAX_PERCENT,
                "% off",
                is_most=True,
            )
        ],
    )


def _measured(
    zoo: _Zoo, cells: Iterable[SharingCell], sizes: Mapping[VariantKey, Sizes], *, is_quick: bool
) -> dict[str, SharingResult]:
    opening, results = opening_of(zoo.workspace, zoo.catalog, zoo.profile, sizes), {}
    labels = {key: key.variant for key in sizes}
    with opened_bench(opening) as bench:
        for cell in cells:
            expected_s = [zoo.batch_s(work) for work in cell.works]
            allowed_s = 0.1 if is_quick else CELL_S
            results[cell.key(labels)] = cell.measured(bench, expected_s, allowed_s, lambda _now, _done: None)
    return results


def _cells(sizes: Mapping[VariantKey, Sizes], counts: tuple[int, ...], *, is_quick: bool) -> Iterator[SharingCell]:
    for count in counts:
        for keys in combinations(sizes, count):
            yield SharingCell(tuple(Work(key, sizes[key][0]) for key in keys))
            if not is_quick:
                yield SharingCell(tuple(Work(key, sizes[key][1]) for key in keys))


def _lines(results: Mapping[str, SharingResult], checks: tuple[SetCheck, ...]) -> Iterator[str]:
    for check in checks:
        yield (
            f"{check.cell}: {check.predicted_qps:,.0f} predicted, {check.measured_qps:,.0f} measured rows/s, "
            f"{100 * check.error_frac:.1f} % off"
        )
    triples = [result for result in results.values() if len(result.members) > 2]
    model = pairs_only(costs_of(results.values()))
    off = [each for result in triples for each in _off_percent(model, result)]
    yield f"single variants in triples: {np.median(off):.1f} % off in the median, {max(off):.1f} % at worst"
    others = {
        "sharing is taken to cost nothing": [[1.0] * 3 for _ in triples],
        "excesses are added up": [_summed(model, result) for result in triples],
    }
    for what, factors in others.items():
        errors = [
            abs(qps_of(result, each) / _measured_qps(result) - 1) for result, each in zip(triples, factors, strict=True)
        ]
        yield f"if {what}: throughput {100 * max(errors):.1f} % off at worst"


def _noise_lines(checks: tuple[SetCheck, ...], again: Mapping[str, SharingResult]) -> Iterator[str]:
    """By how much triples differ from themselves; and of the one that was predicted worst, whether it is off again."""
    measured_qps = {cell: _measured_qps(result) for cell, result in again.items()}
    apart = [100 * abs(measured_qps[check.cell] / check.measured_qps - 1) for check in checks]
    yield f"measured again: triples differ by {np.median(apart):.1f} % in the median, {max(apart):.1f} % at worst"
    worst = max(checks, key=lambda check: check.error_frac)
    off = 100 * abs(worst.predicted_qps / measured_qps[worst.cell] - 1)
    yield f"the triple that was predicted worst, {worst.cell}: {100 * worst.error_frac:.1f} % off, then {off:.1f} %"


def _measured_qps(result: SharingResult) -> float:
    return qps_of(result, [each.ratio for each in result.members])


def _summed(model: SharingModel, result: SharingResult) -> list[float]:
    """What one might think: what each of the others costs comes on top."""
    return [
        1 + sum(model.factor(each.key, [other], batch=each.batch) - 1 for other in result.beside(place))
        for place, each in enumerate(result.members)
    ]


def _off_percent(model: SharingModel, result: SharingResult) -> list[float]:
    return [
        100 * abs(model.factor(each.key, result.beside(place), batch=each.batch) / each.ratio - 1)
        for place, each in enumerate(result.members)
    ]
