"""What devices do in a slice, and what counts of it, on a clock of the test."""

from dataclasses import dataclass

import numpy as np
import pytest
from builders import make_measured, make_profile

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.interference import SharingModel
from proteus_cli.studies.sharing.bench import (
    MAX_BATCHES,
    STREAM,
    Arrival,
    EmulatedBench,
    Ran,
    SliceClock,
    Work,
    Workload,
    run_workload,
)
from proteus_cli.studies.sharing.cells import SharingCell, cells_of
from proteus_cli.studies.sharing.rounds import IDLE, midmean, sight_of, workloads_of

A, B, C = (VariantKey("f", name) for name in "abc")
SMALL = {key: Work(key, 1) for key in (A, B, C)}
SECONDS = {SMALL[A]: 0.25, SMALL[B]: 0.5, STREAM: 1.0}


@dataclass
class Device:
    """A device whose batches take `SECONDS`, and which has its core for half of that."""

    now_s: float = 0.0

    def run(self, work: Work) -> None:
        self.now_s += SECONDS[work]

    def sleep_until(self, at_s: float) -> None:
        self.now_s = max(self.now_s, at_s)

    def ran(self, workload: Workload, length_s: float, first: int = 0) -> list[Ran]:
        clock = SliceClock(lambda: self.now_s, lambda: self.now_s / 2, self.sleep_until)
        return run_workload(workload, self.run, length_s, clock, first=first)


def test_at_full_load_works_take_turns_without_a_pause() -> None:
    workload = Workload((SMALL[A], SMALL[B]))
    assert Device().ran(workload, 1.0) == [
        Ran(0, 0.0, 0.0, 0.25, 0.125), Ran(1, 0.25, 0.25, 0.75, 0.25), Ran(0, 0.75, 0.75, 1.0, 0.125)
    ]  # fmt: skip
    assert [ran.work for ran in Device().ran(workload, 1.0, first=1)] == [1, 0, 1]


def test_batches_that_arrive_wait_for_those_before_them() -> None:
    workload = Workload((SMALL[A], SMALL[B]), (Arrival(0.5, 1), Arrival(0.625, 0), Arrival(2.0, 0), Arrival(5.0, 0)))
    ran = Device().ran(workload, 3.0)
    assert [(each.work, each.began_s, each.latency_s) for each in ran] == [
        (1, 0.5, 0.5),
        (0, 1.0, 0.625),
        (0, 2.0, 0.25),
    ]


def test_slots_share_the_arrivals_of_a_device() -> None:
    arrivals = tuple(Arrival(float(at), 0) for at in range(5))
    parts = [Workload((SMALL[A],), arrivals).part_of(slot, 2).arrivals for slot in range(2)]
    assert parts == [arrivals[::2], arrivals[1::2]]


def test_a_slice_has_an_end_whatever_its_batches_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SECONDS, SMALL[A], 0.0)
    assert len(Device().ran(Workload((SMALL[A],)), 1.0)) == MAX_BATCHES


def test_what_counts_leaves_out_the_first_batch_and_what_ended_late() -> None:
    workload = Workload((SMALL[B], SMALL[A]))
    ran = Device().ran(workload, 2.0)
    sight = sight_of(SMALL[B], workload, ran, 2.0, 1)
    assert [each.began_s for each in sight.batches] == [0.75, 1.5]
    assert (sight.rows, sight.span_s) == (3, 2.25 if len(ran) % 2 == 0 else 2.0)


def test_the_first_batch_of_each_slot_does_not_count() -> None:
    """Answers of slots follow each other, whatever the times."""
    workload = Workload((SMALL[A],))
    ran = [*Device().ran(workload, 1.0), *Device().ran(workload, 1.0), *Device().ran(workload, 1.0)]
    sight = sight_of(SMALL[A], workload, ran, 1.0, 3)
    assert sorted(each.began_s for each in sight.batches) == sorted(3 * [0.25, 0.5, 0.75])
    assert sight.rows == 12


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_however_few_arrive_some_count_beside_the_first_of_each_slot(slots: int) -> None:
    cell = SharingCell("device", 0.5, (SMALL[A], SMALL[B]))
    rng = np.random.default_rng(0)
    (workload,) = workloads_of(cell, {0: SMALL[A], 1: SMALL[B]}, (1.0, 1.0), 0.1, slots, rng, with_stream=False)
    assert workload.arrivals is not None
    assert len(workload.arrivals) == 2 * (slots + 2)


