"""Properties of conversions by ``proteus trace convert``; the command's own tests are in tests/cli."""

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.trace import Trace
from proteus_cli.errors import UsageError
from proteus_cli.replay.convert import Conversion, ConversionOptions, convert
from proteus_cli.replay.trace import to_csv

NAMES = st.text("abXY01._-,\" '", min_size=1, max_size=6).filter(lambda name: name == name.strip())
TIMES_US = st.integers(0, 60_000_000)
SLOS = st.one_of(st.just(math.nan), st.floats(1e-6, 1e3))
ROWS = st.lists(st.tuples(TIMES_US, NAMES, SLOS), min_size=1, max_size=60)
FULL_ROWS = st.lists(st.tuples(TIMES_US, NAMES, SLOS, st.just(0.0) | st.floats(0, 1)), min_size=1, max_size=60)


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


def converted(
    text: str, options: ConversionOptions | None = None, *, per_second: bool = False
) -> tuple[Conversion, str]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "t.csv"
        path.write_text(text, encoding="utf-8")
        conversion = convert([path], options or ConversionOptions(), lambda: {"a": 3.0, "b": 1.0})
        return conversion, to_csv(conversion.trace, per_second=per_second)


def count(text: str) -> int:
    return len(text.splitlines()) - 1


# --- conversion


@given(FULL_ROWS)
def test_our_own_form_comes_back_byte_for_byte(rows: list[tuple[int, str, float, float]]) -> None:
    text = text_of(sorted(rows, key=lambda row: row[0]))
    assert converted(text)[1] == text


@given(ROWS)
def test_rows_in_any_order_make_the_sorted_trace(rows: list[tuple[int, str, float]]) -> None:
    header, *lines = text_of(sorted(rows, key=lambda row: row[0])).splitlines(keepends=True)
    shuffled = sorted(lines, key=lambda line: line[::-1])
    in_order = sorted(shuffled, key=lambda line: float(line.split(",")[0]))
    assert converted(header + "".join(shuffled))[1] == header + "".join(in_order)


@given(ROWS, st.lists(st.integers(1, 60_000_000), min_size=1, max_size=3, unique=True))
def test_adjacent_windows_hold_each_arrival_once(rows: list[tuple[int, str, float]], cuts: list[int]) -> None:
    text = text_of(sorted(rows, key=lambda row: row[0]))
    edges = [0, *sorted(cuts), 2**62]
    total = 0
    for start_us, stop_us in pairwise(edges):
        inside = Counter(name for us, name, _ in rows if start_us <= us < stop_us)
        options = ConversionOptions(window_us=(start_us, stop_us))
        if not inside:
            with pytest.raises(UsageError, match="window has no arrivals"):
                converted(text, options)
            continue
        conversion, part = converted(text, options)
        total += conversion.arrivals
        assert count(part) == conversion.arrivals == inside.total()
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


@given(st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any))
def test_counts_are_kept_second_by_second(counts: list[int]) -> None:
    text = "".join(f"{second},{each},a\n" for second, each in enumerate(counts))
    kept = "".join(f"{second},a,{each}\n" for second, each in enumerate(counts) if each)
    assert converted(text, per_second=True)[1] == "second,family,count\n" + kept


@given(ROWS)
def test_counting_by_second_and_family_is_what_a_trace_in_memory_gives(rows: list[tuple[int, str, float]]) -> None:
    rows = sorted(((us, name, math.nan) for us, name, _ in rows), key=lambda row: row[0])
    assert converted(text_of(rows), per_second=True)[1] == to_csv(a_trace(rows), per_second=True)


@given(ROWS, st.integers(0, 3))
def test_the_same_seed_makes_the_same_trace(rows: list[tuple[int, str, float]], seed: int) -> None:
    text = text_of(sorted(rows, key=lambda row: row[0]))
    options = ConversionOptions(families="weights", scale_to_qps=100.0, seed=seed)
    assert converted(text, options)[1] == converted(text, options)[1]


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_never_crashes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "t.csv"
        path.write_bytes(content)
        try:
            said = to_csv(convert([path], ConversionOptions(), lambda: {"a": 1.0}).trace)  # some digits are counts
        except UsageError as error:
            said = error.hint
    assert said
