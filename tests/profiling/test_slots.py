"""With how many slots a device is served: the rule, and sweeps that measure what it needs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders import make_measured, make_point
from fake_backend import Clock, FakeBackend, FakeRunner, fake_time
from tiny import Tiny, device

from proteus_cli.backends.base import NamedArrays, Runner
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Point, Profile, VariantProfile
from proteus_cli.errors import OutOfDeviceMemory
from proteus_cli.profiling import cells
from proteus_cli.profiling.closed_loop import measure_point
from proteus_cli.profiling.jobs import measurement_jobs
from proteus_cli.profiling.slots import best_slots, is_settled, missing_points, points_of_batch, useful_slots
from proteus_cli.profiling.sweep import Sweep

SLO_S = 0.1
ROW_S = 0.001


def points(*qps: float, latency_s: float = 0.01) -> tuple[Point, ...]:
    """Of a batch of one, by slots from 1 on, that go so fast."""
    return tuple(make_point(1, slots / rate, slots) for slots, rate in enumerate(qps, start=1))


def measured(alone_s: Mapping[int, float], at_once_s: Mapping[int, Mapping[int, float]]) -> VariantProfile:
    return make_measured("a", "a-s", 0.8, alone_s, at_once_s=at_once_s)


@pytest.mark.parametrize(
    ("qps", "settled"),
    [((100,), False), ((100, 102.9), True), ((100, 103), False), ((100, 160, 164), True), ((100, 160, 170, 190), True)],
    ids=["one", "too little", "just enough", "no more", "as many as there may be"],
)
def test_a_slot_more_is_tried_while_the_last_brought_three_percent(qps: tuple[float, ...], settled: bool) -> None:  # noqa: FBT001
    assert is_settled(points(*qps), SLO_S, max_slots=4) is settled


def test_no_more_slots_are_tried_of_what_is_too_late_already() -> None:
    assert is_settled((make_point(1, 0.101),), SLO_S, max_slots=4)
    assert not is_settled((make_point(1, 0.099),), SLO_S, max_slots=4)


@pytest.mark.parametrize(
    ("qps", "useful"), [((100,), 1), ((100, 102), 1), ((100, 160, 164), 2), ((100, 160, 170), 3), ((100, 102, 150), 1)]
)
def test_the_most_useful_number_is_the_last_that_brought_something(qps: tuple[float, ...], useful: int) -> None:
    assert useful_slots(points(*qps)) == useful


def test_a_device_on_which_nothing_overlaps_is_served_with_one_slot() -> None:
    """Two batches at once each take twice as long: nothing is won, and each query waits longer."""
    assert best_slots([(measured({1: 0.010, 4: 0.016}, {2: {1: 0.020, 4: 0.032}}), SLO_S)]) == 1


def test_slots_count_by_what_goes_through_within_the_slo() -> None:
    """At batch 8 two slots bring 1.6 times as much, but take 50.1 ms, which is more than half of the SLO.

    So they are left with batches of 4 in 28 ms, 286 qps, where one slot carries 8 rows in 40 ms, 200 qps; and with an
    SLO of 60 ms, of which nothing but a batch of 1 fits in half, one slot carries 100 qps and two 91.
    """
    both = measured({1: 0.010, 4: 0.025, 8: 0.040}, {2: {1: 0.022, 4: 0.028, 8: 0.0501}})
    assert best_slots([(both, SLO_S)]) == 2
    assert best_slots([(both, 0.044)]) == 1


def test_variants_that_differ_share_the_number_that_is_best_on_the_mean() -> None:
    """One gains half with two slots and the other loses a tenth: a fifth on the mean."""
    gains = measured({1: 0.010}, {2: {1: 2 * 0.010 / 1.5}, 3: {1: 3 * 0.010 / 1.5}})
    loses = measured({1: 0.010}, {2: {1: 2 * 0.010 / 0.9}, 3: {1: 3 * 0.010 / 0.9}})
    assert best_slots([(gains, SLO_S), (loses, SLO_S)]) == 2
    assert best_slots([(gains, SLO_S), *[(loses, SLO_S)] * 5]) == 1  # (1.5 + 5 × 0.9) / 6


def test_a_number_counts_only_once_it_was_measured_of_all_variants() -> None:
    """Also where the sweep was interrupted; what is too slow for the SLO anyway has no say."""
    done, halfway = measured({1: 0.010}, {2: {1: 0.012}}), measured({1: 0.010}, {})
    hopeless = measured({1: 0.2}, {})
    assert list(missing_points(halfway, SLO_S, 3)) == [(1, 2), (1, 3)]
    assert best_slots([(done, SLO_S), (halfway, SLO_S)]) == 1
    assert best_slots([(done, SLO_S), (hopeless, SLO_S)]) == 2
    assert best_slots([]) == 1


# --- sweeps


class SlottedRunner(FakeRunner):
    slot_bytes = 300

    def __init__(self, backend: "SlottedBackend", model: Path) -> None:
        super().__init__(backend, model)
        self.slots, self._most = 1, backend.fits

    def add_slot(self) -> None:
        if self.slots == self._most:
            raise OutOfDeviceMemory("no room")
        self.slots += 1

    def compute_s(self, inputs: NamedArrays) -> float:
        return len(inputs["x"]) * ROW_S / 2


class SlottedBackend(FakeBackend):
    """``gains`` is how many times more goes through by slots, of a variant; ``fits`` as many slots as there is room."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.max_slots, self.fits = 4, 4
        self.gains: dict[str, dict[int, float]] = {}
        self.loads: list[str] = []
        self.meter = None

    @contextmanager
    def runner(self, model: Path, owner: VariantKey | None = None) -> Iterator[Runner]:
        self.loads.append(model.stem)
        self.now = model.stem
        yield SlottedRunner(self, model)

    def measure_point(
        self, run: Callable[[], object], batch: int, budget_s: float, *, slots: int, min_s: float
    ) -> Point:
        assert min_s == 0.0  # there is no meter
        if slots == 1:
            return measure_point(run, batch, budget_s)
        gain = self.gains.get(self.now, {}).get(slots, 1.0)
        return make_point(batch, slots * batch * ROW_S / gain, slots)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> SlottedBackend:
    made = SlottedBackend(fake_time(monkeypatch))
    monkeypatch.setattr(cells, "measure_point", made.measure_point)
    return made


