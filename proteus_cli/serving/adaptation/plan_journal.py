"""``plans/history/``: every plan that was in force, why, and what came of it. Written by a thread of its own.

Where the disk is full or gone, the server goes on: failed writes are counted, logged at a limited rate, and shown.
"""

import contextlib
import fcntl
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from proteus_cli import store
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import (
    Base,
    Effect,
    Ended,
    EngineChange,
    FamilyEffect,
    Observation,
    Origin,
    PlanRecord,
)
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import ArtefactError
from proteus_cli.serving.logs import LogRateLimiter, fields
from proteus_cli.serving.requests.counts import RequestCounts, Tally

log = logging.getLogger("proteus.history")

MAX_KEPT = 1000
MAX_QUEUED = 100
"""Writes that may wait for a slow disk; further ones fail."""

LAST_WRITE_S = 2.0
"""The longest wait of a server that stops for the last write."""

RECORD = ".record.json"
_ENTRY = re.compile(r"(\d{6,}-\d{8}T\d{6}Z)(\.record)?\.json")

Tallies = Mapping[str, Tally]


@dataclass(frozen=True, slots=True)
class PlanChange:
    """A change of plan: unix time, reason, seconds to solve and in total, variants loaded, and standbys activated.

    ``what`` says what changed on which devices.
    """

    unix_s: float
    reason: str
    solve_s: float
    total_s: float
    swaps: int
    origin: Origin = "demand"
    activated: int = 0
    what: str = ""


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """Where plans are recorded: the newest ``keep`` stay in ``directory``. ``base`` is the plan file of the server."""

    directory: Path
    base: Base
    emulated: bool
    keep: int = MAX_KEPT


class PlanJournal:
    """Records plans, and when they are replaced, how requests ended meanwhile, which ``counts`` knows.

    ``clock`` measures how long plans are in force, as the time of day may jump.
    """

    def __init__(
        self, settings: JournalSettings, counts: RequestCounts, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.directory, self._base, self._keep = settings.directory, settings.base, settings.keep
        self._emulated, self._counts, self._clock = settings.emulated, counts, clock
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="plan-history")
        self._log_limiter = LogRateLimiter(clock)
        self._number = max((number_of(name) for name in _names(self.directory)), default=0)
        self._open: PlanRecord | None = None
        self._plan: Plan | None = None
        self._since_s = 0.0
        self._at_first: Tallies = {}
        self._queued = 0
        self._claimed: Base | None = None
        self._lock: int | None = None
        self._directory_lock: int | None = None
        self.written = self.failed = 0
        self.problem: str | None = None

    @property
    def current(self) -> str | None:
        """The name of the plan in force."""
        return self._open.plan if self._open is not None else None

    def began(
        self,
        plan: Plan,
        change: PlanChange,
        seen: Observation,
        base: Base | None = None,
        engines: tuple[EngineChange, ...] = (),
    ) -> None:
        """A plan is in force now. ``base`` is the plan file to go on from, where that changes.

        The effect of the plan before is written after it. If the server is killed in between, the next server continues
        with either.
        """
        before, tallies = self.current, self._counts.tallies()
        ended = self._ended("replaced", tallies)
        self._base = base or self._base
        self._number += 1
        now = datetime.now(UTC)
        self._open = PlanRecord(
            format=FORMAT,
            made_by=store.made_by(),
            plan=f"{self._number:06d}-{now:%Y%m%dT%H%M%SZ}",
            before=before,
            base=self._base,
            emulated=self._emulated,
            began=now.isoformat(timespec="milliseconds"),
            origin=change.origin,
            reason=change.reason,
            seen=seen,
            planned_qps=plan.demand_qps,
            solve_s=change.solve_s,
            total_s=round(change.total_s, 6),
            swaps=change.swaps,
            effect=None,
            engines=engines,
        )
        self._plan, self._since_s, self._at_first = plan, self._clock(), tallies
        self._write(self._open, plan)
        if ended is not None:
            self._write(*ended)

    def written_by_now(self) -> "Future[None]":
        """Done once all is written, or was given up, that was to be written until now."""
        return self._writer.submit(lambda: None)

    def stopped(self) -> None:
        """The server stops. Writes that are not done within `LAST_WRITE_S` are given up."""
        ended = self._ended("stopped", self._counts.tallies())
        if ended is not None:
            self._write(*ended)
        self._open = None
        last = self._writer.submit(self._release_all)
        with contextlib.suppress(TimeoutError):
            last.result(LAST_WRITE_S)
        self._writer.shutdown(wait=False, cancel_futures=True)

    def _ended(self, why: Ended, tallies: Tallies) -> tuple[PlanRecord, Plan] | None:
        """The last record of the plan in force, which ends now."""
        if self._open is None or self._plan is None:
            return None
        families = {name: _effect(tally.since(self._at_first.get(name))) for name, tally in tallies.items()}
        ended = datetime.now(UTC).isoformat(timespec="milliseconds")
        effect = Effect(ended, why, round(self._clock() - self._since_s, 3), families)
        return msgspec.structs.replace(self._open, effect=effect), self._plan

    def _write(self, record: PlanRecord, plan: Plan) -> None:
        if self._queued >= MAX_QUEUED:
            self._failed("the disk is too slow")
            return
        self._queued += 1
        self._writer.submit(self._save, record, plan).add_done_callback(self._saved)

    def _save(self, record: PlanRecord, plan: Plan) -> None:
        """In the writer's thread."""
        if record.effect is None and self._claimed != record.base:
            is_first = self._claimed is None
            self._release()
            self._lock, self._claimed = claim(self.directory, record.base), record.base
            if is_first:
                self._look_for_others()
        path, contents = self.directory / f"{record.plan}.json", {}
        if not path.exists():  # a new plan, or one that the disk had no space for when it came into force
            contents[path] = store.to_json(plan)
        contents[self.directory / f"{record.plan}{RECORD}"] = store.to_json(record)
        try:
            store.write_in_order(contents)
        except ArtefactError:
            if record.effect is not None and record.effect.why == "stopped":
                self._remove_open(record.base)
            raise
        forget_all_but(self.directory, self._keep)

    def _remove_open(self, base: Base) -> None:
        """Remove all records with that base that have no effect: the next server would take this one for killed.

        A full disk has room for that. Raises `ArtefactError`.
        """
        for each in records(self.directory):
            if each.base.sha256 == base.sha256 and each.emulated == self._emulated and each.effect is None:
                store.remove(self.directory / f"{each.plan}{RECORD}")

    def _look_for_others(self) -> None:
        """Warn where another server that runs has the directory: `plans/history/` is for one."""
        try:
            self._directory_lock = _locked(self.directory / ".lock")
        except BlockingIOError:
            log.warning(
                "another server writes to `%s`, too: they overwrite each other's records, and may resume each other's "
                "plans. Give each a `--set state` of its own",
                self.directory,
            )
        except OSError as error:
            log.warning("whether another server writes to `%s` is not known: %s", self.directory, error)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _release_all(self) -> None:
        self._release()
        if self._directory_lock is not None:
            os.close(self._directory_lock)
            self._directory_lock = None

    def _saved(self, job: "Future[None]") -> None:
        """In the writer's thread; for writes that are given up at the end, in the caller's."""
        self._queued -= 1
        if job.cancelled():
            return
        error = job.exception()
        if error is None:
            self.written += 1
            self.problem = None
        elif isinstance(error, ArtefactError | OSError):
            self._failed(error.message if isinstance(error, ArtefactError) else str(error))
        else:
            self._failed("a bug")
            log.error("a bug while writing the history of plans", exc_info=error)

    def _failed(self, problem: str) -> None:
        self.failed += 1
        self.problem = problem
        if times := self._log_limiter.occurred("history"):
            log.error("the history of plans is not written: %s", problem, extra=fields(times=times))


