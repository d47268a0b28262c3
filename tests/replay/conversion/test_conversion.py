"""Properties of the stream behind ``proteus trace convert``; the command's own tests are in tests/cli."""

import math
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proteus_cli.domain.trace import Trace
from proteus_cli.errors import UsageError
from proteus_cli.replay import scaling
from proteus_cli.replay.conversion import arrivals, external_sort, stream
from proteus_cli.replay.conversion.convert import Conversion, ConversionOptions, convert
from proteus_cli.replay.conversion.external_sort import RECORD, ArrivalSorter, Records
from proteus_cli.replay.conversion.families import parse_rule
from proteus_cli.replay.conversion.stream import TraceWindow
from proteus_cli.replay.trace import to_csv

NAMES = st.text("abXY01._-,\" '", min_size=1, max_size=6).filter(lambda name: name == name.strip())
TIMES_US = st.integers(0, 60_000_000)
SLOS = st.one_of(st.just(math.nan), st.floats(1e-6, 1e3))
ROWS = st.lists(st.tuples(TIMES_US, NAMES, SLOS), min_size=1, max_size=60)
FULL_ROWS = st.lists(st.tuples(TIMES_US, NAMES, SLOS, st.just(0.0) | st.floats(0, 1)), min_size=1, max_size=60)


@contextmanager
def small_chunks(size: int) -> Iterator[None]:
    """Chunks and blocks so small that a short trace has many of them."""
    with (
        mock.patch.object(external_sort, "CHUNK", size),
        mock.patch.object(arrivals, "CHUNK", size),
        mock.patch.object(stream, "CHUNK", size),
        mock.patch.object(external_sort, "MIN_BLOCK", 2),
    ):
        yield


Rows = Sequence[tuple[int, str, float]] | Sequence[tuple[int, str, float, float]]


def a_trace(rows: Rows) -> Trace:
    """Rows of time in microseconds, family, latency target, and minimum accuracy where they have one."""
    families = tuple(sorted({name for _, name, *_ in rows}))
    return Trace(
        name="t.csv",
        families=families,
        arrival_s=np.array([us / 1e6 for us, *_ in rows]),
        family=np.array([families.index(name) for _, name, *_ in rows]),
        slo_s=np.array([slo_s for _, _, slo_s, *_ in rows]),
        min_accuracy=np.array([sum(minimum) for _, _, _, *minimum in rows], dtype=np.float64),
    )


def text_of(rows: Rows) -> str:
    return to_csv(a_trace(rows))


def converted(text: str, options: ConversionOptions | None = None) -> tuple[Conversion, str]:
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as spool:
        path = Path(directory) / "t.csv"
        path.write_text(text, encoding="utf-8")
        conversion = convert([path], options or ConversionOptions(), lambda: {"a": 3.0, "b": 1.0}, spool)
        return conversion, "".join(conversion.pieces)


def count(text: str) -> int:
    return len(text.splitlines()) - 1


# --- sorting


def records(times_us: Sequence[int], first: int = 0) -> Records:
    """Records whose families number them."""
    made = np.zeros(len(times_us), dtype=RECORD)
    made["time_us"] = times_us
    made["family"] = np.arange(first, first + len(times_us))
    return made


@given(st.lists(st.lists(st.integers(-5, 5), max_size=12), max_size=12), st.integers(1, 6))
def test_a_sorter_gives_back_all_records_by_time_and_keeps_the_order_of_equal_times(
    chunks: list[list[int]], size: int
) -> None:
    with small_chunks(size), tempfile.TemporaryFile() as spool:
        kept, length = ArrivalSorter(spool), 0
        for times_us in chunks:
            kept.add(records(times_us, length))
            length += len(times_us)
        once, again = list(kept.merged()), list(kept.merged())

    everything = records([time_us for times_us in chunks for time_us in times_us])
    expected = everything[np.argsort(everything["time_us"], kind="stable")]
    for merged in (once, again):
        np.testing.assert_array_equal(np.concatenate([records([]), *merged]), expected)


def test_a_sorted_source_is_read_back_in_as_few_blocks_as_chunks() -> None:
    with tempfile.TemporaryFile() as spool:
        kept = ArrivalSorter(spool)
        for start in range(4):
            kept.add(records(range(start * 1000, start * 1000 + 1000)))
        assert [len(block) for block in kept.merged()] == [4000]


