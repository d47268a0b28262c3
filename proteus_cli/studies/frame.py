"""The frame of all studies: jobs, their budget, and the run that measures what is missing."""

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from zlib import crc32

import msgspec

from proteus_cli.backends.affinity import usable_cores
from proteus_cli.backends.discovery import cpu_name
from proteus_cli.domain.base import FORMAT, Value, require
from proteus_cli.domain.catalog import LONGEST_NAME
from proteus_cli.domain.device import Device
from proteus_cli.errors import BackendUnavailable, EngineError, ProteusError, ServerError
from proteus_cli.progress import Advance
from proteus_cli.store import made_by
from proteus_cli.studies.artefacts import StudyFiles
from proteus_cli.studies.budget import Budget
from proteus_cli.studies.study import Cell, CellMode, Machine, Scalar, Study, Telemetry
from proteus_cli.studies.telemetry import Watch, watching


@dataclass(frozen=True, slots=True)
class JobTurn:
    """What a job is given: seconds, perhaps infinite; whom to tell of progress."""

    allowed_s: float
    advance: Advance


@dataclass(frozen=True, slots=True)
class Job:
    """Measures one cell. ``measure`` returns its result, or raises a `ProteusError`.

    ``wanted_s``: about how long it takes if it may; ``min_s``: with less, it is not begun. ``without_budget_s``: what
    it is allowed where nobody limits the study.
    """

    key: str
    mode: CellMode
    wanted_s: float
    measure: Callable[[JobTurn], Value]
    min_s: float = 0.0
    without_budget_s: float = math.inf


Conclude = Callable[[Mapping[str, Cell]], Value | None]
"""Takes the cells that have a result; returns what they say together, None where that is nothing yet."""


Keep = Callable[[Mapping[str, Cell], Cell], None]
"""Takes the cells that have a result, and the one among them that was just measured; writes what is used elsewhere."""


def _nothing(_cells: Mapping[str, Cell]) -> Value | None:
    return None


def keep_nothing(_cells: Mapping[str, Cell], _finished: Cell) -> None:
    """Nothing is kept for use elsewhere, as of most studies."""


@dataclass(frozen=True, slots=True)
class StudyDraft:
    """The question and jobs of a study; `studies.study.Study` documents the first fields.

    ``jobs`` are in the order of their importance. ``devices``: those whose GPUs are watched. ``opened`` is entered
    around all jobs, if there is any to do: a server, processes. ``conclude`` only looks at cells, also for an estimate;
    ``keep`` is called once for each cell that was measured, before it. ``notes``: what is to be said before anything is
    measured.
    """

    kind: str
    name: str
    subject: Mapping[str, str]
    options: Mapping[str, Scalar]
    inputs: Mapping[str, str]
    jobs: Sequence[Job]
    devices: Sequence[Device] = ()
    opened: Callable[[], AbstractContextManager[object]] = nullcontext
    conclude: Conclude = field(default=_nothing)
    keep: Keep = field(default=keep_nothing)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        keys = [job.key for job in self.jobs]
        require(len(keys) == len(set(keys)), f"a job of the study `{self.name}` is listed twice")


def default_name(kind: str, *parts: str, mode: CellMode = "measured") -> str:
    """What is studied, and how where nothing is measured: ``peak-digits-cpu0-simulated``.

    One that is too long ends in a checksum of all of it.
    """
    name = "-".join((kind, *parts, *([] if mode == "measured" else [mode]))).replace("/", "-")
    if len(name) <= LONGEST_NAME:
        return name
    checksum = f"-{crc32(name.encode()):08x}"
    return name[: LONGEST_NAME - len(checksum)] + checksum


