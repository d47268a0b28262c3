"""``plans/history/``: every plan that was in force, why, and what came of it. Written beside the event loop.

A disk that is full or gone is no reason to stop serving: what can't be written is counted, said now and then, shown.
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
from proteus_cli.domain.record import Base, Effect, Ended, FamilyEffect, Observation, Origin, PlanRecord
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import ArtefactError
from proteus_cli.serving.logs import LogRateLimiter, fields
from proteus_cli.serving.requests.counts import Tally

log = logging.getLogger("proteus.history")

KEPT = 1000
MAX_WAITING = 100  # writes that a slow disk may owe; what comes then isn't written
LAST_WITHIN_S = 2.0
RECORD = ".record.json"
_ENTRY = re.compile(r"(\d{6,}-\d{8}T\d{6}Z)(\.record)?\.json")

Tallies = Mapping[str, Tally]


@dataclass(frozen=True, slots=True)
class Adopted:
    """A plan that is in force from now on, and how it came to that."""

    plan: Plan
    origin: Origin
    reason: str
    seen: Observation
    solve_s: float = 0.0
    total_s: float = 0.0
    swaps: int = 0


class PlanJournal:
    """Writes plans and records to ``directory``; the newest ``keep`` stay.

    ``base`` is the plan that the server was started with, or that was put in its place since. ``clock`` measures how
    long plans are in force, as the time of day may jump.
    """

    def __init__(
        self,
        directory: Path,
        base: Base,
        *,
        emulated: bool,
        keep: int = KEPT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory, self.base, self._emulated, self._keep, self._clock = directory, base, emulated, keep, clock
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="plan-history")
        self._seldom = LogRateLimiter(clock)
        self._number = max((number_of(name) for name in _names(directory)), default=0)
        self._open: PlanRecord | None = None
        self._plan: Plan | None = None
        self._since_s = 0.0
        self._at_first: Tallies = {}
        self._waiting = 0
        self._claimed: Base | None = None
        self.written = self.failed = 0
        self.problem: str | None = None

    @property
    def current(self) -> str | None:
        """The name of the plan in force."""
        return self._open.plan if self._open is not None else None

    def began(self, adopted: Adopted, tallies: Tallies) -> None:
        """A plan is in force now, with these requests ended so far."""
        before = self.current
        self._end("replaced", tallies)
        self._number += 1
        now = datetime.now(UTC)
        self._open = PlanRecord(
            format=FORMAT,
            made_by=store.made_by(),
            plan=f"{self._number:06d}-{now:%Y%m%dT%H%M%SZ}",
            before=before,
            base=self.base,
            emulated=self._emulated,
            began=now.isoformat(timespec="milliseconds"),
            origin=adopted.origin,
            reason=adopted.reason,
            seen=adopted.seen,
            planned_qps=adopted.plan.demand_qps,
            solve_s=adopted.solve_s,
            total_s=adopted.total_s,
            swaps=adopted.swaps,
            effect=None,
        )
        self._plan, self._since_s, self._at_first = adopted.plan, self._clock(), tallies
        self._write(self._open, adopted.plan)

    def stopped(self, tallies: Tallies) -> None:
        """The server stops; what is left is written within `LAST_WITHIN_S`, or not."""
        self._end("stopped", tallies)
        self._open = None
        last = self._writer.submit(lambda: None)
        with contextlib.suppress(TimeoutError):
            last.result(LAST_WITHIN_S)
        self._writer.shutdown(wait=False, cancel_futures=True)

    def _end(self, why: Ended, tallies: Tallies) -> None:
        if self._open is None or self._plan is None:
            return
        families = {name: _effect(tally - self._at_first[name]) for name, tally in tallies.items()}
        ended = datetime.now(UTC).isoformat(timespec="milliseconds")
        effect = Effect(ended, why, round(self._clock() - self._since_s, 3), families)
        self._write(msgspec.structs.replace(self._open, effect=effect), self._plan)

    def _write(self, record: PlanRecord, plan: Plan) -> None:
        if self._waiting >= MAX_WAITING:
            self._failed("the disk is too slow")
            return
        self._waiting += 1
        self._writer.submit(self._save, record, plan).add_done_callback(self._saved)

    def _save(self, record: PlanRecord, plan: Plan) -> None:
        """In the writer's thread."""
        if self._claimed != record.base:
            self._claimed = record.base
            claim(self.directory, record.base)  # in vain where this process, or another, has done so
        path, contents = self.directory / f"{record.plan}.json", {}
        if not path.exists():  # a new plan, or one for which there was no room when it came into force
            contents[path] = store.to_json(plan)
        contents[self.directory / f"{record.plan}{RECORD}"] = store.to_json(record)
        store.write_in_order(contents)
        forget_all_but(self.directory, self._keep)

    def _saved(self, job: "Future[None]") -> None:
        """In the writer's thread, too, but at the end of the process."""
        self._waiting -= 1
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
        if times := self._seldom.times("history"):
            log.error("the history of plans is not written: %s", problem, extra=fields(times=times))


def _effect(tally: Tally) -> FamilyEffect:
    outcomes = dict(zip(map(str, Outcome), tally.outcomes, strict=True))
    requests, served = sum(outcomes.values()), outcomes[Outcome.SERVED]
    return FamilyEffect(
        outcomes,
        effective_accuracy=tally.accuracy / served if served else None,
        slo_violation_ratio=1 - served / requests if requests else None,
    )


# --- what is there


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
    """The newest record of servers that were started with that plan, where the last of them was killed."""
    newest = next((r for r in found if r.base.sha256 == base.sha256 and r.emulated == emulated), None)
    return newest if newest is not None and (newest.effect is None or also_stopped) else None


def _names(directory: Path) -> set[str]:
    try:
        entries = [entry.name for entry in directory.iterdir()]
    except OSError:  # not there yet, or no directory: writing says so
        return set()
    return {match[1] for match in map(_ENTRY.fullmatch, entries) if match}


# --- one server at a time


def claim(directory: Path, base: Base) -> bool:
    """Whether no server that was started with that plan runs; as long as this process does, none will think so.

    True also where there is no place for that: then there are no records to go on from either.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / f".{base.sha256[:16]}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return False
    return True  # the lock goes with the process
