"""The frame of all studies: drafts with jobs, and the run that measures what is missing within a budget."""

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
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
from proteus_cli.studies.study import Cell, CellMode, Machine, Scalar, Study
from proteus_cli.studies.telemetry import Watch, watching

MAX_RUNS = 8
"""Maximum number of runs whose telemetry is kept: the latest."""
OF_A_CELL: tuple[type[ProteusError], ...] = (EngineError, ServerError, BackendUnavailable)
"""Errors that fail one cell and leave the others."""


@dataclass(frozen=True, slots=True)
class JobTurn:
    """The arguments of a job: allowed seconds, perhaps infinite; the callback of progress; what the draft opened."""

    allowed_s: float
    advance: Advance
    opened: Any = None


@dataclass(frozen=True, slots=True)
class Job:
    """Measures one cell. ``measure`` returns its result, or raises a `ProteusError`.

    ``wanted_s``: its approximate time if unlimited. ``min_s``: it does not begin with less. ``without_budget_s``: its
    allowed time if the study has no budget.
    """

    key: str
    mode: CellMode
    wanted_s: float
    measure: Callable[[JobTurn], Value]
    min_s: float = 0.0
    without_budget_s: float = math.inf


def keep_nothing(_cells: Mapping[str, Cell], _finished: Cell) -> None:
    """The default of `StudyDraft.keep`."""


@dataclass(frozen=True, slots=True)
class StudyDraft:
    """The question and jobs of a study; `studies.study.Study` documents the first fields.

    ``jobs`` are in the order of their importance. ``devices``: their GPUs are watched. ``opened`` is entered around all
    jobs, if there are any: a server, processes. ``conclude`` takes the good cells by key and returns their conclusion,
    also for an estimate; None: there is none yet. ``keep`` takes the good cells and the one that was just measured, and
    writes what is used elsewhere. ``notes`` are warnings before the first job.
    """

    kind: str
    name: str
    subject: Mapping[str, str]
    options: Mapping[str, Scalar]
    inputs: Mapping[str, str]
    jobs: Sequence[Job]
    devices: Sequence[Device] = ()
    opened: Callable[[], AbstractContextManager[object]] = nullcontext
    conclude: Callable[[Mapping[str, Cell]], Value | None] = lambda _cells: None
    keep: Callable[[Mapping[str, Cell], Cell], None] = keep_nothing
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        keys = [job.key for job in self.jobs]
        require(len(keys) == len(set(keys)), f"a job of the study `{self.name}` is listed twice")


def default_name(kind: str, *parts: str, mode: CellMode = "measured") -> str:
    """The name of a study without a given one: ``peak-digits-cpu0-simulated``. A long one ends in a checksum."""
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


def missing_jobs(draft: StudyDraft, files: StudyFiles, *, force: bool = False) -> list[Job]:
    """The jobs that a run would do."""
    missing = _begun(draft, None if force else files.read()).missing
    return [job for job in draft.jobs if job.key in missing]


def run_study(draft: StudyDraft, files: StudyFiles, budget: Budget, advance: Advance, *, force: bool = False) -> Study:
    """Measure what is missing, as the budget allows. Returns the study as it is then, and as its file has it.

    Good cells of the file that answer the same question are kept, unless ``force`` is set. A job without room in the
    budget is left out, and smaller ones may follow. An error of `OF_A_CELL` fails its cell. Any other error, and
    Ctrl-C, ends the run.
    """
    study = _begun(draft, None if force else files.read())
    jobs = [job for job in draft.jobs if job.key in study.missing]
    if not jobs:
        return study
    earlier = study.telemetry[-(MAX_RUNS - 1) :]
    with watching(draft.devices) as watch, draft.opened() as opened:
        for place, job in enumerate(jobs):
            allowed_s = _allowed_s(budget, job, sum(each.wanted_s for each in jobs[place:]))
            if allowed_s <= 0 or allowed_s < job.min_s:
                continue

            def tell(now: str, frac: float, *, job: Job = job, place: int = place) -> None:
                done_frac = (place + min(max(frac, 0.0), 1.0)) / len(jobs)
                advance(f"{job.key}: {now}" if now else job.key, done_frac)

            tell("", 0.0)
            cell = _measured(job, JobTurn(allowed_s, tell, opened), watch)
            cells = {**study.by_key, cell.key: cell}
            ordered = tuple(cells[each.key] for each in draft.jobs if each.key in cells)
            good = {each.key: each for each in ordered if not each.failed}
            if not cell.failed:
                draft.keep(good, cell)
            study = msgspec.structs.replace(
                study,
                cells=ordered,
                missing=tuple(key for key in study.missing if key != cell.key),
                conclusion=_in_file(draft.conclude(good)),
                telemetry=(*earlier, watch.telemetry()),
            )
            files.write(study)
    return study


def _begun(draft: StudyDraft, before: Study | None) -> Study:
    """The study at the begin of a run, with the cells that need not be measured."""
    question = draft.kind, dict(draft.options), dict(draft.inputs)
    if before is not None and (before.kind, before.options, before.inputs) != question:
        before = None
    kept = {cell.key: cell for cell in before.good} if before is not None else {}
    good = {job.key: kept[job.key] for job in draft.jobs if job.key in kept}
    return Study(
        format=FORMAT,
        made_by=made_by(),
        kind=draft.kind,
        name=draft.name,
        machine=this_machine(draft.devices),
        subject=dict(draft.subject),
        options=dict(draft.options),
        inputs=dict(draft.inputs),
        cells=tuple(good.values()),
        missing=tuple(job.key for job in draft.jobs if job.key not in good),
        conclusion=_in_file(draft.conclude(good)),
        telemetry=before.telemetry if before is not None else (),
    )


def _allowed_s(budget: Budget, job: Job, of_wanted_s: float) -> float:
    """The part of the budget for a job, by what all missing jobs want; at least its minimum, as far as it is left."""
    if math.isinf(budget.total_s):
        return job.without_budget_s
    part_frac = job.wanted_s / of_wanted_s if of_wanted_s > 0 else 1.0
    return min(max(budget.left_s * part_frac, job.min_s), budget.left_s)


def _measured(job: Job, turn: JobTurn, watch: Watch) -> Cell:
    begun_unix_s, begun_s = time.time(), time.monotonic()
    result, failed = dict[str, object](), ""
    with watch.load() as load:
        try:
            result = _in_file(job.measure(turn))
        except OF_A_CELL as error:
            failed = error.sentences
    return Cell(job.key, job.mode, begun_unix_s, time.monotonic() - begun_s, result, failed, load)


def _in_file(value: Value | None) -> dict[str, object]:
    """A value as JSON has it, so that a study is the same before it is written and after it is read."""
    return {} if value is None else msgspec.json.decode(msgspec.json.encode(value), type=dict[str, object])