def swept(
    made: Tiny, backend: SlottedBackend, max_slots: int = 4, *, budget_s: float | None = None
) -> tuple[Sweep, Profile]:
    on = device(made, "cpu0")
    jobs = measurement_jobs(made.place, made.place.catalog(), on, backend, 4, max_slots)
    done = Sweep(made.place, on, backend, jobs, budget_s)
    for _ in done.run():
        pass
    return done, made.place.profile("cpu0")


def numbers(profile: Profile, variant: str) -> dict[int, list[int]]:
    """By batch size, the numbers of slots that were measured."""
    (found,) = (each for each in profile.variants if each.variant == variant)
    return {point.batch: [each.slots for each in points_of_batch(found, point.batch)] for point in found.points}


def test_a_sweep_ends_with_the_slot_that_brings_nothing(bare: Tiny, backend: SlottedBackend) -> None:
    backend.gains = {key: {2: 1.5, 3: 1.5} for key in ("shapes-s", "shapes-m", "shapes-l", "tones-s", "tones-l")}
    profile = swept(bare, backend)[1]
    assert numbers(profile, "shapes-s") == {1: [1, 2, 3], 2: [1, 2, 3], 4: [1, 2, 3]}
    assert profile.slots == 2
    point, *_ = profile.points_of(profile.variants[0])
    assert (point.slots, point.qps, point.mean_s) == pytest.approx((2, 1500.0, 2 * ROW_S / 1.5))


def test_all_variants_are_measured_with_the_number_that_one_makes_use_of(bare: Tiny, backend: SlottedBackend) -> None:
    """So that it can be judged; where they stopped earlier, their engines are loaded once more."""
    backend.gains = {"shapes-s": {2: 2.0, 3: 3.0, 4: 3.0}}
    profile = swept(bare, backend)[1]
    assert numbers(profile, "shapes-s")[1] == [1, 2, 3, 4]
    assert numbers(profile, "tones-l")[1] == [1, 2, 3]
    assert [backend.loads.count(name) for name in ("shapes-s", "tones-l")] == [1, 2]
    assert profile.slots == 3  # (3 + 1 + 1 + 1 + 1) / 5 of what one slot carries


