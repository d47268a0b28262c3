import gzip
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli import store
from proteus_cli.domain.request import Bounds
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.replay import trace
from proteus_cli.replay.trace import MAX_ARRIVALS, read_trace, summary, to_csv

NAMES = st.text("abcXYZ0189._-", min_size=1, max_size=8)
MICROSECONDS = st.integers(0, 10**10)
SLOS = st.one_of(st.just(math.nan), st.floats(1e-6, 1e3))
MINIMA = st.one_of(st.just(0.0), st.floats(0, 1))
ROWS = st.lists(st.tuples(MICROSECONDS, NAMES, SLOS, MINIMA), min_size=1, max_size=30)


def a_trace(*rows: tuple[float, str], slo_s: float = math.nan) -> Trace:
    families = tuple(sorted({name for _, name in rows}))
    return Trace(
        name="t.csv",
        families=families,
        arrival_s=np.array([arrival_s for arrival_s, _ in rows]),
        family=np.array([families.index(name) for _, name in rows]),
        slo_s=np.full(len(rows), slo_s),
    )


def a_file(directory: Path, text: str) -> Path:
    path = directory / "t.csv"
    path.write_text(text)
    return path


@given(rows=ROWS, end=st.sampled_from(["csv", "csv.gz"]))
def test_what_was_written_is_read_back(
    rows: list[tuple[int, str, float, float]], end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows.sort(key=lambda row: row[0])
    families = tuple(sorted({name for _, name, _, _ in rows}))
    path = tmp_path_factory.mktemp("traces") / f"t.{end}"
    written = Trace(
        name=path.name,
        families=families,
        arrival_s=np.array([us / 1e6 for us, _, _, _ in rows]),
        family=np.array([families.index(name) for _, name, _, _ in rows]),
        slo_s=np.array([slo_s for _, _, slo_s, _ in rows]),
        min_accuracy=np.array([minimum for _, _, _, minimum in rows]),
    )

    store.write_text(path, to_csv(written))
    read = read_trace(path)

    assert (read.name, read.families) == (path.name, families)
    np.testing.assert_array_equal(read.arrival_s, written.arrival_s)
    np.testing.assert_array_equal(read.family, written.family)
    np.testing.assert_array_equal(read.slo_s, written.slo_s)
    np.testing.assert_array_equal(read.min_accuracy, written.min_accuracy)


@given(st.lists(st.tuples(st.floats(0, 50), NAMES), min_size=1, max_size=50))
def test_counts_keep_how_many_of_which_family_come_in_which_second(rows: list[tuple[float, str]]) -> None:
    counted = to_csv(a_trace(*sorted(rows)), per_second=True).splitlines()

    by_row = [line.split(",") for line in counted[1:]]
    assert counted[0] == "second,family,count"
    assert by_row == sorted(by_row, key=lambda row: (int(row[0]), row[1]))
    for second, family, count in by_row:
        assert int(count) == sum(int(arrival_s) == int(second) and name == family for arrival_s, name in rows)
    assert sum(int(count) for _, _, count in by_row) == len(rows)


def test_counted_arrivals_are_spread_over_their_second_in_order(tmp_path: Path) -> None:
    trace = read_trace(a_file(tmp_path, "second,family,count\n0,b,400\n0,a,600\n3,b,1000\n7,a,0\n"))

    assert trace.families == ("a", "b")
    assert trace.counts(0, 1) == {"a": 600, "b": 400}
    assert trace.counts(1, 3) == {"a": 0, "b": 0}
    assert trace.counts(3, 4) == {"a": 0, "b": 1000}
    assert np.mean(trace.arrival_s[1000:]) == pytest.approx(3.5, abs=0.03)
    assert np.all(np.isnan(trace.slo_s))


def test_counted_arrivals_mean_the_same_trace_each_time_unless_another_generator_is_given(tmp_path: Path) -> None:
    path = a_file(tmp_path, "second,family,count\n0,a,50\n")

    first, again, other = read_trace(path), read_trace(path), read_trace(path, rng=np.random.default_rng(1))

    np.testing.assert_array_equal(first.arrival_s, again.arrival_s)
    assert not np.array_equal(first.arrival_s, other.arrival_s)


def test_arrivals_have_six_decimals_and_slos_only_where_one_is_set() -> None:
    assert to_csv(a_trace((0.1, "a"), (2.0, "b"))) == "arrival_s,family\n0.100000,a\n2.000000,b\n"
    assert to_csv(a_trace((0.1, "a"), slo_s=0.05)) == "arrival_s,family,slo_s\n0.100000,a,0.05\n"


def test_minimum_accuracies_have_a_column_where_one_is_set() -> None:
    trace = replace(a_trace((0.1, "a"), (0.2, "a")), min_accuracy=np.array([0.0, 0.9]))
    assert to_csv(trace) == "arrival_s,family,min_accuracy\n0.100000,a,\n0.200000,a,0.9\n"
    both = replace(trace, slo_s=np.array([0.05, math.nan]))
    assert to_csv(both) == "arrival_s,family,slo_s,min_accuracy\n0.100000,a,0.05,\n0.200000,a,,0.9\n"
    with pytest.raises(UsageError, match="min_accuracy"):
        to_csv(trace, per_second=True)


def test_other_bounds_have_columns_where_one_is_set_and_are_read_back(tmp_path: Path) -> None:
    rows = a_trace((0.1, "a"), (0.2, "a"))
    trace = replace(rows, min_expected_accuracy=np.array([0.0, 0.9]), max_energy_j=np.array([0.25, math.nan]))
    text = to_csv(trace)
    assert text == "arrival_s,family,min_expected_accuracy,max_energy_j\n0.100000,a,,0.25\n0.200000,a,0.9,\n"
    read = read_trace(a_file(tmp_path, text))
    assert [read.bounds(number) for number in (0, 1)] == [Bounds(max_energy_j=0.25), Bounds(min_expected_accuracy=0.9)]
    assert (read.has_bounds, rows.has_bounds, rows.bounds(0)) == (True, False, None)
    with pytest.raises(UsageError, match="min_expected_accuracy"):
        to_csv(trace, per_second=True)
    for cells in ("1.5,", ",0", ",-1"):
        with pytest.raises(ArtefactError, match=r"min_expected_accuracy|max_energy_j"):
            read_trace(a_file(tmp_path, f"arrival_s,family,min_expected_accuracy,max_energy_j\n1,a,{cells}\n"))


def test_minimum_confidences_have_a_column_where_one_is_set_and_are_read_back(tmp_path: Path) -> None:
    """Their scale is that of the family: they may be below zero, and zero asks for something."""
    trace = replace(a_trace((0.1, "a"), (0.2, "a"), (0.3, "a")), min_confidence=np.array([math.nan, 0.0, -2.5]))
    text = to_csv(trace)
    assert text == "arrival_s,family,min_confidence\n0.100000,a,\n0.200000,a,0.0\n0.300000,a,-2.5\n"
    read = read_trace(a_file(tmp_path, text))
    asked = [read.bounds(number) for number in range(3)]
    assert asked == [None, Bounds(min_confidence=0.0), Bounds(min_confidence=-2.5)]
    assert read.has_bounds
    with pytest.raises(UsageError, match="min_confidence"):
        to_csv(trace, per_second=True)
    for cell in ("nan", "inf", "-1e39", "high", "1_0"):
        with pytest.raises(ArtefactError, match="min_confidence"):
            read_trace(a_file(tmp_path, f"arrival_s,family,min_confidence\n1,a,{cell}\n"))


def test_confidences_have_a_column_where_one_is_known_and_are_read_back(tmp_path: Path) -> None:
    trace = replace(a_trace((0.1, "a"), (0.2, "a")), confidence=np.array([math.nan, 0.25]))
    text = to_csv(trace)
    assert text == "arrival_s,family,confidence\n0.100000,a,\n0.200000,a,0.25\n"
    assert np.array_equal(read_trace(a_file(tmp_path, text)).confidence, trace.confidence, equal_nan=True)
    with pytest.raises(UsageError, match="confidence"):
        to_csv(trace, per_second=True)
    with pytest.raises(ArtefactError, match="confidence"):
        read_trace(a_file(tmp_path, "arrival_s,family,confidence\n1,a,1.5\n"))


def test_columns_may_come_in_any_order_with_quotes_spaces_a_byte_order_mark_and_foreign_line_ends(
    tmp_path: Path,
) -> None:
    trace = read_trace(
        a_file(tmp_path, '\ufeff"family", slo_s,"arrival_s",min_accuracy\r\n"b", 0.2, 0.5,\r\na,,1,\r\n')
    )

    assert [trace.families[index] for index in trace.family] == ["b", "a"]
    assert trace.arrival_s.tolist() == [0.5, 1.0]
    assert trace.slo_s[0] == 0.2
    assert math.isnan(trace.slo_s[1])


def test_gzipped_bytes_are_the_same_each_time_and_are_known_by_content(tmp_path: Path) -> None:
    trace = a_trace((0.5, "a"), (0.7, "b"))
    store.write_text(tmp_path / "1.csv.gz", to_csv(trace))
    store.write_text(tmp_path / "2.csv.gz", to_csv(trace))
    content = (tmp_path / "1.csv.gz").read_bytes()
    (tmp_path / "t.csv").write_bytes(content)

    assert content == (tmp_path / "2.csv.gz").read_bytes()
    assert gzip.decompress(content).decode() == to_csv(trace)
    assert read_trace(tmp_path / "t.csv").arrival_s.tolist() == [0.5, 0.7]


def test_counts_refuse_to_lose_latency_targets() -> None:
    with pytest.raises(UsageError, match="slo_s"):
        to_csv(a_trace((0.1, "a"), slo_s=0.05), per_second=True)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 1, "the file is empty"),
        ("time,family\n1,a\n", 1, "unknown header `time,family`"),
        ("arrival_s,family,family\n1,a,a\n", 1, "names a column twice"),
        ("arrival_s,family,colour\n1,a,red\n", 1, "unknown header"),
        ("arrival_s,family\n", 1, "has no arrivals"),
        ("arrival_s,family\n2,a\n1,a\n", 3, "1 s comes after 2 s"),
        ("arrival_s,family\n1,a\nnan,a\n", 3, "arrival_s `nan`"),
        ("arrival_s,family\n-1,a\n", 2, "arrival_s `-1`"),
        ("arrival_s,family\n1,a\ninf,a\n", 3, "arrival_s `inf`"),
        ("arrival_s,family\nsoon,a\n", 2, "arrival_s `soon`"),
        ("arrival_s,family\n1_0,a\n", 2, "arrival_s `1_0`"),
        ("arrival_s,family\n,a\n", 2, "arrival_s ``"),
        ("arrival_s,family\n1700000000,a\n", 2, "more than a year"),
        ("arrival_s,family\n1,\n", 2, "family is empty"),
        ("arrival_s,family\n1,a \n", 2, "blanks around"),
        (f"arrival_s,family\n1,{'a' * 101}\n", 2, "at most 100 characters"),
        ("arrival_s,family\n" + "".join(f"1,f{n}\n" for n in range(10_001)), 10_002, "more than 10,000 families"),
        ("arrival_s,family\n1,a\n2\n", 3, "1 cell where the header has 2"),
        ("arrival_s,family\n1,a,b\n", 2, "3 cells where the header has 2"),
        ("arrival_s,family\n1,a\n\nsoon,a\n", 4, "arrival_s `soon`"),
        ("arrival_s,family\n１,a\n", 2, "arrival_s `１`"),
        ('arrival_s,family\n1,"a\n', 2, "unexpected end of data"),
        ("arrival_s,family,slo_s\n1,a,0\n", 2, "slo_s `0` is not above zero"),
        ("arrival_s,family,slo_s\n1,a,nan\n", 2, "slo_s `nan`"),
        ("arrival_s,family,min_accuracy\n1,a,\n1,a,1.1\n", 3, "min_accuracy `1.1` is not a fraction"),
        ("arrival_s,family,min_accuracy\n1,a,-0.1\n", 2, "min_accuracy `-0.1`"),
        ("second,family,count\n", 1, "has no arrivals"),
        ("second,family,count\n1,a,0\n", 2, "has no arrivals"),
        ("second,family,count\n2,a,1\n1,a,1\n", 3, "1 s comes after 2 s"),
        ("second,family,count\n1,a,1.5\n", 2, "count `1.5`"),
        (f"second,family,count\n1,a,{'9' * 19}\n", 2, "is not a whole number"),
        ("second,family,count\n1,a,-1\n", 2, "count `-1`"),
        ("second,family,count\n0.5,a,1\n", 2, "second `0.5`"),
        ("second,family,count\n1,,1\n", 2, "family is empty"),
        ("second,family,count\n1,a\n", 2, "2 cells where the header has 3"),
        (f"second,family,count\n1,a,{MAX_ARRIVALS}\n1,a,1\n", 3, "more than 50,000,000 arrivals"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(text: str, line: int, problem: str, tmp_path: Path) -> None:
    path = a_file(tmp_path, text)

    with pytest.raises(ArtefactError) as caught:
        read_trace(path)

    assert caught.value.message.startswith(f"`{path}`, line {line}: ")
    assert problem in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_a_file_that_is_missing_binary_or_truncated_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"arrival_s,family\n1,\xff\n")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"arrival_s,family\n1,a\n")[:-9])

    for name, problem in {
        "missing.csv": "No file",
        "binary.csv": "line 2: not UTF-8",
        "cut.csv.gz": "not whole gzip",
    }.items():
        with pytest.raises(ArtefactError, match=problem) as caught:
            read_trace(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message
        assert caught.value.hint


def test_a_small_file_that_unpacks_to_too_many_arrivals_is_refused_before_they_are_read(tmp_path: Path) -> None:
    """Of 250 KB. A gzip file may have several members."""
    path = tmp_path / "t.csv.gz"
    million = gzip.compress(b"0,a\n" * 1_000_000)
    path.write_bytes(gzip.compress(b"arrival_s,family\n") + million * (MAX_ARRIVALS // 1_000_000 + 1))
    with pytest.raises(ArtefactError, match=r"t\.csv\.gz` has more than 50,000,000 lines") as caught:
        read_trace(path)
    assert "--window" in caught.value.hint


def test_as_many_arrivals_as_a_trace_may_have_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MAX_ARRIVALS", 2)
    assert len(read_trace(a_file(tmp_path, "arrival_s,family\n1,a\n1,a\n"))) == 2
    assert len(read_trace(a_file(tmp_path, "arrival_s,family\n1,a\n1,a"))) == 2
    with pytest.raises(ArtefactError, match="more than 2 lines"):
        read_trace(a_file(tmp_path, "arrival_s,family\n1,a\n1,a\n1,a\n"))


def test_what_no_request_of_a_trace_asks_for_takes_no_memory(tmp_path: Path) -> None:
    read = read_trace(a_file(tmp_path, "arrival_s,family,min_accuracy\n1,a,0.5\n1,a,\n"))
    unset = (read.slo_s, read.confidence, read.min_expected_accuracy, read.max_energy_j, read.eval_row)
    assert {column.strides for column in unset} == {(0,)}
    assert read.min_accuracy.tolist() == [0.5, 0.0]


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_never_crashes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("garbage") / "t.csv"
    path.write_bytes(content)
    with pytest.raises(ArtefactError):
        read_trace(path)


def test_a_summary_counts_families_and_compares_peaks_with_means() -> None:
    quiet = [(float(second), "a") for second in range(20)]
    busy = [(10 + index / 40, "b") for index in range(40)]

    facts = summary(a_trace(*sorted(quiet + busy)))

    assert (facts.arrivals, facts.duration_s) == (60, 19.0)
    assert facts.mean_qps == pytest.approx(60 / 19)
    assert facts.peak_qps == pytest.approx(5.0)
    assert facts.peak_to_mean == pytest.approx(41 / 3)
    assert facts.families["b"].count == 40
    assert facts.families["b"].share == pytest.approx(2 / 3)


def test_even_gaps_have_no_variation_and_one_gap_has_an_unknown_one() -> None:
    assert summary(a_trace((0.0, "a"), (1.0, "a"), (2.0, "a"))).gap_cv == 0.0
    assert summary(a_trace((0.0, "a"), (1.0, "a"))).gap_cv is None
    assert summary(a_trace((0.0, "a"), (0.0, "a"), (0.0, "a"))).gap_cv is None