# --- conversion


@given(FULL_ROWS, st.integers(1, 9))
def test_our_own_form_comes_back_byte_for_byte(rows: list[tuple[int, str, float, float]], size: int) -> None:
    text = text_of(sorted(rows, key=lambda row: row[0]))
    with small_chunks(size):
        assert converted(text)[1] == text


@given(ROWS, st.integers(1, 9))
def test_rows_in_any_order_make_the_sorted_trace(rows: list[tuple[int, str, float]], size: int) -> None:
    header, *lines = text_of(sorted(rows, key=lambda row: row[0])).splitlines(keepends=True)
    shuffled = sorted(lines, key=lambda line: line[::-1])
    in_order = sorted(shuffled, key=lambda line: float(line.split(",")[0]))
    with small_chunks(size):
        assert converted(header + "".join(shuffled))[1] == header + "".join(in_order)


@given(ROWS, st.lists(st.integers(1, 60_000_000), min_size=1, max_size=3, unique=True))
def test_adjacent_windows_hold_each_arrival_once(rows: list[tuple[int, str, float]], cuts: list[int]) -> None:
    text = text_of(sorted(rows, key=lambda row: row[0]))
    edges = [0, *sorted(cuts), 2**62]
    total = 0
    for start_us, stop_us in pairwise(edges):
        inside = Counter(name for us, name, _ in rows if start_us <= us < stop_us)
        options = ConversionOptions(window=TraceWindow(start_us, stop_us))
        if not inside:
            with pytest.raises(UsageError, match="window has no arrivals"):
                converted(text, options)
            continue
        conversion, part = converted(text, options)
        total += conversion.found.arrivals
        assert count(part) == conversion.found.arrivals == inside.total()
    assert total == len(rows)


@given(ROWS, st.floats(0.01, 1000))
def test_a_speed_up_divides_the_times_and_keeps_all_else(rows: list[tuple[int, str, float]], speedup: float) -> None:
    rows.sort(key=lambda row: row[0])
    _, fast = converted(text_of(rows), ConversionOptions(speedup=speedup))
    for line, (us, _, _) in zip(fast.splitlines()[1:], rows, strict=True):
        assert float(line.split(",")[0]) == pytest.approx(us / 1e6 / speedup, abs=1e-6)
    assert [line.split(",", 1)[1] for line in fast.splitlines()] == [
        line.split(",", 1)[1] for line in text_of(rows).splitlines()
    ]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any), st.integers(1, 9))
def test_counts_are_kept_second_by_second_however_they_are_cut_into_chunks(counts: list[int], size: int) -> None:
    text = "".join(f"{each}\n" for each in counts)
    with small_chunks(size):
        rule = parse_rule("name=a")
        assert converted(text, ConversionOptions(rule=rule, per_second=True))[1] == "second,family,count\n" + "".join(
            f"{second},a,{each}\n" for second, each in enumerate(counts) if each
        )


@given(ROWS, st.integers(1, 9))
def test_counting_by_second_and_family_is_what_a_trace_in_memory_gives(
    rows: list[tuple[int, str, float]], size: int
) -> None:
    rows = sorted(((us, name, math.nan) for us, name, _ in rows), key=lambda row: row[0])
    with small_chunks(size):
        assert converted(text_of(rows), ConversionOptions(per_second=True))[1] == to_csv(a_trace(rows), per_second=True)


@given(ROWS, st.integers(1, 9), st.integers(0, 3))
def test_the_same_seed_makes_the_same_trace(rows: list[tuple[int, str, float]], size: int, seed: int) -> None:
    text = text_of(sorted(rows, key=lambda row: row[0]))
    options = ConversionOptions(rule=parse_rule("weights"), scale_to_qps=100.0, seed=seed)
    with small_chunks(size):
        assert converted(text, options)[1] == converted(text, options)[1]


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_never_crashes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as spool:
        path = Path(directory) / "t.csv"
        path.write_bytes(content)
        try:
            said = next(
                iter(convert([path], ConversionOptions(), lambda: {"a": 1.0}, spool).pieces)
            )  # some digits are counts
        except UsageError as error:
            said = error.hint
    assert said


# --- peaks and rates


