"""`plans/history/`: names that rise, a bounded number of plans, and only whole entries."""

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from builders import make_placement, make_plan

from proteus_cli import store
from proteus_cli.backends.base import Signature
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import Base, Observation
from proteus_cli.domain.request import Outcome
from proteus_cli.serving.adaptation.plan_journal import (
    JournalSettings,
    PlanChange,
    PlanJournal,
    claim,
    left_behind,
    records,
)
from proteus_cli.serving.requests.counts import RequestCounts
from proteus_cli.serving.requests.families import ServedFamily

PLAN = make_plan(make_placement("cpu0", "a", "a-s"))
BASE, OTHER = Base("plan", "a" * 64), Base("plan", "b" * 64)


def adopted(reason: str = "for a test") -> tuple[Plan, PlanChange, Observation]:
    return PLAN, PlanChange(0.0, reason, 0.0, 0.0, 0), Observation({}, {})


def nothing_counted() -> RequestCounts:
    return RequestCounts([ServedFamily("a", Signature((), ()), 0.1, max_rows=1, best_accuracy=None)])


def history(
    directory: Path, *, keep: int = 10, base: Base = BASE, emulated: bool = False, counts: RequestCounts | None = None
) -> PlanJournal:
    return PlanJournal(JournalSettings(directory, base, emulated, keep), counts or nothing_counted(), lambda: 0.0)


def test_only_the_newest_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{}")
    for _ in range(2):  # a second server goes on counting
        written = history(tmp_path, keep=3)
        for number in range(4):
            written.began(*adopted(f"reason {number}"))
        written.stopped()
    found = list(records(tmp_path))
    assert [record.plan[:6] for record in found] == ["000008", "000007", "000006"]
    assert [record.reason for record in found] == ["reason 3", "reason 2", "reason 1"]
    assert len(list(tmp_path.glob("*.json"))) == 2 * 3 + 1


def test_the_effect_is_what_ended_while_it_was_in_force(tmp_path: Path) -> None:
    counts = nothing_counted()
    of_a, written = counts.by_family["a"], history(tmp_path, counts=counts)
    of_a.ended(Outcome.SERVED, requests=5)
    of_a.accuracy += 4.0
    written.began(*adopted())
    of_a.ended(Outcome.SERVED, requests=8)
    of_a.ended(Outcome.LATE)
    of_a.ended(Outcome.DROPPED)
    of_a.accuracy += 6.0
    written.began(*adopted())
    written.stopped()
    second, first = records(tmp_path)
    assert first.effect is not None
    assert second.effect is not None
    effect = first.effect.families["a"]
    assert effect.outcomes == {"served": 8, "late": 1, "dropped": 1, "rejected": 0, "failed": 0}
    assert effect.effective_accuracy == pytest.approx(0.75)
    assert effect.slo_violation_ratio == pytest.approx(0.2)
    assert second.effect.families["a"].effective_accuracy is None
    assert (first.effect.why, second.effect.why) == ("replaced", "stopped")


def test_a_server_that_was_killed_leaves_a_plan_without_an_effect(tmp_path: Path) -> None:
    killed = history(tmp_path)
    killed.began(*adopted())
    killed.began(*adopted())
    killed._writer.shutdown(wait=True)
    found = left_behind(records(tmp_path), BASE, emulated=False)
    assert found is not None
    assert found.plan.startswith("000002-")
    assert left_behind(records(tmp_path), OTHER, emulated=False) is None
    assert left_behind(records(tmp_path), BASE, emulated=True) is None
    stopped = history(tmp_path)
    stopped.began(*adopted())
    stopped.stopped()
    assert left_behind(records(tmp_path), BASE, emulated=False) is None


