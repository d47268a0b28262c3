"""Measurement jobs: the cells that a device's profile still lacks."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proteus_cli import store
from proteus_cli.backends.base import Backend
from proteus_cli.domain.catalog import Catalog, Family, Variant, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import LARGEST_SLOTS, Point, Profile, VariantProfile
from proteus_cli.profiling.batch_sizes import useful_sizes
from proteus_cli.profiling.slots import MAX_SLOTS, is_settled, points_of_batch
from proteus_cli.store.answers import Answers, read_answers
from proteus_cli.store.eval_splits import eval_rows


@dataclass(frozen=True, slots=True)
class ProfileCell:
    """One batch size of a variant to measure: with one slot, then with more while each adds throughput."""

    family: str
    variant: str
    batch: int


@dataclass(frozen=True, slots=True)
class MeasurementJob:
    """The missing measurements of a variant: batch sizes up to ``max_batch``, each with up to ``max_slots``.

    ``known``: what was measured and is current. ``marked`` are the points to measure again, which ``known`` lacks:
    noisy ones, and those with more slots that build on them. With ``accepts_noise`` none is measured again, and
    none is marked; ``known`` keeps the marks that it has. ``answers`` to the eval split are None where they are to be
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
    max_batch: int
    max_slots: int = 1
    marked: tuple[Point, ...] = ()
    accepts_noise: bool = False
    answers: Answers | None = None

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family.name, self.variant.name)

    @property
    def cells(self) -> tuple[ProfileCell, ...]:
        """The cells to measure, in order of use. Each cell that is measured may show that others are useless."""
        unsettled = (ProfileCell(self.family.name, self.variant.name, batch) for batch in self.unsettled(self.known))
        return (*unsettled, *self.unmeasured(self.known))

    def unmeasured(self, known: VariantProfile | None) -> tuple[ProfileCell, ...]:
        """The cells of batch sizes that plans can use and that are not known, in order of use."""
        sizes = useful_sizes(known.points if known is not None else (), self.family.slo_s, self.max_batch)
        return tuple(ProfileCell(self.family.name, self.variant.name, batch) for batch in sizes)

    def unsettled(self, known: VariantProfile | None) -> tuple[int, ...]:
        """The measured batch sizes that are to be measured with more slots."""
        if known is None:
            return ()
        by_batch = ((point.batch, points_of_batch(known, point.batch)) for point in known.points)
        return tuple(batch for batch, points in by_batch if not is_settled(points, self.family.slo_s, self.max_slots))

    def lacks_accuracy(self, known: VariantProfile | None) -> bool:
        """Whether there is an eval split that the known accuracy was not measured on."""
        return self.eval is not None and (known is None or known.eval_digest != self.eval_digest)

    @property
    def lacks_answers(self) -> bool:
        """Whether there is an eval split, and nothing current is known of single rows of it."""
        return self.eval is not None and self.answers is None


def measurement_jobs(
    workspace: store.Workspace,
    catalog: Catalog,
    device: Device,
    backend: Backend,
    max_batch: int,
    max_slots: int = MAX_SLOTS,
    *,
    force: bool = False,
    accepts_noise: bool = False,
) -> list[MeasurementJob]:
    """The job of each variant on a device. Raises `ArtefactError` where a model is missing or not named.

    A cell is current while model, backend, its version, device type and threads are what they were; with ``force`` none
    is. Up to ``max_slots`` batches at once are tried, or as many as the backend can. Noisy cells are to be measured
    again, unless the user ``accepts_noise``.
    """
    max_slots = min(backend.max_slots, max_slots)
    path = workspace.profile_path(device.id)
    known = workspace.profile(device.id) if path.is_file() and not force else None
    answered = known_answers(workspace, known) if known is not None else {}
    elsewhere = ", or import what was measured elsewhere with `--from-csv`"
    jobs = []
    for family, variant in catalog.variants:
        model = workspace.loaded_model_of(family, variant, to="measure", hint=elsewhere)
        eval_path = workspace.eval_path(family)
        model_digest = store.model_digest(model)
        engine_digest = _engine_digest(model_digest, backend, device)
        eval_digest = store.digest(eval_path) if eval_path is not None else None
        answers = answered.get((family.name, variant.name, engine_digest, eval_digest, family.confidence))
        if answers is not None and eval_path is not None and not answers.are_of(eval_rows(eval_path)):
            answers = None
        found = known.of(family.name, variant.name) if known is not None else None
        current = _current(found, variant, engine_digest, has_eval=eval_path is not None)
        current, marked = (current, ()) if current is None or accepts_noise else without_noise(current)
        jobs.append(
            MeasurementJob(
                family=family,
                variant=variant,
                model=model,
                eval=eval_path,
                known=current,
                model_digest=model_digest,
                engine_digest=engine_digest,
                eval_digest=eval_digest,
                max_batch=max_batch,
                max_slots=max_slots,
                marked=marked,
                accepts_noise=accepts_noise,
                answers=answers,
            )
        )
    return jobs


def _current(
    found: VariantProfile | None, variant: Variant, engine_digest: str, *, has_eval: bool
) -> VariantProfile | None:
    """The ``found`` profile of a variant if it is of its engine; without an eval split, the declared accuracy holds."""
    if found is None or found.engine_digest != engine_digest:
        return None
    if has_eval:
        return found
    return msgspec.structs.replace(found, accuracy=variant.accuracy, eval_digest=None, estimated=variant.estimated)


def known_answers(workspace: store.Workspace, profile: Profile) -> dict[tuple[str | None, ...], Answers]:
    """The answers that stand beside a profile, or beside the one that it shares its measurements with.

    By family, variant and `Answers.content_key`. Raises `ArtefactError` where a file is damaged.
    """
    devices = dict.fromkeys((profile.measured_on, profile.device.id))
    found = [read_answers(workspace.answers_path(device)) for device in devices]
    return {(*key, *answers.content_key): answers for each in found for key, answers in each.items()}


def without_noise(known: VariantProfile) -> tuple[VariantProfile, tuple[Point, ...]]:
    """The profile without its noisy points, and these. With a noisy number of slots go the larger ones of its batch."""
    noisy_from: dict[int, int] = {}
    for point in known.concurrent:
        if point.noise_frac:
            noisy_from.setdefault(point.batch, point.slots)
    points = [point for point in known.points if not point.noise_frac]
    concurrent = [each for each in known.concurrent if each.slots < noisy_from.get(each.batch, LARGEST_SLOTS + 1)]
    marked = [each for each in (*known.points, *known.concurrent) if each not in (*points, *concurrent)]
    trusted = msgspec.structs.replace(known, points=tuple(points), concurrent=tuple(concurrent))
    return trusted, tuple(marked)


def _engine_digest(model_digest: str, backend: Backend, device: Device) -> str:
    versions = sorted(backend.versions.versions.items())
    key = (model_digest, backend.versions.name, versions, device.type, device.name, len(device.cores))
    return hashlib.sha256(repr(key).encode()).hexdigest()
