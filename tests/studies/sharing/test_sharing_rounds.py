"""What rounds say: costs as they are, whatever drifts; and what cells say together."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import EngineError
from proteus_cli.studies.results import Served, SharingMember, SharingResult
from proteus_cli.studies.sharing.bench import Ran, Work, Workload
from proteus_cli.studies.sharing.cells import SharingCell
from proteus_cli.studies.sharing.drafting import checks_of, costs_of
from proteus_cli.studies.sharing.rounds import FEWEST_ROUNDS, MAX_ROUNDS, SharingMeter

A, B, C = (VariantKey("f", name) for name in "abc")
ALONE_S = {A: 0.001, B: 0.004}


@dataclass
class DriftingBench:
    """A machine that gets slower all the time, by half during the study, and on which A takes 1.2 times as long beside
    another. Its batches scatter; with ``stalls`` none ends."""

    rng: np.random.Generator
    scatter: float = 0.05
    stalls: bool = False
    drift: float = 0.25
    slots: int = 1
    now_s: float = 0.0
    lengths_s: list[float] = field(default_factory=list)

    def run(self, workloads: Sequence[Workload], length_s: float) -> list[list[Ran]]:
        self.lengths_s.append(length_s)
        if self.stalls:
            return [[] for _ in workloads]
        return [self._ran(workload, length_s) for workload in workloads]

    def _ran(self, workload: Workload, length_s: float) -> list[Ran]:
        at_s, done = 0.0, list[Ran]()
        while at_s < length_s:
            place = len(done) % len(workload.works)
            took_s = self._batch_s(workload, workload.works[place])
            done.append(Ran(place, at_s, at_s, at_s + took_s, took_s))
            at_s, self.now_s = at_s + took_s, self.now_s + took_s
        return done

    def _batch_s(self, workload: Workload, work: Work) -> float:
        assert work.key is not None
        cost = 1.2 if work.key == A and len(workload.works) > 1 else 1.0
        drift = 1 + self.drift * self.now_s
        return ALONE_S[work.key] * cost * drift * float(self.rng.lognormal(0, self.scatter))


def meter(bench: DriftingBench) -> SharingMeter:
    cell = SharingCell("device", 1.0, (Work(A, 1), Work(B, 1)))
    return SharingMeter(bench, cell, ["cpu0"], [0.001, 0.004], bench.rng, now_s=lambda: bench.now_s)


def test_drift_has_no_part_in_a_ratio_and_the_interval_holds_the_truth() -> None:
    held = []
    for seed in range(10):
        bench = DriftingBench(np.random.default_rng(seed))
        result = meter(bench).measure(60.0, lambda _now, _done: None)
        of_a, of_b = result.members
        held += [of_a.low <= 1.2 <= of_a.high, of_b.low <= 1.0 <= of_b.high]
        assert of_a.ratio == pytest.approx(1.2, rel=0.04)
        assert result.factor(0) == of_a.ratio
        assert of_a.together.qps < of_a.alone.qps
    assert sum(held) >= 18


def test_rounds_end_when_ratios_are_precise_or_the_time_is_over() -> None:
    def measured(scatter: float, allowed_s: float) -> SharingResult:
        bench = DriftingBench(np.random.default_rng(0), scatter=scatter, drift=0.0)
        return meter(bench).measure(allowed_s, lambda _now, _done: None)

    precise, late, noisy = measured(0.0, 60.0), measured(0.5, 1e-9), measured(0.5, 1e9)
    assert (precise.rounds, late.rounds, noisy.rounds) == (FEWEST_ROUNDS, FEWEST_ROUNDS, MAX_ROUNDS)
    assert noisy.factor(1) == 1


def test_a_machine_that_is_too_busy_is_told_after_ever_longer_slices() -> None:
    bench = DriftingBench(np.random.default_rng(0), stalls=True)
    with pytest.raises(EngineError, match="No batch of some variant ended"):
        meter(bench).measure(60.0, lambda _now, _done: None)
    assert bench.lengths_s == sorted(bench.lengths_s)
    assert len(bench.lengths_s) == 5


SERVED = Served(10, 100.0, 0.01, 0.01, 0.01, 0.01)


def member(key: VariantKey, batch_s: float, ratio: float, *, batch: int = 2) -> SharingMember:
    return SharingMember(*key, "cpu0", batch, batch_s, SERVED, SERVED, ratio, ratio - 0.01, ratio + 0.01)


def result(*members: SharingMember, load: float = 1.0, with_stream: bool = False) -> SharingResult:
    return SharingResult("device", load, 8, with_stream, members)


def test_cells_at_full_load_are_the_costs_and_the_higher_of_two_counts() -> None:
    costs = costs_of(
        [
            result(member(A, 0.1, 1.5), member(B, 0.1, 1.0)),
            result(member(A, 0.1, 1.7), member(B, 0.3, 1.0, batch=8)),
            result(member(A, 0.1, 9.0), member(B, 0.1, 9.0), load=0.5),
            result(member(A, 0.1, 2.0), with_stream=True),
        ]
    )
    of = {(cost.key, cost.others): cost.points for cost in costs}
    assert set(of) == {(A, (B,)), (B, (A,)), (A, ())}
    assert [(point.batch, point.ratio) for point in of[A, (B,)]] == [(2, 1.7)]
    assert [point.batch for point in of[B, (A,)]] == [2, 8]


def test_a_larger_set_is_checked_against_its_pairs_only() -> None:
    pairs = [result(member(one, 0.1, 1.5), member(other, 0.1, 1.0)) for one, other in ((A, B), (A, C), (B, C))]
    triple = result(member(A, 0.1, 1.5), member(B, 0.2, 1.5), member(C, 0.3, 1.0))
    (check,) = checks_of({"a": pairs[0], "b": pairs[1], "c": pairs[2], "all": triple})
    assert check.cell == "all"
    assert check.predicted_qps == pytest.approx(6 / (0.15 + 0.3 + 0.3))
    assert check.error_frac == pytest.approx(0.0)
    worse = msgspec.structs.replace(triple, members=(*triple.members[:2], member(C, 0.3, 2.0)))
    (check,) = checks_of({"a": pairs[0], "b": pairs[1], "c": pairs[2], "all": worse})
    assert check.error_frac == pytest.approx(1.05 / 0.75 - 1)