def test_an_emulated_device_has_the_slots_of_its_profile_and_is_as_slow_as_when_all_are_busy() -> None:
    measured = make_measured("f", "a", 0.9, {1: 0.25}, at_once_s={2: {1: 0.5}})
    slept = list[float]()
    bench = EmulatedBench(make_profile("gpu0", measured, slots=2), SharingModel(()), slept.append)
    assert bench.slots == 2
    (ran,) = bench.run([Workload((SMALL[A],))], 1.0)
    assert [(each.began_s, each.ended_s) for each in ran] == 2 * [(0.0, 0.5), (0.5, 1.0)]
    (shared,) = bench.run([Workload((SMALL[A],), (Arrival(0.0, 0), Arrival(0.1, 0)))], 1.0)
    assert [(each.arrived_s, each.ended_s) for each in shared] == [(0.0, 0.5), (0.1, 0.6)]
    assert slept == [1.0, 1.0]


def test_each_combination_runs_its_variants_on_their_devices() -> None:
    rng = np.random.default_rng(0)
    cell = SharingCell("neighbour", 1.0, (SMALL[A], SMALL[B]))
    assert workloads_of(cell, {1: SMALL[B]}, (0.1, 0.2), 1.0, 1, rng, with_stream=False) == [
        IDLE,
        Workload((SMALL[B],)),
    ]
    both = workloads_of(cell, {0: SMALL[A], 1: SMALL[B]}, (0.1, 0.2), 1.0, 1, rng, with_stream=False)
    assert both == [Workload((SMALL[A],)), Workload((SMALL[B],))]
    alone = SharingCell("neighbour", 1.0, (SMALL[A],), with_stream=True)
    assert workloads_of(alone, {0: SMALL[A]}, (0.1,), 1.0, 1, rng, with_stream=True)[1] == Workload((STREAM,))


def test_below_full_load_a_device_is_busy_for_that_part_whoever_shares_it() -> None:
    rng, took_s = np.random.default_rng(0), (0.01, 0.03)
    cell = SharingCell("device", 0.5, (SMALL[A], SMALL[B]))
    for works in ({0: SMALL[A]}, {1: SMALL[B]}, {0: SMALL[A], 1: SMALL[B]}):
        (workload,) = workloads_of(cell, works, took_s, 60.0, 1, rng, with_stream=False)
        assert workload.arrivals is not None
        seconds = {SMALL[A]: took_s[0], SMALL[B]: took_s[1]}
        busy_s = sum(seconds[workload.works[arrival.work]] for arrival in workload.arrivals)
        assert busy_s == pytest.approx(0.5 * 60.0, rel=0.01)
        assert list(workload.arrivals) == sorted(workload.arrivals, key=lambda arrival: arrival.at_s)


def test_pairs_come_first_and_a_variant_is_its_own_neighbour_only() -> None:
    sizes = {A: (1, 8), B: (1, 4), C: (1, 1)}
    cells = cells_of(sizes, (0.5, 1.0), ((A, B, C),), {"device": 2, "neighbour": 2}, has_stream=True)
    assert cells[:2] == [
        SharingCell("device", 1.0, (Work(A, 1), Work(B, 1))), SharingCell("device", 1.0, (Work(A, 8), Work(B, 4)))
    ]  # fmt: skip
    same = [cell for cell in cells if len({work.key for work in cell.works}) < len(cell.works)]
    assert {cell.where for cell in same} == {"neighbour"}
    assert [cell.where for cell in cells if len(cell.works) == 3] == ["device"] * 3, (
        "two devices have no room for three"
    )
    assert {work.batch for cell in cells if cell.load < 1 for work in cell.works} == {1}
    assert sum(cell.with_stream for cell in cells) == 2 * (2 + 2 + 1)
    alone = cells_of(sizes, (1.0,), (), {"device": 1, "neighbour": 1}, has_stream=False)
    assert {cell.where for cell in alone} == {"device"}
    assert len({cell.key({A: "a", B: "b", C: "c"}) for cell in cells}) == len(cells)


def test_the_middle_half_follows_a_shift_and_not_a_few_values_far_off() -> None:
    assert midmean([5.0]) == 5.0
    assert midmean([1.0, 1.0, 1.0, 1.0, 90.0, 1.0, 1.0, 1.0]) == 1.0
    assert midmean([value + 2.0 for value in (1.0, 2.0, 3.0, 9.0)]) == midmean([1.0, 2.0, 3.0, 9.0]) + 2.0
