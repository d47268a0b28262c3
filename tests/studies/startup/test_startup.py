"""Starts are told with the interval of their median; cold and warm ones take turns."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from tiny import Tiny

from proteus_cli.backends.discovery import discover
from proteus_cli.errors import ArtefactError, EngineError, UsageError
from proteus_cli.settings import read_settings
from proteus_cli.studies.frame import JobTurn, StudyDraft
from proteus_cli.studies.results import ProcessStart, Startup
from proteus_cli.studies.startup.starts import (
    CAN_EVICT,
    FEWEST,
    Subject,
    backend_files,
    evict,
    median_ranks,
    start_once,
    starts_of,
    startup,
    startup_draft,
    subject_of,
    workspace_draft,
)


def start(answered_s: float) -> ProcessStart:
    return ProcessStart(0.1, 0.2, 0.3, answered_s)


def turn(allowed_s: float = math.inf) -> JobTurn:
    return JobTurn(allowed_s, lambda _now, _done: None)


def test_the_median_lies_between_two_starts_whatever_the_distribution() -> None:
    """Of draws of a skewed distribution whose median is known, at least 95 % of the intervals hold it."""
    rng, held = np.random.default_rng(3), 0
    low, high = median_ranks(20)
    assert (low, high) == (5, 14)
    for _ in range(1000):
        drawn = np.sort(rng.exponential(1.0, 20))
        held += drawn[low] <= math.log(2) <= drawn[high]
    assert held > 940


@pytest.mark.parametrize(("count", "ranks"), [(1, (0, 0)), (2, (0, 1)), (5, (0, 4)), (6, (0, 5)), (9, (1, 7))])
def test_few_starts_span_their_interval(count: int, ranks: tuple[int, int]) -> None:
    assert median_ranks(count) == ranks
    if count > 5:  # the probability that the median is outside of the first and the last start is 2^(1 - n)
        low, _ = ranks
        outside = 2 * sum(math.comb(count, below) for below in range(low + 1)) / 2**count
        assert outside <= 0.05


def test_starts_are_summarised() -> None:
    found = starts_of([start(each) for each in (3.0, 1.0, 2.0, 9.0)])
    assert (found.p50_s, found.low_s, found.high_s, found.most_s) == (2.5, 1.0, 9.0, 9.0)
    assert [each.answered_s for each in found.starts] == [3.0, 1.0, 2.0, 9.0]


class Machine:
    """Each start takes a second; it knows what was evicted before which start."""

    def __init__(self) -> None:
        self.now_s, self.done = 0.0, list[str]()

    def once(self, _subject: Subject) -> ProcessStart:
        self.now_s += 1.0
        is_cold = self.done[-1:] == ["evict"]
        self.done.append("cold" if is_cold else "warm")
        return start(2.0 if is_cold else 1.0)

    def evict(self, _files: object) -> None:
        self.done.append("evict")


@pytest.mark.parametrize(("allowed_s", "runs"), [(math.inf, 10), (12.5, 6), (0.0, FEWEST)])
def test_cold_and_warm_starts_take_turns_within_the_budget(tiny: Tiny, allowed_s: float, runs: int) -> None:
    machine, subject = Machine(), subject_named(tiny)
    found = startup(
        subject, 10, turn(allowed_s), once=machine.once, evicting=machine.evict, now_s=lambda: machine.now_s
    )
    assert machine.done == ["warm", *["evict", "cold", "warm"] * runs]
    assert found.cold is not None
    assert (found.warm.runs, found.warm.p50_s, found.cold.p50_s) == (runs, 1.0, 2.0)


def test_where_nothing_can_be_evicted_only_warm_starts_are_told(tiny: Tiny) -> None:
    machine, subject = Machine(), subject_named(tiny)
    found = startup(subject, 3, turn(), once=machine.once, evicting=None, now_s=lambda: machine.now_s)
    assert found.cold is None
    assert found.warm.runs == 3


def subject_named(made: Tiny, name: str = "shapes-s") -> Subject:
    """A variant on the first device."""
    (device, *_) = discover(read_settings(made.root).devices)
    ((family, variant),) = [each for each in made.place.catalog().variants if each[1].name == name]
    return subject_of(made.place, family, variant, device)


def test_a_fresh_process_answers(tiny: Tiny) -> None:
    """With the real backend; a model that is no model fails its cell, and says why."""
    draft = startup_draft(tiny.place, ("shapes",), ("shapes-s",), "cpu0", 3)
    subject = subject_named(tiny)
    found = start_once(subject)
    assert 0 < found.python_s < found.backend_s < found.loaded_s < found.answered_s
    subject.model.write_bytes(b"nothing")
    with pytest.raises(EngineError, match="does not start: ONNX Runtime can't load"):
        start_once(subject)
    assert [job.key for job in draft.jobs] == ["shapes-s on cpu0"]


@pytest.mark.skipif(not CAN_EVICT, reason="the system can't evict files")
def test_files_can_be_evicted_and_read_again(tmp_path: Path, tiny: Tiny) -> None:
    path = tmp_path / "model"
    path.write_bytes(bytes(2**20))
    with path.open("rb") as file:
        os.fsync(file.fileno())
    evict([path])
    assert path.read_bytes() == bytes(2**20)
    assert {each.suffix for each in backend_files(subject_named(tiny).device)} >= {".so", ".py"}


def test_what_can_not_be_started_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="No variant `nothing`"):
        startup_draft(tiny.place, (), ("nothing",), "cpu0", 3)
    with pytest.raises(UsageError, match="No family"):
        startup_draft(tiny.place, ("nothing",), (), "cpu0", 3)
    draft = workspace_draft(tiny.place)
    assert isinstance(draft, StudyDraft)
    assert {job.key.split(" ")[0] for job in draft.jobs} == {"shapes-s", "shapes-l", "tones-s", "tones-l"}
    for model in (tiny.root / "engines").rglob("*.onnx"):
        model.unlink()
    with pytest.raises(ArtefactError):
        startup_draft(tiny.place, (), (), "cpu0", 3)
    assert isinstance(workspace_draft(tiny.place), str)


def test_variants_of_the_same_name_are_told_apart_by_their_family(tiny: Tiny) -> None:
    tiny.share_a_name("tones-s", "shapes-s")
    draft = workspace_draft(tiny.place)
    assert isinstance(draft, StudyDraft)
    keys = {job.key.split(" ")[0] for job in draft.jobs}
    assert keys == {"shapes-l", "shapes/shapes-s", "tones-l", "tones/shapes-s"}
    one = startup_draft(tiny.place, (), ("tones/shapes-s",), "cpu0", 3)
    assert ([job.key for job in one.jobs], one.name) == (["tones/shapes-s on cpu0"], "startup-tones-shapes-s")


def test_the_result_is_what_the_page_reads(tiny: Tiny) -> None:
    machine, subject = Machine(), subject_named(tiny)
    found = startup(subject, 3, turn(), once=machine.once, evicting=machine.evict, now_s=lambda: machine.now_s)
    assert isinstance(found, Startup)
    assert (found.family, found.variant, found.device, found.backend) == ("shapes", "shapes-s", "cpu0", "onnxruntime")
