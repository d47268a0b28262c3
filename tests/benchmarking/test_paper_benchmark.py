"""The benchmark of the paper's experiments: what it counts, and that it runs without the paper's data."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.paper import fig5, fig6, fig7, fig8, generality, oracle, pages
from benchmarks.paper.lab import Case, Lab, Size, check
from benchmarks.paper.results import Benchmark, Figures, Section, beside
from benchmarks.paper.traces import Bursts, cut
from benchmarks.tables import Table
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.base import MadeBy
from proteus_cli.replay.synthesis import Poisson, make_trace

TINY = Size(
    policies=("proteus", "clipper-ht"),
    window_s=None,
    multiples=(),
    kinds=("flat",),
    loads=(0.01,),
    made_up_s=4.0,
    bursts_s=8.0,
    batching_s=0.02,
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Where everything runs on the synthetic cluster, also where the paper's is there."""
    return Lab(tmp_path_factory.mktemp("lab"), TINY, lambda _now: None, has_paper=False)


def figures(violations: float, accuracy: float) -> Figures:
    return Figures("p", "t", 0.0, (0.3,), 100, 0, 0, 0, violations, accuracy, 0.0, 1.0, 1.0, 1.0, 0, 0, 0.1)


def test_a_query_that_missed_its_slo_counts_as_no_accuracy() -> None:
    """A tenth is missed and the rest is 0.9 accurate: 0.9 × 0.9."""
    assert figures(0.1, 0.9).accuracy_on_time == pytest.approx(0.81)


def test_the_best_of_a_row_is_marked_and_nothing_else() -> None:
    """0.99 × 0.95 on time beats 0.9 × 1.0."""
    assert beside(("trace",), (figures(0.01, 0.95), figures(0.1, 1.0))) == ("trace", "1.00 / 95.0 *", "10.00 / 100.0")


def test_bursts_have_their_own_rate_and_the_rest_keeps_its_own() -> None:
    arrivals_s = Bursts(((10.0, 20.0, 500.0),)).arrivals(100.0, 40.0, np.random.default_rng(1))
    in_burst = int(np.count_nonzero((arrivals_s >= 10) & (arrivals_s < 20)))
    assert in_burst == pytest.approx(5000, abs=5 * 5000**0.5)
    assert len(arrivals_s) - in_burst == pytest.approx(3000, abs=5 * 3000**0.5)
    assert np.all(np.diff(arrivals_s) >= 0)


def test_a_part_of_a_trace_has_what_arrives_in_it_and_starts_at_zero() -> None:
    rng = np.random.default_rng(2)
    whole = make_trace("t", Poisson(), rate_qps=50.0, duration_s=10.0, shares={"a": 1.0, "b": 2.0}, rng=rng)
    part = cut(whole, 2.0, 5.0)
    assert part.counts(0.0, 3.0) == whole.counts(2.0, 5.0)
    assert len(part) == sum(whole.counts(2.0, 5.0).values())


def test_a_run_that_lost_a_query_is_not_accepted(lab: Lab) -> None:
    """The same report against a trace that had one query more, or one at another time."""
    trace = lab.made_up[0]
    report = lab.report(Case(policy_named("clipper-ht"), trace))
    check(report, trace)
    with pytest.raises(AssertionError, match="requests ended of"):
        check(report, cut(trace, 0.01, 1e9))


def test_no_case_runs_twice_and_static_policies_have_no_loads(lab: Lab) -> None:
    trace = lab.made_up[0]
    first = lab.named("clipper-ht", trace)
    count = len(lab.done)
    assert lab.named("clipper-ht", trace, load_time_s=1.0) is first
    assert len(lab.done) == count


def test_traces_are_the_same_each_time_and_have_their_rate(lab: Lab, tmp_path: Path) -> None:
    again = Lab(tmp_path, TINY, lambda _now: None, has_paper=False)
    for one, other in zip(lab.made_up, again.made_up, strict=True):
        assert np.array_equal(one.arrival_s, other.arrival_s)
        assert np.array_equal(one.family, other.family)


def test_synthetic_traces_are_compared_and_the_worst_case_is_named(lab: Lab) -> None:
    section = generality.measure(lab)
    assert [table.rows[0][0] for table in section.tables] == ["flat 1%", "clipper-ht"] * 2
    assert all("Worst case" in remark and "1%”" in remark for remark in section.remarks)


def test_it_is_ahead_of_several_only_where_it_is_ahead_of_each() -> None:
    """0.9 on time on both traces: ahead of one policy on both, of the other on the second."""
    found = {
        trace: {"proteus": figures(0.0, 0.9), "low": figures(0.0, 0.8), "mixed": figures(0.0, mixed)}
        for trace, mixed in (("first", 0.95), ("second", 0.85))
    }
    assert [generality.ahead(found, *names) for names in (("low",), ("mixed",), ("low", "mixed"))] == [2, 1, 1]


def test_nothing_is_more_accurate_than_the_oracle(lab: Lab) -> None:
    """But for what waits from one second to the next, where the oracle plans each by itself."""
    [table] = oracle.measure(lab).tables
    assert [row[0] for row in table.rows] == [trace.name for trace in lab.made_up]
    for row in table.rows:
        least, ours, most = (float(cell.removesuffix(" %")) for cell in row[1:4])
        assert least < ours <= most + 0.05


def test_the_page_has_all_tables_and_escapes_stars() -> None:
    table = Table("Title", ("trace", "p"), (("t", "0.00 / 99.0 *"),), "Note.")
    section = Section("s", "Heading", "Why.\n", (table,), ("Found.",))
    done = Benchmark(MadeBy("0", "h", "2026-01-02T00:00:00"), "cmd", "m", {"a": "1"}, "c", 1.0, (section,), (), ())
    page = pages.markdown(done)
    for text in (
        "## Heading",
        "Why.",
        "**Title**",
        "| trace | p |",
        "| t | 0.00 / 99.0 \\* |",
        "Note.",
        "Found.",
        "    cmd",
    ):
        assert text in page


def test_each_batching_rule_is_measured(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under one kind of arrivals: each case makes its plan anew."""
    monkeypatch.setattr(fig6, "ARRIVALS", {"Poisson": fig6.ARRIVALS["Poisson"]})
    for table in fig6.measure(lab).tables:
        [row] = table.rows
        assert row[0] == "Poisson"
        assert len(row) == len(table.columns) == 1 + len(fig6.RULES)


def test_a_renewed_page_keeps_the_section_of_the_other_benchmark() -> None:
    done = Benchmark(MadeBy("0", "h", "2026-01-02T00:00:00"), "cmd", "m", {"a": "1"}, "c", 1.0, (), (), ())
    page = pages.renewed(f"# Old\n\nold\n\n{pages.OTHERS}\n\nkept\n", done)
    assert page.startswith(pages.INTRODUCTION)
    assert page.endswith(f"\n\n{pages.OTHERS}\n\nkept\n")
    assert "\nold\n" not in page
    assert pages.renewed("", done) == pages.markdown(done)


def test_the_page_says_what_the_benchmark_would_write() -> None:
    """A text that is mended in one place alone would come back, or go, with the next run."""
    page = (Path(pages.__file__).parents[2] / "docs" / "paper.md").read_text(encoding="utf-8")
    assert pages.INTRODUCTION in page
    for text in (fig5.TEXT, fig6.TEXT, fig7.TEXT, fig8.TEXT, fig8.NOTE, generality.TEXT, oracle.TEXT):
        assert text in page
