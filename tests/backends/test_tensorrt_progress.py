"""How far a build is, as told by phases that nest."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.backends.tensorrt.progress import BuildProgress


def test_a_build_without_a_report_is_starting() -> None:
    phases = BuildProgress()
    assert (phases.now, phases.done_frac, phases.is_cancelled) == ("starting", 0.0, False)


def test_steps_count_alike() -> None:
    phases = BuildProgress()
    phases.begin("build", None, 4)
    assert phases.now == "build"
    fracs = []
    for step in range(4):
        phases.complete("build", step)
        fracs.append(phases.done_frac)
    assert fracs == [0.25, 0.5, 0.75, 1.0]


def test_a_step_counts_by_the_phases_within_it() -> None:
    phases = BuildProgress()
    phases.begin("build", None, 2)
    phases.complete("build", 0)
    phases.begin("time layers", "build", 4)
    phases.complete("time layers", 0)
    phases.begin("layer 2", "time layers", 2)
    phases.complete("layer 2", 0)
    assert phases.now == "layer 2"
    assert phases.done_frac == pytest.approx((1 + (1 + 0.5) / 4) / 2)


def test_progress_stays_when_a_phase_ends() -> None:
    phases = BuildProgress()
    phases.begin("build", None, 2)
    phases.begin("inner", "build", 2)
    phases.complete("inner", 1)
    phases.end("inner")
    assert phases.done_frac == pytest.approx(0.5)
    phases.complete("build", 0)
    assert phases.done_frac == pytest.approx(0.5)


def test_a_phase_that_ends_early_is_done() -> None:
    phases = BuildProgress()
    phases.begin("build", None, 10)
    phases.complete("build", 0)
    phases.end("build")
    assert phases.done_frac == 1.0


def test_the_builder_goes_on_until_it_is_cancelled() -> None:
    phases = BuildProgress()
    phases.begin("build", None, 3)
    assert phases.complete("build", 0)
    phases.cancel()
    assert not phases.complete("build", 1)
    assert phases.is_cancelled


names = st.sampled_from(["a", "b", "c"])
calls = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), names, st.none() | names, st.integers(0, 5)),
        st.tuples(st.just("complete"), names, st.integers(0, 9)),
        st.tuples(st.just("end"), names),
    )
)


@given(calls)
def test_progress_is_a_fraction_that_never_falls(told: list[tuple[Any, ...]]) -> None:
    """Also where names come twice, are unknown, or phases are within themselves, which the builder doesn't rule out."""
    phases, before = BuildProgress(), 0.0
    for name, *arguments in told:
        getattr(phases, name)(*arguments)
        assert before <= phases.done_frac <= 1.0
        before = phases.done_frac
