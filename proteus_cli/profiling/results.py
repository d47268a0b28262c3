"""The results of a sweep: the current part of a device's profile, and what is measured in addition."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from proteus_cli import store
from proteus_cli.backends.base import Backend, Runner
from proteus_cli.backends.exits.runner import ExitRunner
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.capacity import capacity
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Point, Profile, VariantProfile
from proteus_cli.domain.stages.exits import ExitProfile
from proteus_cli.errors import ArtefactError
from proteus_cli.profiling.answers import confidence_output, measure_answers
from proteus_cli.profiling.cascades import FoundCascades, StageAnswers, cascades_of
from proteus_cli.profiling.exits import judged, unjudged
from proteus_cli.profiling.jobs import MeasurementJob, ProfileCell
from proteus_cli.profiling.slots import best_slots
from proteus_cli.store.answers import Answers, kept_rows, read_answers, write_answers


class SweepResults:
    """Profiles of variants, and their answers to the eval split. `save` writes both."""

    def __init__(
        self, workspace: store.Workspace, device: Device, backend: Backend, jobs: Sequence[MeasurementJob]
    ) -> None:
        self._workspace, self._device, self._backend, self._jobs = workspace, device, backend, jobs
        self._known = {job.key: job.known for job in jobs if job.known is not None}
        is_there = workspace.profile_path(device.id).is_file()
        before = workspace.profile(device.id) if is_there else None
        self._before = _measured_content(before) if before is not None else (device.type, 1, (), ())
        self._is_shared = before is not None and before.measured_on != device.id
        self._answers = {job.key: job.answers for job in jobs if job.answers is not None}
        self._answers_path = workspace.answers_path(device.id)
        self._written = _content_keys(self._answers_path)
        self._judged: dict[str, tuple[object, FoundCascades]] = {}
        self.max_slots = max((job.max_slots for job in jobs), default=1)

    def __getitem__(self, key: VariantKey) -> VariantProfile:
        """The results of a variant. Raises `KeyError` if it was never loaded."""
        return self._known[key]

    # --- reading

    @property
    def started(self) -> list[tuple[MeasurementJob, VariantProfile]]:
        """The jobs whose variants were loaded, now or before, with their results."""
        return [(job, self._known[job.key]) for job in self._jobs if job.key in self._known]

    @property
    def unmeasured(self) -> tuple[ProfileCell, ...]:
        """The unknown cells of batch sizes that plans can use, in order of use."""
        return tuple(cell for job in self._jobs for cell in self.unmeasured_of(job))

    def unmeasured_of(self, job: MeasurementJob) -> tuple[ProfileCell, ...]:
        """The cells of a job that have no result yet."""
        return job.unmeasured(self._known.get(job.key))

    @property
    def unverified(self) -> tuple[VariantProfile, ...]:
        """The variants with the accuracy of the catalog, though there is an eval split to measure it on."""
        return tuple(known for job, known in self.started if job.lacks_accuracy(known))

    @property
    def no_longer_estimated(self) -> tuple[VariantProfile, ...]:
        """The variants whose accuracy was measured, while the catalog has an estimate."""
        measured = ((job, known) for job, known in self.started if job.lacks_accuracy(job.known))
        return tuple(known for job, known in measured if job.variant.estimated and not job.lacks_accuracy(known))

    @property
    def lacks_answers(self) -> bool:
        """Whether the accuracy or answers of a variant are still to be measured on an eval split."""
        return any(self.lacks_answers_of(job) for job in self._jobs)

    def lacks_answers_of(self, job: MeasurementJob) -> bool:
        """Whether there is an eval split on which the accuracy, or single answers, are still to be measured."""
        lacks_answers = job.eval is not None and job.key not in self._answers
        return lacks_answers or job.lacks_accuracy(self._known.get(job.key))

    @property
    def cascades(self) -> dict[str, FoundCascades]:
        """The cascades of each family with an eval split and several variants, as far as they are known now."""
        families: dict[str, list[MeasurementJob]] = {}
        for job in self._jobs:
            if job.eval is not None:
                families.setdefault(job.family.name, []).append(job)
        return {family: self._cascades_of(family, jobs) for family, jobs in families.items() if len(jobs) > 1}

    def _cascades_of(self, family: str, jobs: Sequence[MeasurementJob]) -> FoundCascades:
        stages = [stage for job in jobs if (stage := self._stage(job)) is not None]
        order = sorted(stages, key=lambda stage: -stage.qps)  # only the order of the rates counts
        basis = [(stage.variant, stage.accuracy, id(stage.correct)) for stage in order]
        if family not in self._judged or self._judged[family][0] != basis:
            self._judged[family] = basis, cascades_of(family, str(jobs[0].eval_digest), stages)
        found = self._judged[family][1]
        missing = [job.variant.name for job in jobs if job.variant.name not in {stage.variant for stage in stages}]
        why_not = (f"answers are still to be measured of {', '.join(missing)}",) if missing else found.why_not
        return FoundCascades(found.cascades, why_not)

    def _stage(self, job: MeasurementJob) -> StageAnswers | None:
        known, answers = self._known.get(job.key), self._answers.get(job.key)
        if known is None or answers is None or job.lacks_accuracy(known) or not known.points:
            return None
        rate_qps = capacity(known.points).qps
        return StageAnswers(
            job.variant.name, known.accuracy, rate_qps, answers.confidences, answers.correct, answers.classes
        )

    @property
    def profile(self) -> Profile:
        """The profile of all results."""
        done = [(_with_marked(known, job.marked), job.family.slo_s) for job, known in self.started]
        slots = best_slots(done, self.max_slots)
        return Profile(
            format=FORMAT,
            made_by=store.made_by(),
            device=self._device,
            measured_on=self._device.id,
            backend=self._backend.versions,
            variants=tuple(_with_power(measured, slots) for measured, _ in done),
            slots=slots,
            cascades=tuple(cascade for found in self.cascades.values() for cascade in found.cascades),
        )

    # --- adding

    def add_load(self, job: MeasurementJob, runner: Runner, build_s: float, load_s: float) -> None:
        """Add a loaded variant; a second load in one sweep changes nothing."""
        known = self._known.get(job.key)
        if known is not None and known is not job.known:
            return
        is_known = known is not None and not job.lacks_accuracy(known)
        self._known[job.key] = VariantProfile(
            family=job.family.name,
            variant=job.variant.name,
            accuracy=known.accuracy if known is not None and is_known else job.variant.accuracy,
            model_digest=job.model_digest,
            engine_digest=job.engine_digest,
            eval_digest=job.eval_digest if is_known else None,
            build_s=build_s,
            load_s=load_s,
            memory_bytes=runner.memory_bytes,
            points=known.points if known is not None else (),
            slot_bytes=known.slot_bytes if known is not None else 0,
            concurrent=known.concurrent if known is not None else (),
            estimated=job.variant.estimated and not (is_known and job.eval is not None),
            recorded=known.recorded if known is not None else msgspec.UNSET,
            live=known.live if known is not None and is_known else msgspec.UNSET,
            exits=() if known is None else known.exits if is_known else tuple(map(unjudged, known.exits)),
        )

    def add_point(self, key: VariantKey, point: Point, exits: Sequence[ExitProfile]) -> None:
        """Add a batch size, measured one batch at a time. ``exits`` are the exits of the variant with that size."""
        known = self._known[key]
        points = sorted((*known.points, point), key=lambda each: each.batch)
        self._known[key] = msgspec.structs.replace(known, points=tuple(points), exits=tuple(exits))

    def add_concurrent(self, key: VariantKey, point: Point, slot_bytes: int) -> None:
        """Add a batch size, measured with several batches at once; each further slot takes ``slot_bytes``."""
        known = self._known[key]
        concurrent = sorted((*known.concurrent, point), key=lambda each: (each.batch, each.slots))
        self._known[key] = msgspec.structs.replace(
            known, concurrent=tuple(concurrent), slot_bytes=max(known.slot_bytes, slot_bytes)
        )

    def measure_answers(self, job: MeasurementJob, runner: Runner) -> None:
        """Run the eval split, for the accuracy and the answers. Raises `EngineError` and `ArtefactError`."""
        assert job.eval is not None  # noqa: S101 - else no accuracy is lacking
        assert job.eval_digest is not None  # noqa: S101
        measured = measure_answers(runner, job.eval, confidence_output(job.family, runner.signature))
        kept = kept_rows(len(measured.correct))
        self._answers[job.key] = Answers(
            job.engine_digest,
            job.eval_digest,
            job.family.confidence,
            measured.confidences[kept],
            measured.correct[kept],
            measured.classes[kept],
        )
        self._written = None
        self._save_answers()
        known = self._known[job.key]
        self._known[job.key] = msgspec.structs.replace(
            known,
            accuracy=measured.accuracy,
            eval_digest=job.eval_digest,
            estimated=False,
            exits=judged(known.exits, runner, job.eval) if isinstance(runner, ExitRunner) else known.exits,
            live=msgspec.UNSET,
        )

    # --- files

    def save(self) -> None:
        """Write the profile and the answers. Raises `ArtefactError`."""
        self._save_answers()
        self._is_shared = False
        store.write_json(self._workspace.profile_path(self._device.id), self.profile)

    def save_changes(self) -> None:
        """Write the files if they differ from the results. Plans of an unchanged profile stay current."""
        if _measured_content(self.profile) != self._before:
            self.save()
        elif not self._is_shared:
            self._save_answers()

    def _save_answers(self) -> None:
        """Write the answers of current variants, unless the file has them already."""
        current = {job.key: self._answers[job.key] for job in self._jobs if job.key in self._answers}
        keys = {key: answers.content_key for key, answers in current.items()}
        if keys != self._written:
            write_answers(self._answers_path, current)
            self._written = keys


def _content_keys(path: Path) -> dict[VariantKey, tuple[str, str, str]] | None:
    """The contents of a file of answers; None if it is damaged, so that it is replaced."""
    try:
        return {key: answers.content_key for key, answers in read_answers(path).items()}
    except ArtefactError:
        return None


def _with_marked(measured: VariantProfile, marked: Sequence[Point]) -> VariantProfile:
    """With the marked points that were not measured again."""
    there = {(point.batch, point.slots) for point in (*measured.points, *measured.concurrent)}
    kept = [point for point in marked if (point.batch, point.slots) not in there]
    if not kept:
        return measured
    both = sorted((*measured.points, *measured.concurrent, *kept), key=lambda point: (point.batch, point.slots))
    return msgspec.structs.replace(
        measured,
        points=tuple(point for point in both if point.slots == 1),
        concurrent=tuple(point for point in both if point.slots > 1),
    )


def _with_power(measured: VariantProfile, slots: int) -> VariantProfile:
    """With the highest power of all batch sizes at this number of slots: a plan's budget must hold for each."""
    powers_w = [point.power_w for point in measured.points_at(slots) if point.power_w is not None]
    return msgspec.structs.replace(measured, power_w=max(powers_w)) if powers_w else measured


def _measured_content(profile: Profile) -> tuple[object, ...]:
    """A profile without the time and place of its making."""
    return profile.device.type, profile.slots, profile.variants, profile.cascades