def test_a_server_that_stops_while_the_disk_is_full_is_not_taken_for_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the disk was full when an earlier plan of it was replaced. Records of other plan files stay."""
    for base, emulated in ((OTHER, False), (BASE, True)):
        killed = history(tmp_path, base=base, emulated=emulated)
        killed.began(*adopted())
        killed._writer.shutdown(wait=True)
    stopped = history(tmp_path)
    stopped.began(*adopted())
    stopped.written_by_now().result()
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", disk_full)
        stopped.began(*adopted())
        stopped.written_by_now().result()
    stopped.began(*adopted())
    stopped.written_by_now().result()
    monkeypatch.setattr(os, "fsync", disk_full)
    stopped.stopped()
    assert stopped.failed == 3
    assert left_behind(records(tmp_path), BASE, emulated=False) is None
    assert left_behind(records(tmp_path), OTHER, emulated=False) is not None
    assert left_behind(records(tmp_path), BASE, emulated=True) is not None


def disk_full(file: int) -> None:
    if stat.S_ISREG(os.fstat(file).st_mode):  # the names of a directory need no space
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_crash_between_two_files_leaves_no_record_without_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, renamed = Path.replace, list[str]()

    def renamed_once(path: Path, target: Path) -> Path:
        if renamed:
            raise SystemExit
        renamed.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", renamed_once)
    killed = history(tmp_path)
    killed.began(*adopted())
    killed._writer.shutdown(wait=True)
    assert renamed == [f"{killed.current}.json"]
    assert list(records(tmp_path)) == []


def test_writes_that_fail_are_counted_and_logged_once_in_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "history").write_text("no directory")
    written = history(tmp_path / "history")
    for _ in range(3):
        written.began(*adopted())
    written._writer.shutdown(wait=True)
    assert written.failed > 1
    assert written.problem is not None
    assert caplog.text.count("the history of plans is not written") == 1


def test_records_that_are_broken_are_passed_over(tmp_path: Path) -> None:
    written = history(tmp_path)
    written.began(*adopted())
    written.stopped()
    (record,) = records(tmp_path)
    content = msgspec.to_builtins(record) | {"plan": "000009-20260101T000000Z", "format": 2}
    store.write_json(tmp_path / "000009-20260101T000000Z.record.json", content)
    assert [found.plan for found in records(tmp_path)] == [record.plan]


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_a_crash_while_a_plan_replaces_another_leaves_one_to_go_on_from(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of the first, that of the second, and what became of the first."""
    write_in_order, done = store.write_in_order, list[int]()

    def until_killed(contents: Mapping[Path, bytes]) -> None:
        if len(done) == writes:
            raise SystemExit
        done.append(len(contents))
        write_in_order(contents)

    monkeypatch.setattr(store, "write_in_order", until_killed)
    killed = history(tmp_path)
    killed.began(*adopted())
    killed.began(*adopted())
    killed._writer.shutdown(wait=True)
    found = left_behind(records(tmp_path), BASE, emulated=False)
    assert found is not None
    assert found.plan.startswith("000001-" if writes == 1 else "000002-")


def test_one_server_at_a_time_may_go_on_from_a_plan(tmp_path: Path) -> None:
    handles = [claim(tmp_path / "history", base) for base in (BASE, BASE, OTHER)]
    assert [handle is None for handle in handles] == [False, True, False]
    for handle in handles:
        if handle is not None:
            os.close(handle)


def test_a_second_server_on_a_history_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever plan it has. In one second, both would write the same record. Who has stopped is no other server."""
    running, warned = list[PlanJournal](), list[list[str]]()
    for name, base in (("a", BASE), ("b", BASE), ("a", OTHER), ("a", BASE)):
        journal = history(tmp_path / name, base=base)
        journal.began(*adopted())
        journal.began(*adopted())
        journal.written_by_now().result()
        running.append(journal)
        warned.append([record.message for record in caplog.records])
        caplog.clear()
        if len(running) == 3:
            for each in running:
                each.stopped()
    running[-1].stopped()
    assert [len(each) for each in warned] == [0, 0, 1, 0]
    [said] = warned[2]
    assert said.startswith(f"another server writes to `{tmp_path / 'a'}`, too")
    assert "--set state" in said


def test_where_other_servers_can_not_be_seen_records_are_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".lock").mkdir()
    journal = history(tmp_path)
    journal.began(*adopted())
    journal.stopped()
    assert (journal.written, journal.failed) == (2, 0)
    assert [record.message.partition(" is not known")[0] for record in caplog.records] == [
        f"whether another server writes to `{tmp_path}`"
    ]


def test_a_journal_holds_the_lock_of_the_last_plan_file_alone(tmp_path: Path) -> None:
    """Each plan file that SIGHUP puts in force has one; else a server would run out of descriptors."""
    bases = [Base("plan.json", f"{number:016x}" * 4) for number in range(20)]
    written = history(tmp_path)
    for base in bases:
        written.began(*adopted(), base=base)
    written.written_by_now().result()
    assert held_of(tmp_path, bases) == bases[-1:]
    written.stopped()
    assert held_of(tmp_path, bases) == []


def held_of(directory: Path, bases: list[Base]) -> list[Base]:
    """Those that somebody has claimed."""
    handles = [claim(directory, base) for base in bases]
    for handle in handles:
        if handle is not None:
            os.close(handle)
    return [base for base, handle in zip(bases, handles, strict=True) if handle is None]