def _effect(tally: Tally) -> FamilyEffect:
    outcomes = dict(zip(map(str, Outcome), tally.outcomes, strict=True))
    requests, served = sum(outcomes.values()), outcomes[Outcome.SERVED]
    return FamilyEffect(
        outcomes,
        effective_accuracy=tally.accuracy / served if served else None,
        slo_violation_ratio=1 - served / requests if requests else None,
    )


# --- reading


def number_of(name: str) -> int:
    """The number of a plan, from its name."""
    return int(name.partition("-")[0])


def forget_all_but(directory: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` plans and their records. Raises `OSError`."""
    for name in sorted(_names(directory), key=number_of)[: -keep or None]:
        for end in (".json", RECORD):
            (directory / f"{name}{end}").unlink(missing_ok=True)


def records(directory: Path) -> Iterator[PlanRecord]:
    """The records that can be read, the newest first."""
    for name in sorted(_names(directory), key=number_of, reverse=True):
        with contextlib.suppress(ArtefactError):
            yield store.read_json(directory / f"{name}{RECORD}", PlanRecord, hint="")


def left_behind(
    found: Iterable[PlanRecord], base: Base, *, emulated: bool, also_stopped: bool = False
) -> PlanRecord | None:
    """The newest record of servers with that base, where the last of them was killed, or ``also_stopped``."""
    newest = next((r for r in found if r.base.sha256 == base.sha256 and r.emulated == emulated), None)
    return newest if newest is not None and (newest.effect is None or also_stopped) else None


def _names(directory: Path) -> set[str]:
    try:
        entries = [entry.name for entry in directory.iterdir()]
    except OSError:  # not there yet, or no directory: writing reports it
        return set()
    return {match[1] for match in map(_ENTRY.fullmatch, entries) if match}


# --- one server at a time


def claim(directory: Path, base: Base) -> int | None:
    """Claim ``base`` for this process, until it closes the descriptor that is returned, or ends.

    None: this process, or another server that runs, has claimed it. Raises `OSError` where no lock file can be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return _locked(directory / f".{base.sha256[:16]}.lock")
    except BlockingIOError:
        return None


def _locked(path: Path) -> int | None:
    """The descriptor that holds the lock of a file, until it is closed; None where the file system has no locks.

    Raises `BlockingIOError` where another descriptor holds it, and `OSError` where the file can't be opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return handle
