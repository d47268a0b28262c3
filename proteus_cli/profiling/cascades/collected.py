"""What the variants answered on a device: collected while it is profiled, kept in a file, and judged as cascades."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from proteus_cli.domain.capacity import capacity
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.errors import ArtefactError
from proteus_cli.profiling.cascades.pairs import FoundCascades, StageAnswers, cascades_of
from proteus_cli.profiling.jobs import MeasurementJob
from proteus_cli.profiling.measuring.measure import MeasuredAnswers
from proteus_cli.store.answers import Answers, kept_rows, read_answers, write_answers


class CollectedAnswers:
    """The current answers of the variants of a device; ``path`` is the file that keeps them."""

    def __init__(self, path: Path, jobs: Sequence[MeasurementJob]) -> None:
        self._path, self._jobs = path, jobs
        self._answers = {job.key: job.answers for job in jobs if job.answers is not None}
        self._judged: dict[str, tuple[object, FoundCascades]] = {}
        self._written = _content_keys(path)  # None: the file is to be written, whatever it says

    def lack(self, job: MeasurementJob) -> bool:
        """Whether there is an eval split to which the variant's answers are not known."""
        return job.eval is not None and job.key not in self._answers

    def add(self, job: MeasurementJob, measured: MeasuredAnswers) -> None:
        """Take over what was measured just now, and write it to the file. Raises `ArtefactError`."""
        assert job.eval_digest is not None  # noqa: S101 - it was measured on the split
        rows = kept_rows(len(measured.correct))
        self._answers[job.key] = Answers(
            job.engine_digest,
            job.eval_digest,
            job.family.confidence,
            measured.confidences[rows],
            measured.correct[rows],
            measured.classes[rows],
        )
        self._written = None
        self.save()

    def save(self) -> None:
        """Write the file, unless it says that already. Answers that are no longer current leave it.

        Raises `ArtefactError`.
        """
        current = {job.key: self._answers[job.key] for job in self._jobs if job.key in self._answers}
        keys = {key: answers.content_key for key, answers in current.items()}
        if keys != self._written:
            write_answers(self._path, current)
            self._written = keys

    def cascades(self, known: Mapping[VariantKey, VariantProfile]) -> dict[str, FoundCascades]:
        """The cascades of each family with an eval split and several variants, by what is known of these now."""
        families: dict[str, list[MeasurementJob]] = {}
        for job in self._jobs:
            if job.eval is not None:
                families.setdefault(job.family.name, []).append(job)
        return {family: self._of(family, jobs, known) for family, jobs in families.items() if len(jobs) > 1}

    def _of(
        self, family: str, jobs: Sequence[MeasurementJob], known: Mapping[VariantKey, VariantProfile]
    ) -> FoundCascades:
        stages = [stage for job in jobs if (stage := self._stage(job, known.get(job.key))) is not None]
        order = sorted(stages, key=lambda stage: -stage.qps)  # of the rates, only the order counts
        basis = [(stage.variant, stage.accuracy, id(stage.correct)) for stage in order]
        if family not in self._judged or self._judged[family][0] != basis:
            self._judged[family] = basis, cascades_of(family, str(jobs[0].eval_digest), stages)
        found = self._judged[family][1]
        missing = [job.variant.name for job in jobs if job.variant.name not in {stage.variant for stage in stages}]
        if not missing:
            return found
        return FoundCascades(found.cascades, (f"answers are still to be measured of {', '.join(missing)}",))

    def _stage(self, job: MeasurementJob, known: VariantProfile | None) -> StageAnswers | None:
        answers = self._answers.get(job.key)
        if known is None or answers is None or job.lacks_accuracy(known) or not known.points:
            return None
        rate_qps = capacity(known.points).qps
        return StageAnswers(
            job.variant.name, known.accuracy, rate_qps, answers.confidences, answers.correct, answers.classes
        )


def _content_keys(path: Path) -> dict[VariantKey, tuple[str, str, str]] | None:
    """What a file of answers is of; None where it is damaged: it is to be replaced, as all is measured by force."""
    try:
        return {key: answers.content_key for key, answers in read_answers(path).items()}
    except ArtefactError:
        return None
