"""A study of sharing: slices in processes, rounds whose ratios drift does not move, and the file that plans read."""

import math
import multiprocessing
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import msgspec
import numpy as np
import pytest
from builders import MADE_BY
from studies.test_study_page import _Tags
from studies.test_study_runs import studied
from tiny import Tiny

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.interference import (
    SHARING_FORMAT,
    CostPoint,
    Interference,
    MeasuredVariant,
    SharingCost,
    SharingModel,
    VariantName,
)
from proteus_cli.errors import ArtefactError, DeviceLost, EngineError, UsageError
from proteus_cli.store import Workspace
from proteus_cli.store.sharing import read_sharing, sharing_digest, write_sharing
from proteus_cli.studies.frame import StudyDraft
from proteus_cli.studies.pages.page import page
from proteus_cli.studies.pages.sharing import section
from proteus_cli.studies.sharing import (
    Served,
    SharingCell,
    SharingConclusion,
    SharingMember,
    SharingQuestion,
    SharingResult,
    cells_of,
    checks_of,
    costs_of,
    opening_of,
    sees_mps,
    share_draft,
    workspace_draft,
)
from proteus_cli.studies.sharing_bench import (
    FEWEST_ROUNDS,
    MAX_ROUNDS,
    Engine,
    Opening,
    ProcessBench,
    Ran,
    Slice,
    Work,
    busy_clock,
    midmean,
    opened_bench,
    run_slice,
    sight_of,
)
from proteus_cli.studies.study import Cell

A, B, C = (VariantKey("f", name) for name in "abc")
SMALL, MIDDLE, LARGE = (VariantKey("shapes", f"shapes-{size}") for size in "sml")
OF_ALL = (SMALL, MIDDLE, LARGE)
ALONE_S = {A: 0.001, B: 0.004, SMALL: 0.001, MIDDLE: 0.002, LARGE: 0.004}


@dataclass
class FakeBench:
    """A machine that gets slower all the time, on which A and SMALL take 1.5 times as long beside others.

    Its batches scatter; with ``stalls`` none ends.
    """

    seed: int = 0
    scatter: float = 0.05
    stalls: bool = False
    drift: float = 0.25
    slots: int = 1
    now_s: float = 0.0
    lengths_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def run(self, works: Sequence[Work], length_s: float) -> list[Ran]:
        self.lengths_s.append(length_s)
        at_s, done = 0.0, list[Ran]()
        while not self.stalls and at_s < length_s:
            work = works[len(done) % len(works)]
            cost = 1.5 if work.key in {A, SMALL} and len(works) > 1 else 1.0
            took_s = ALONE_S[work.key] * cost * (1 + self.drift * self.now_s) * self.rng.lognormal(0, self.scatter)
            done.append(Ran(work, at_s, at_s + took_s, took_s))
            at_s, self.now_s = at_s + took_s, self.now_s + took_s
        return done


# --- devices and their processes


def test_a_device_runs_slices_in_its_process_until_that_is_lost(tiny: Tiny) -> None:
    sizes = dict.fromkeys((SMALL, LARGE), (1, 4))
    opening = opening_of(tiny.place, tiny.place.catalog(), tiny.place.profile("cpu0"), sizes)
    works = (Work(SMALL, 1), Work(LARGE, 4))
    with opened_bench(opening) as bench:
        ran = bench.run(works, 0.05)
        assert [each.work for each in ran] == [works[turn % 2] for turn in range(len(ran))]
        assert all(0 <= each.began_s <= each.ended_s and each.batch_s > 0 for each in ran)
        with pytest.raises(KeyError) as raised:
            bench.run([Work(SMALL, 3)], 30.0)
        assert "in in_slot" in raised.value.__notes__[0]
        assert bench.run(works, 1.0), "an error of a slice is no error of the next"
        (device,) = multiprocessing.active_children()
        device.kill()
        for _ in range(2):
            with pytest.raises(DeviceLost, match="cpu0 is lost"):
                bench.run(works, 30.0)


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    ours, its = multiprocessing.Pipe()
    bench = ProcessBench("cpu0", ours, 1)
    with pytest.raises(DeviceLost, match="does not answer"):
        bench.answer(0.0)
    with pytest.raises(DeviceLost, match="cpu0 is lost"):
        bench.answer(0.0)
    its.close()


