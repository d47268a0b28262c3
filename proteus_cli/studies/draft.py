"""What a study is to measure: its jobs, and what they are about."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from proteus_cli.domain.base import Value, require
from proteus_cli.domain.device import Device
from proteus_cli.progress import Advance
from proteus_cli.studies.study import Cell, CellMode, Scalar


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