@given(st.lists(st.integers(0, 40_000_000), min_size=1, max_size=80), st.integers(1, 7))
@example([1_500_000, 10_500_000, 11_000_000, 11_400_000], 2)  # only the last window has all four
@example(list(range(0, 60_000_000, 1_000_000)), 7)  # ten in each window, and never both of its ends
def test_the_peak_is_that_of_a_trace_in_memory(times_us: list[int], size: int) -> None:
    times_us.sort()
    blocks = [records(times_us[start : start + size]) for start in range(0, len(times_us), size)]

    found = stream.survey(iter(blocks))

    trace = a_trace([(us, "a", math.nan) for us in times_us])
    assert found.peak_qps == pytest.approx(trace.peak_demand()["a"])
    assert (found.arrivals, found.duration_s) == (len(times_us), times_us[-1] / 1e6)


def test_one_block_is_scaled_as_a_trace_in_memory() -> None:
    rng = np.random.default_rng(3)
    times_us = np.sort(rng.integers(0, 20_000_000, 500))
    trace = a_trace([(int(us), "a", math.nan) for us in times_us])

    (first, rest) = stream.scaled(iter([records(times_us.tolist())]), 1.7, trace.duration_s, np.random.default_rng(5))
    scaled = np.concatenate([first, rest])

    expected = scaling.scaled(trace, 1.7, np.random.default_rng(5))
    np.testing.assert_allclose(scaled["time_us"] / 1e6, expected.arrival_s, atol=1.1e-6)


@given(st.lists(st.integers(0, 5_000_000), min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 7))
def test_scaling_block_by_block_copies_each_arrival_nearby_and_keeps_the_order(
    times_us: list[int], factor: int, size: int
) -> None:
    times_us.sort()
    blocks = (records(times_us[start : start + size], start) for start in range(0, len(times_us), size))

    scaled = np.concatenate(list(stream.scaled(blocks, factor, times_us[-1] / 1e6, np.random.default_rng(1))))

    assert np.all(np.diff(scaled["time_us"]) >= 0)
    assert Counter(scaled["family"].tolist()) == dict.fromkeys(range(len(times_us)), factor)
    assert np.all(np.abs(scaled["time_us"] - np.array(times_us)[scaled["family"]]) <= 1_000_001)
    assert scaled["time_us"].min() >= 0
    assert scaled["time_us"].max() <= times_us[-1]


# --- memory

CONVERT_IN_LITTLE_MEMORY = """
import sys
from pathlib import Path
from tempfile import TemporaryFile
from proteus_cli.replay.conversion import arrivals, external_sort, stream
from proteus_cli.replay.conversion.convert import ConversionOptions, convert

for module in (arrivals, external_sort, stream):
    module.CHUNK = 1 << 14  # so that few arrivals are many chunks

def most_kib():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])

def run(source, out):
    with TemporaryFile() as spool, Path(out).open("w") as file:
        options = ConversionOptions(scale_to_qps=800.0)
        for piece in convert([Path(source)], options, lambda: {"a": 1, "b": 1}, spool).pieces:
            file.write(piece)

run(sys.argv[1], sys.argv[3])
before_kib = most_kib()
run(sys.argv[2], sys.argv[3])
print(most_kib() - before_kib)
"""
FEW, MANY = 40_000, 250_000
EXTRA_MIB = 3
IN_MEMORY_MIB = (MANY - FEW) * 24 // 2**20  # what the arrays of a `Trace` would take more, without any text


def write_unsorted(path: Path, arrivals: int) -> None:
    times_s = np.random.default_rng(1).permutation(arrivals) / 1000
    with path.open("w") as file:
        file.write("app,func,end_timestamp,duration\n")
        file.writelines(f"x,f{number % 97},{time_s},0.5\n" for number, time_s in enumerate(times_s.tolist()))


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is measured by Linux's /proc")
def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    """Six times as many arrivals, in no order, and scaled, take no more memory."""
    few, many, out = tmp_path / "few.csv", tmp_path / "many.csv", tmp_path / "out.csv"
    write_unsorted(few, FEW)
    write_unsorted(many, MANY)

    done = subprocess.run(
        [sys.executable, "-c", CONVERT_IN_LITTLE_MEMORY, few, many, out],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )

    assert int(done.stdout) / 1024 < EXTRA_MIB < IN_MEMORY_MIB
    with out.open() as file:
        assert sum(1 for _ in file) == pytest.approx(MANY * 0.8, rel=0.02)