def test_an_engine_that_does_not_load_is_told_as_it_was(tiny: Tiny) -> None:
    device = tiny.place.profile("cpu0").device
    opening = Opening(device, tiny.place.built_dir, 1, (Engine(SMALL, tiny.root / "none.onnx", (1,)),))
    with pytest.raises(EngineError) as raised, opened_bench(opening):
        pass
    assert raised.value.hint


def test_slots_run_their_batches_at_once_and_begin_with_different_works() -> None:
    works, meeting, runs = (Work(A, 1), Work(B, 1)), threading.Barrier(2, timeout=30), count()

    def run() -> None:
        if next(runs) < 2:
            meeting.wait()  # neither slot goes on without the other
        time.sleep(0.01)

    gpu = Device("gpu0", "gpu", "gpu", "a GPU", 0)
    ran = run_slice(Slice(works, 0.05), dict.fromkeys(works, run), 2, busy_clock(gpu))
    firsts = sorted(ran, key=lambda each: each.began_s)[:2]
    assert {each.work for each in firsts} == set(works)


def test_on_one_core_only_the_time_with_the_core_counts() -> None:
    one, two = (Device("cpu0", "cpu", "cpu", "a CPU", 0, cores) for cores in ((0,), (0, 1)))
    assert (busy_clock(one), busy_clock(two)) == (time.thread_time, time.monotonic)