def this_machine(devices: Sequence[Device] = ()) -> Machine:
    """This machine, with the GPUs among ``devices``."""
    return Machine(
        host=platform.node(),
        processor=cpu_name(),
        cores=len(usable_cores()),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=tuple(f"{device.id}: {device.name}" for device in devices if device.kind == "gpu"),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


MAX_RUNS = 8
"""Of which telemetry is kept: the latest."""
OF_A_CELL: tuple[type[ProteusError], ...] = (EngineError, ServerError, BackendUnavailable)
"""Errors that say nothing of other cells."""


def run_study(draft: StudyDraft, files: StudyFiles, budget: Budget, advance: Advance, *, force: bool = False) -> Study:
    """Measure what is missing, as the budget allows; the study as it stands then, and in its file.

    Cells of the file that answer the same question are kept, unless ``force`` asks to measure them again; those that
    failed are tried again. An error of `OF_A_CELL` fails its cell; any other error, and Ctrl-C, ends the run.
    """
    before = None if force else files.read()
    study = _begun(draft, before)
    if not study.missing:
        return study
    run = _StudyRun(draft, files, budget, advance, study)
    with ExitStack() as stack:
        watch = stack.enter_context(watching(draft.devices))
        stack.enter_context(draft.opened())
        run.measure_all(watch)
    return run.study


def left_s(draft: StudyDraft, files: StudyFiles, *, force: bool = False) -> float:
    """About how long the cells take that a run would measure."""
    return sum(job.wanted_s for job in missing_jobs(draft, files, force=force))


def missing_jobs(draft: StudyDraft, files: StudyFiles, *, force: bool = False) -> list[Job]:
    """The cells that a run would measure."""
    missing = set(_begun(draft, None if force else files.read()).missing)
    return [job for job in draft.jobs if job.key in missing]


def _begun(draft: StudyDraft, before: Study | None) -> Study:
    """The study that a run starts with: the cells that need not be measured, in the order of jobs."""
    asked = draft.kind, dict(draft.options), dict(draft.inputs)
    is_same = before is not None and (before.kind, before.options, before.inputs) == asked
    kept = {cell.key: cell for cell in before.good} if before is not None and is_same else {}
    cells = tuple(kept[job.key] for job in draft.jobs if job.key in kept)
    return Study(
        format=FORMAT,
        made_by=made_by(),
        kind=draft.kind,
        name=draft.name,
        machine=this_machine(draft.devices),
        subject=dict(draft.subject),
        options=dict(draft.options),
        inputs=dict(draft.inputs),
        cells=cells,
        missing=tuple(job.key for job in draft.jobs if job.key not in kept),
        conclusion=_concluded(draft, cells),
        telemetry=before.telemetry if before is not None and is_same else (),
    )


def _concluded(draft: StudyDraft, cells: Sequence[Cell]) -> dict[str, object]:
    conclusion = draft.conclude({cell.key: cell for cell in cells if not cell.failed})
    return {} if conclusion is None else as_in_a_file(conclusion)


def as_in_a_file(value: Value) -> dict[str, object]:
    """A value as JSON has it: a study is the same before it is written and after it was read."""
    return msgspec.json.decode(msgspec.json.encode(value), type=dict[str, object])


@dataclass(slots=True)
class _StudyRun:
    """``study`` is what is known so far: it is replaced as cells are finished."""

    draft: StudyDraft
    files: StudyFiles
    budget: Budget
    advance: Advance
    study: Study

    def measure_all(self, watch: Watch) -> None:
        """Do the jobs that the budget has room for; one that has no room is left out, and smaller ones may follow."""
        jobs = [job for job in self.draft.jobs if job.key in set(self.study.missing)]
        earlier = self.study.telemetry[-(MAX_RUNS - 1) :]
        for place, job in enumerate(jobs):
            wanted_s = sum(each.wanted_s for each in jobs[place:])
            allowed_s = self._allowed_s(job, wanted_s)
            if allowed_s <= 0 or allowed_s < job.min_s:
                continue
            cell = self._measured(job, allowed_s, watch, place / len(jobs), 1 / len(jobs))
            self._finish(cell, (*earlier, watch.telemetry()))

    def _allowed_s(self, job: Job, of_wanted_s: float) -> float:
        """The part of the budget that a job gets, at least what it needs, where so much is left."""
        if math.isinf(self.budget.total_s):
            return job.without_budget_s
        return min(max(self.budget.part_s(job.wanted_s, of_wanted_s), job.min_s), self.budget.left_s)

    def _measured(self, job: Job, allowed_s: float, watch: Watch, done_frac: float, part_frac: float) -> Cell:
        def advance(now: str, frac: float) -> None:
            self.advance(f"{job.key}: {now}" if now else job.key, done_frac + part_frac * min(max(frac, 0.0), 1.0))

        advance("", 0.0)
        turn = JobTurn(allowed_s, advance)
        begun_unix_s, begun_s = time.time(), time.monotonic()
        result, failed = dict[str, object](), ""
        with watch.load() as load:
            try:
                result = as_in_a_file(job.measure(turn))
            except OF_A_CELL as error:
                failed = error.sentences
        took_s = time.monotonic() - begun_s
        return Cell(job.key, job.mode, begun_unix_s, took_s, result, failed, load)

    def _finish(self, cell: Cell, telemetry: tuple[Telemetry, ...]) -> None:
        cells: Mapping[str, Cell] = {**self.study.by_key, cell.key: cell}
        ordered = tuple(cells[job.key] for job in self.draft.jobs if job.key in cells)
        if not cell.failed:
            self.draft.keep({each.key: each for each in ordered if not each.failed}, cell)
        self.study = msgspec.structs.replace(
            self.study,
            cells=ordered,
            missing=tuple(key for key in self.study.missing if key != cell.key),
            conclusion=_concluded(self.draft, ordered),
            telemetry=telemetry,
        )
        self.files.write(self.study)