def test_after_the_budget_nothing_is_measured_with_the_number_that_another_makes_use_of(
    bare: Tiny, backend: SlottedBackend
) -> None:
    """What is left is listed, and the next sweep measures it."""
    backend.gains = {"shapes-s": {2: 2.0, 3: 3.0, 4: 3.0}}
    done, profile = swept(bare, backend, budget_s=0.0)
    assert len(backend.loads) == len(set(backend.loads)) == 5
    assert numbers(profile, "tones-l")[1] == [1, 2]
    late = [cell.batch for cell in done.missing if cell.variant == "tones-l"]
    assert late == [4, 2, 1]
    done, profile = swept(bare, backend)
    assert done.missing == ()
    assert numbers(profile, "tones-l")[1] == [1, 2, 3]


def test_after_the_budget_what_is_known_is_not_measured_with_more_slots(bare: Tiny, backend: SlottedBackend) -> None:
    """As where more are allowed than before. What is left is listed, and the next sweep measures it."""
    backend.gains = {key: {2: 2.0, 3: 3.0} for key in ("shapes-s", "shapes-m", "shapes-l", "tones-s", "tones-l")}
    swept(bare, backend, max_slots=2)
    before = bare.place.profile_path("cpu0").read_bytes()
    done, _ = swept(bare, backend, budget_s=0.0)
    assert done.measured == 0
    assert bare.place.profile_path("cpu0").read_bytes() == before
    assert [cell.batch for cell in done.missing if cell.variant == "tones-l"] == [1, 2, 4]
    done, profile = swept(bare, backend)
    assert done.missing == ()
    assert profile.slots == 3


def test_no_more_slots_are_used_than_are_allowed(bare: Tiny, backend: SlottedBackend) -> None:
    """Also where more were measured before, and are better."""
    backend.gains = {
        name: {2: 2.0, 3: 3.0, 4: 3.0} for name in ("shapes-s", "shapes-m", "shapes-l", "tones-s", "tones-l")
    }
    fewer = swept(bare, backend, max_slots=2)[1]
    assert (fewer.slots, numbers(fewer, "tones-s")[1]) == (2, [1, 2])
    assert swept(bare, backend)[1].slots == 3
    assert [swept(bare, backend, max_slots=most)[1].slots for most in (1, 2, 4)] == [1, 2, 3]


def test_computing_and_memory_are_in_the_profile(bare: Tiny, backend: SlottedBackend) -> None:
    variant = swept(bare, backend)[1].variants[0]
    assert [point.compute_s for point in variant.points] == pytest.approx([ROW_S / 2, ROW_S, 2 * ROW_S])
    assert all(point.compute_s < point.mean_s for point in variant.points if point.compute_s is not None)
    assert (variant.memory_bytes, variant.slot_bytes) == (1000, 300)


def test_what_has_no_room_is_not_measured_and_keeps_nobody_from_it(bare: Tiny, backend: SlottedBackend) -> None:
    backend.gains, backend.fits = {key: {2: 2.0, 3: 3.0} for key in ("shapes-s", "tones-s")}, 2
    profile = swept(bare, backend)[1]
    assert numbers(profile, "shapes-s")[1] == [1, 2]
    assert profile.slots == 2


def test_a_profile_of_one_slot_is_completed(bare: Tiny, backend: SlottedBackend) -> None:
    """As from a version that measured no more: what it has stays."""
    backend.max_slots = 1
    alone = swept(bare, backend)[1]
    backend.max_slots = 4
    runs = len(backend.runs)
    profile = swept(bare, backend)[1]
    assert len(backend.runs) == runs
    assert [variant.points for variant in profile.variants] == [variant.points for variant in alone.variants]
    assert numbers(profile, "tones-l") == {1: [1, 2], 2: [1, 2], 4: [1, 2]}
