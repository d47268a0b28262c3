"""What the benchmark of adaptation makes of its figures."""

import pytest
from builders import MADE_BY

from benchmarks.adaptation.pages import BEGIN, END, aims, markdown, tables
from benchmarks.adaptation.results import (
    LEAST_ACCURATE,
    MEAN,
    MOST_ACCURATE,
    ORACLE,
    PEAK,
    PROTEUS,
    Benchmark,
    Reaction,
    Run,
)
from benchmarks.tables import put_between
from proteus_cli.domain.report import Mode

FIGURES = {  # violations and relative accuracy
    MOST_ACCURATE: (0.5, 1.0),
    LEAST_ACCURATE: (0.0, 0.7),
    MEAN: (0.2, 0.998),
    PEAK: (0.01, 0.996),
    PROTEUS: (0.002, 0.9972),
}


def run(name: str, mode: Mode, number: int, violations: float, accuracy: float) -> Run:
    return Run(
        name=name,
        mode=mode,
        round=number,
        requests=1000,
        slo_violation_ratio=violations,
        relative_accuracy=accuracy,
        mean_batch=1.5,
        latency_p99_s=0.08,
        replans=3,
        swaps=1,
        lag_p99_s=0.001 if mode == "live" else None,
    )


def found(*reactions: Reaction) -> Benchmark:
    measured = [run(name, "live", number, *figures) for name, figures in FIGURES.items() for number in range(3)]
    simulated = [
        run(PROTEUS, "simulated", number, violations, 0.997) for number, violations in enumerate((0.0, 0.004, 0.1))
    ]
    emulated = [run(PROTEUS, "emulated", 0, 0.0, 0.9978), run(PEAK, "emulated", 0, 0.0, 0.997)]
    return Benchmark(
        made_by=MADE_BY, command="python -m benchmarks.adaptation", machine="a machine", rounds=3, lasts_s=36.0,
        most_accurate_qps=300.0, lowest_qps=90.0, peak_qps=900.0, low_qps=150.0, high_qps=750.0, seconds=590.0,
        runs=(*measured, *emulated, *simulated, run(ORACLE, "simulated", 0, 0.0, 0.998)), reactions=reactions,
    )  # fmt: skip


def reaction(carried_s: float | None, *, standbys: bool = True, lost_frac: float = 0.02) -> Reaction:
    return Reaction(0, standbys, 0.4, carried_s, 0 if standbys else 2, lost_frac)


def test_a_static_plan_that_refuses_many_is_not_the_best_however_accurate() -> None:
    assert found().best_static == PEAK


def test_proteus_is_to_lose_three_in_a_thousand_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A static plan may lose more, and still keeps to its SLO: else that of the peak would not be compared with."""
    for violations in (0.003, 0.0031):
        monkeypatch.setitem(FIGURES, PROTEUS, (violations, 0.9972))
        done = found()
        [aim] = [aim for aim in aims(done) if aim.what == "proteus, SLO violations"]
        assert aim.is_reached == (violations == 0.003)
        assert done.best_static == PEAK


def test_the_way_from_the_best_static_plan_to_the_oracle_is_a_percentage() -> None:
    measured, emulated = [aim for aim in aims(found()) if "on the way" in aim.what]
    assert [measured.measured, emulated.measured] == pytest.approx([60, 80])
    assert measured.is_reached


def test_a_step_that_was_not_followed_is_missed_and_one_that_had_to_load_does_not_count() -> None:
    slow = reaction(3.0, standbys=False, lost_frac=0.9)
    done = found(reaction(0.4, lost_frac=0.1), reaction(0.6), reaction(None, lost_frac=0.07), slow)
    followed, next_median, _, median, longest, lost = (aim for aim in aims(done) if "standbys" in aim.what)
    assert (followed.measured, followed.limit, followed.is_reached) == (2, 3, False)
    assert lost.measured == pytest.approx(7.0)
    assert not lost.is_reached
    assert (next_median.measured, median.measured, longest.measured) == (0.4, 0.5, 0.6)


def test_what_a_server_does_is_compared_with_the_simulation_on_real_and_on_emulated_devices() -> None:
    apart = {aim.what: aim.measured for aim in aims(found()) if "relative accuracy apart" in aim.what}
    assert apart == {
        "live and simulated proteus, relative accuracy apart": pytest.approx(0.02),
        "emulated and simulated proteus, relative accuracy apart": pytest.approx(0.08),
    }


def test_measured_and_simulated_figures_have_separate_rows_with_medians_and_ranges() -> None:
    rows = next(iter(tables(found()))).rows
    assert [row[:3] for row in rows if row[0] == PROTEUS] == [
        (PROTEUS, "measured", "0.20"),
        (PROTEUS, "emulated", "0.00"),
        (PROTEUS, "simulated", "0.40 (0.00–10.00)"),
    ]


def test_the_page_gets_the_figures_between_its_markers_and_keeps_the_rest() -> None:
    page = put_between(f"# Before\n\n{BEGIN}\nold\n{END}\n\nafter\n", BEGIN, END, markdown(found(reaction(0.5))))
    assert "old" not in page
    assert page.startswith("# Before\n")
    assert page.endswith(f"{END}\n\nafter\n")
    assert page.count("| proteus | measured |") == 1
    with pytest.raises(ValueError, match="must have"):
        put_between("# Without\n", BEGIN, END, "text")