def test_mps_is_seen_where_its_pipe_is(tmp_path: Path) -> None:
    assert not sees_mps({}, tmp_path)
    (tmp_path / "control").touch()
    assert sees_mps({}, tmp_path)
    assert not sees_mps({"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "elsewhere")}, tmp_path)


# --- rounds


def measured(bench: FakeBench, allowed_s: float = 60.0) -> SharingResult:
    cell = SharingCell((Work(A, 1), Work(B, 1)))
    return cell.measured(bench, [0.001, 0.004], allowed_s, lambda _now, _frac: None)


def test_drift_has_no_part_in_a_ratio_and_the_interval_holds_the_truth() -> None:
    held = []
    for seed in range(10):
        result = measured(FakeBench(seed))
        of_a, of_b = result.members
        held += [of_a.low <= 1.5 <= of_a.high, of_b.low <= 1.0 <= of_b.high]
        assert of_a.ratio == pytest.approx(1.5, rel=0.04)
        assert result.factor(0) == of_a.ratio
        assert of_a.together.qps < of_a.alone.qps
    assert sum(held) >= 18


def test_rounds_end_when_ratios_are_precise_or_the_time_is_over() -> None:
    rounds = [
        measured(FakeBench(scatter=scatter, drift=0.0), allowed_s).rounds
        for scatter, allowed_s in ((0.0, 60.0), (0.5, 1e-9), (0.5, 1e9))
    ]
    assert rounds == [FEWEST_ROUNDS, FEWEST_ROUNDS, MAX_ROUNDS]


def test_a_machine_that_is_too_busy_is_told_after_ever_longer_slices() -> None:
    bench = FakeBench(stalls=True)
    with pytest.raises(EngineError, match="No batch of some variant ended"):
        measured(bench)
    assert bench.lengths_s == sorted(bench.lengths_s)
    assert len(bench.lengths_s) == 5


def test_the_first_batch_of_each_slot_and_late_ones_do_not_count() -> None:
    work = Work(A, 2)
    ran = [Ran(work, at_s, at_s + 0.25, 0.2) for at_s in (0.0, 0.25, 0.5, 0.75, 1.0)] * 2
    sight = sight_of(work, [*ran, Ran(Work(B, 1), 1.0, 1.5, 0.5)], 1.0, 2)
    assert sorted(each.began_s for each in sight.batches) == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    assert (sight.rows, sight.span_s) == (20, 1.5)


def test_the_middle_half_follows_a_shift_and_not_a_few_values_far_off() -> None:
    assert midmean([5.0]) == 5.0
    assert midmean([1.0, 1.0, 1.0, 1.0, 90.0, 1.0, 1.0, 1.0]) == 1.0


# --- cells and what they say together


def test_pairs_then_sets_with_small_and_large_batches() -> None:
    cells = cells_of({A: (1, 8), B: (1, 4), C: (1, 1)}, ((A, B, C),))
    assert cells[:2] == [SharingCell((Work(A, small), Work(B, large))) for small, large in ((1, 1), (8, 4))]
    assert [len(cell.works) for cell in cells] == [2] * 6 + [3] * 2


SERVED = Served(10, 100.0, 0.01)


def member(key: VariantKey, batch_s: float, ratio: float, *, batch: int = 2) -> SharingMember:
    return SharingMember(*key, batch, batch_s, SERVED, SERVED, ratio, ratio - 0.01, ratio + 0.01)


def result(*members: SharingMember) -> SharingResult:
    return SharingResult(8, members)


def test_the_higher_of_two_costs_counts() -> None:
    costs = costs_of(
        [
            result(member(A, 0.1, 1.5), member(B, 0.1, 1.0)),
            result(member(A, 0.1, 1.7), member(B, 0.3, 1.0, batch=8)),
        ]
    )
    of = {(cost.key, cost.others): cost.points for cost in costs}
    assert set(of) == {(A, (B,)), (B, (A,))}
    assert [(point.batch, point.ratio) for point in of[A, (B,)]] == [(2, 1.7)]
    assert [point.batch for point in of[B, (A,)]] == [2, 8]


def test_a_larger_set_is_checked_against_its_pairs_only() -> None:
    pairs = [result(member(one, 0.1, 1.5), member(other, 0.1, 1.0)) for one, other in ((A, B), (A, C), (B, C))]
    for ratio, error_frac in ((1.0, 0.0), (2.0, 1.05 / 0.75 - 1)):
        triple = result(member(A, 0.1, 1.5), member(B, 0.2, 1.5), member(C, 0.3, ratio))
        (check,) = checks_of({"a": pairs[0], "b": pairs[1], "c": pairs[2], "all": triple})
        assert check.cell == "all"
        assert check.predicted_qps == pytest.approx(6 / (0.15 + 0.3 + 0.3))
        assert check.error_frac == pytest.approx(error_frac)


# --- the study


def draft(tiny: Tiny, *variants: VariantKey) -> StudyDraft:
    """A study on the fake bench."""
    drafted = share_draft(tiny.place, SharingQuestion("cpu0", variants))
    return replace(drafted, opened=lambda: nullcontext(FakeBench(scatter=0.0, drift=0.0)))


def cost(of: VariantKey, *beside: VariantKey, ratio: float) -> SharingCost:
    point = CostPoint(1, 9, 0.01, ratio, ratio, ratio)
    return SharingCost(*of, tuple(VariantName(*each) for each in beside), (point,))


def write_costs(workspace: Workspace, *costs: SharingCost) -> None:
    profile = workspace.profile("cpu0")
    measured = [each for each in profile.variants if each.key in OF_ALL]
    variants = tuple(MeasuredVariant(*each.key, sharing_digest(each)) for each in measured)
    write_sharing(
        workspace, "cpu0", Interference(SHARING_FORMAT, MADE_BY, profile.device.type, "cpu0", False, variants, costs)
    )


def model(workspace: Workspace) -> SharingModel:
    found = read_sharing(workspace, workspace.profile("cpu0"))
    assert found is not None
    return found.model


def test_a_study_finds_costs_for_plans_and_says_so_on_its_page(tiny: Tiny) -> None:
    study = studied(tiny.root, draft(tiny, *OF_ALL))
    found = model(tiny.place)
    assert found.factor(SMALL, [LARGE]) == pytest.approx(1.5)
    assert found.factor(LARGE, [SMALL]) == 1
    conclusion = msgspec.convert(study.conclusion, SharingConclusion)
    assert conclusion.sharing_file == "profiles/cpu0.sharing.json"
    assert [check.error_frac for check in conclusion.checks] == pytest.approx([0.0] * 2)
    shown = section(study)
    assert "shapes-s ×1 takes 1.50 times as long beside shapes-m ×1" in shown.findings[0]
    assert shown.pictures[0].title == "Sharing the device, small batches"
    tags = _Tags()
    tags.feed(page([study], {"share": lambda _study: shown}))
    assert (tags.open, tags.fetched) == ([], [])


def measured_cell(ratio: float, high: float | None = None, other: VariantKey = LARGE) -> Cell:
    interval = (ratio, ratio, high or ratio)
    members = tuple(SharingMember(*key, 1, 0.01, SERVED, SERVED, *interval) for key in (SMALL, other))
    return Cell(other.variant, "measured", 0.0, 1.0, msgspec.to_builtins(SharingResult(8, members)))


def test_a_study_keeps_what_was_found_of_others_and_since(tiny: Tiny) -> None:
    write_costs(tiny.place, cost(SMALL, MIDDLE, ratio=1.2))
    drafted = share_draft(tiny.place, SharingQuestion("cpu0", OF_ALL))
    old = measured_cell(1.3)
    drafted.keep({old.key: old}, old)
    assert (model(tiny.place).factor(SMALL, [MIDDLE]), model(tiny.place).factor(SMALL, [LARGE])) == (1.2, 1.3)
    write_costs(tiny.place, cost(SMALL, LARGE, ratio=1.7))
    before = tiny.place.sharing_path("cpu0").read_bytes()
    drafted.conclude({old.key: old})
    assert tiny.place.sharing_path("cpu0").read_bytes() == before, "an estimate writes nothing"
    new = measured_cell(1.1, other=MIDDLE)
    drafted.keep({old.key: old, new.key: new}, new)
    assert model(tiny.place).factor(SMALL, [LARGE]) == 1.7, "it is newer than the cell of an earlier run"
    assert model(tiny.place).factor(SMALL, [MIDDLE]) == 1.1


def test_a_ratio_above_1_by_rounding_is_a_cost_neither_on_the_page_nor_in_the_file(tiny: Tiny) -> None:
    ratio = math.nextafter(1.0, 2.0)
    cell = measured_cell(ratio, high=math.nextafter(ratio, 2.0))
    draft(tiny, SMALL, LARGE).keep({cell.key: cell}, cell)
    assert model(tiny.place).is_free([SMALL, LARGE])
    study = msgspec.structs.replace(studied(tiny.root, draft(tiny, SMALL, LARGE)), cells=(cell,))
    assert section(study).findings[0] == "No cost is proven in 2 cases."


def test_a_question_without_sense_is_refused(tiny: Tiny) -> None:
    for variants, sets, problem in (
        ((SMALL,), (), "2 to 24 variants"),
        ((SMALL, SMALL), (), "named twice"),
        ((SMALL, LARGE), ((SMALL, MIDDLE, LARGE),), "`--sets` names `shapes-m`"),
    ):
        with pytest.raises(UsageError, match=problem):
            SharingQuestion("cpu0", variants, sets)
    with pytest.raises(ArtefactError, match="has no times in the profile"):
        draft(tiny, SMALL, VariantKey("shapes", "shapes-xl"))
    tiny.model("shapes-s").write_bytes(tiny.model("shapes-l").read_bytes())
    with pytest.raises(ArtefactError, match="another"):
        draft(tiny, SMALL, LARGE)


def test_of_a_whole_workspace_the_fastest_the_slowest_and_one_between_are_studied(tiny: Tiny) -> None:
    drafted = workspace_draft(tiny.place)
    assert isinstance(drafted, StudyDraft)
    assert str(drafted.options["variants"]).count(",") == 2
    assert drafted.name == "share-cpu0"


@pytest.mark.parametrize("is_damaged", [True, False], ids=["damaged", "of another type"])
def test_that_a_file_is_replaced_which_cannot_be_used_is_said_before(tiny: Tiny, *, is_damaged: bool) -> None:
    path = tiny.place.sharing_path("cpu0")
    write_costs(tiny.place, cost(SMALL, MIDDLE, ratio=1.2))
    assert draft(tiny, SMALL, LARGE).notes == ()
    text = path.read_text().replace('"device_type": "cpu-1c"', '"device_type": "v100"')
    path.write_text("{" if is_damaged else text)
    (note,) = draft(tiny, SMALL, LARGE).notes
    assert note.startswith(f"`{path}`")
    assert note.endswith("What is measured now replaces it, and what it knew of other variants is lost.")
    found = measured_cell(1.3)
    draft(tiny, SMALL, LARGE).keep({found.key: found}, found)
    assert model(tiny.place).factor(SMALL, [LARGE]) == 1.3
    assert draft(tiny, SMALL, LARGE).notes == ()
