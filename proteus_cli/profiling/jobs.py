"""Measurement jobs: which cells of which variants a device's profile still lacks."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proteus_cli import store
from proteus_cli.backends.base import Backend
from proteus_cli.domain.catalog import Catalog, Family, Variant, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.profiling.slots import MAX_SLOTS, is_settled, points_of_batch

TYPICAL_CELL_S = 0.25  # for estimates: what a cell with one slot takes …
TYPICAL_SLOTS = 3  # … and how many slots are tried until one more adds nothing


@dataclass(frozen=True, slots=True)
class Cell:
    """One batch size of a variant to measure: with one slot, then with more while each adds throughput."""

    family: str
    variant: str
    batch: int


@dataclass(frozen=True, slots=True)
class MeasurementJob:
    """What is still to be measured of a variant.

    ``known``: what was measured and is current. Of ``cells``, those after the first batch that exceeds the SLO are not
    measured.
    """

    family: Family
    variant: Variant
    model: Path
    eval: Path | None
    known: VariantProfile | None
    model_digest: str
    engine_digest: str
    eval_digest: str | None
    cells: tuple[Cell, ...]
    max_slots: int = 1

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family.name, self.variant.name)

    @property
    def needs_accuracy(self) -> bool:
        """Whether there is an eval split that the known accuracy was not measured on."""
        return self.eval is not None and (self.known is None or self.known.eval_digest != self.eval_digest)


def measurement_jobs(
    workspace: store.Workspace,
    catalog: Catalog,
    device: Device,
    backend: Backend,
    max_batch: int,
    max_slots: int = MAX_SLOTS,
    *,
    force: bool = False,
) -> list[MeasurementJob]:
    """The job of each variant on a device. Raises `ArtefactError` where a model is missing or not named.

    A cell is current while model, backend, its version, device type and threads are what they were; with ``force`` none
    is. Up to ``max_slots`` batches at once are tried, or as many as the backend can.
    """
    max_slots = min(backend.max_slots, max_slots)
    path = workspace.profile_path(device.id)
    known = workspace.profile(device.id) if path.is_file() and not force else None
    elsewhere = ", or import what was measured elsewhere with `--from-csv`"
    jobs = []
    for family, variant in catalog.variants:
        model = workspace.loaded_model_of(family, variant, to="measure", hint=elsewhere)
        eval_path = workspace.eval_path(family)
        model_digest = store.model_digest(model)
        engine_digest = _engine_digest(model_digest, backend, device)
        found = known.of(family.name, variant.name) if known is not None else None
        current = found if found is not None and found.engine_digest == engine_digest else None
        if current is not None and eval_path is None:  # the declared accuracy holds
            current = msgspec.structs.replace(
                current, accuracy=variant.accuracy, eval_digest=None, estimated=variant.estimated
            )
        batches = _batches(current, family.slo_s, max_batch, max_slots)
        jobs.append(
            MeasurementJob(
                family=family,
                variant=variant,
                model=model,
                eval=eval_path,
                known=current,
                model_digest=model_digest,
                engine_digest=engine_digest,
                eval_digest=store.digest(eval_path) if eval_path is not None else None,
                cells=tuple(Cell(family.name, variant.name, batch) for batch in batches),
                max_slots=max_slots,
            )
        )
    return jobs


def _engine_digest(model_digest: str, backend: Backend, device: Device) -> str:
    versions = sorted(backend.versions.versions.items())
    key = (model_digest, backend.versions.name, versions, device.type, device.name, len(device.cores))
    return hashlib.sha256(repr(key).encode()).hexdigest()


def _batches(known: VariantProfile | None, slo_s: float, max_batch: int, max_slots: int) -> Iterator[int]:
    """Known batch sizes that need more slots, then the next powers of two, unless the last one exceeded the SLO."""
    done = known.points if known is not None else ()
    if known is not None:
        yield from (p.batch for p in done if not is_settled(points_of_batch(known, p.batch), slo_s, max_slots))
    if done and done[-1].p95_s > slo_s:
        return
    batch = done[-1].batch * 2 if done else 1
    while batch <= max_batch:
        yield batch
        batch *= 2


def estimate_s(work: Sequence[MeasurementJob], budget_s: float | None) -> float:
    """A rough estimate of how long the cells take, in seconds."""
    guess_s = TYPICAL_CELL_S * sum(len(job.cells) * min(job.max_slots, TYPICAL_SLOTS) for job in work)
    return guess_s if budget_s is None else min(guess_s, budget_s)
