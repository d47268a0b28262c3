import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.errors import UsageError
from proteus_cli.units import (
    MAX_DURATION_S,
    MAX_RATE_QPS,
    MAX_SIZE_BYTES,
    counted,
    format_duration,
    format_percent,
    format_rate,
    format_size,
    parse_assignments,
    parse_duration,
    parse_energy,
    parse_rate,
    parse_share,
    parse_size,
)

PARSERS = {"qps": parse_rate, "ms": parse_duration, "MiB": parse_size, "mJ": parse_energy}


@pytest.mark.parametrize(
    ("text", "qps"),
    [("1200qps", 1200.0), ("1.2kqps", 1200.0), ("1200/s", 1200.0), ("90qpm", 1.5), (" 5 qps ", 5.0), ("0qps", 0.0)],
)
def test_a_rate_is_read_in_queries_per_second(text: str, qps: float) -> None:
    assert parse_rate(text) == pytest.approx(qps)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("50ms", 0.05), ("1e3us", 1e-3), ("7µs", 7e-6), (".5s", 0.5), ("2min", 120.0), ("2m", 120.0), ("1h", 3600.0)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "joules"), [("20mJ", 0.02), ("500uJ", 5e-4), ("7µJ", 7e-6), ("2J", 2.0), ("1.5kJ", 1500.0)]
)
def test_an_energy_is_read_in_joules(text: str, joules: float) -> None:
    assert parse_energy(text) == pytest.approx(joules)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("4GiB", 4 * 2**30), ("4GB", 4 * 10**9), ("1.5KiB", 1536), ("2kB", 2000), ("7B", 7), ("1TiB", 2**40)],
)
def test_a_size_is_read_in_bytes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes
    assert isinstance(parse_size(text), int)


@pytest.mark.parametrize("unit", PARSERS)
@pytest.mark.parametrize(
    "number",
    ["nan", "-nan", "inf", "-inf", "Infinity", "1e999", "-1", "-0.001", "", "ten", "1.2.3", "1,200", "1 2", "0x10"],
)
def test_what_is_not_a_finite_amount_is_refused_with_a_hint(number: str, unit: str) -> None:
    with pytest.raises(UsageError, match=r"^(The |`)") as caught:
        PARSERS[unit](number + unit)
    assert f"`{number}{unit}`" in caught.value.message
    assert unit in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("parse", "largest", "value", "larger", "problem"),
    [
        (parse_rate, "1e12qps", MAX_RATE_QPS, ("1e308qps", "1.1e9kqps"), "is more than 10¹² queries per second"),
        (parse_duration, "36525d", MAX_DURATION_S, ("1e308s", "1e6d", "36525.1d"), "is longer than a century"),
        (parse_size, "1048576TiB", MAX_SIZE_BYTES, ("1e308B", "1048577TiB"), "is more than 2²⁰ TiB"),
    ],
)
def test_what_no_machine_can_have_is_refused(
    parse: Callable[[str], float], largest: str, value: float, larger: tuple[str, ...], problem: str
) -> None:
    assert parse(largest) == value
    for text in larger:
        with pytest.raises(UsageError, match=f"`{text}` {problem}"):
            parse(text)


@pytest.mark.parametrize("unit", PARSERS)
@pytest.mark.parametrize("text", ["5", "0", "1e3", "nan", "inf"])
def test_a_number_without_a_unit_is_refused(text: str, unit: str) -> None:
    with pytest.raises(UsageError, match="has no unit") as caught:
        PARSERS[unit](text)
    assert "like `" in caught.value.hint


@pytest.mark.parametrize("unit", PARSERS)
@pytest.mark.parametrize("other", ["parsec", "QPS", "MS", "mib", "ſ"])
def test_an_unknown_unit_is_refused_with_the_known_ones(other: str, unit: str) -> None:
    """Case counts: `mB` would otherwise be a guess."""
    with pytest.raises(UsageError, match="unit") as caught:
        PARSERS[unit](f"5{other}")
    assert f", {unit}" in caught.value.hint or f": {unit}" in caught.value.hint


@pytest.mark.parametrize("unit", PARSERS)
@pytest.mark.parametrize("text", ["", " ", "\n", "qps", "ms", "MiB", "-", "µ"])
def test_what_has_no_number_is_refused(text: str, unit: str) -> None:
    with pytest.raises(UsageError, match="is not a"):
        PARSERS[unit](text)


@given(st.text(max_size=12))
def test_garbage_is_a_usage_error_or_a_finite_amount(text: str) -> None:
    for parse in PARSERS.values():
        try:
            value = parse(text)
        except UsageError:
            continue
        assert math.isfinite(value)
        assert value >= 0


@given(st.floats(0, 1e12), st.sampled_from(["qps", "/s"]))
def test_a_rate_survives_writing_and_reading(qps: float, unit: str) -> None:
    assert parse_rate(f"{qps!r}{unit}") == qps


@given(st.floats(1e-6, 1e6))
def test_a_formatted_duration_reads_back_within_its_last_digit(seconds: float) -> None:
    """The coarsest step is where the unit grows: 1.0 s for 1.04 s is 4 % off; 1 µs for 1.49 µs a third."""
    tolerance_s = 0.5e-6 if seconds < 1e-3 else max(0.06 * seconds, 0.5e-6)
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=tolerance_s * 1.001)


@given(st.integers(0, 2**50))
def test_a_formatted_size_reads_back_within_its_last_digit(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.051)


@given(st.floats(0, 1e9))
def test_a_formatted_rate_reads_back_within_its_last_digit(qps: float) -> None:
    assert parse_rate(format_rate(qps).replace(",", "")) == pytest.approx(qps, abs=0.051 if qps < 10 else 0.51)


def test_formats_are_as_people_write_them() -> None:
    assert (format_rate(1200.0), format_rate(1.5), format_rate(0.0)) == ("1,200 qps", "1.5 qps", "0 qps")
    assert (format_duration(0.05), format_duration(0.0), format_duration(3e-6)) == ("50.0 ms", "0 µs", "3 µs")
    assert (format_duration(1.0), format_duration(120.0)) == ("1.0 s", "2.0 min")
    assert (format_size(4 * 2**30), format_size(512), format_size(2**41)) == ("4.0 GiB", "512 B", "2.0 TiB")
    assert format_percent(0.9731) == "97.3 %"


@pytest.mark.parametrize("text", ["99.9%", "0.999", " 99.9 % ", "099.90%", ".999"])
def test_a_share_is_a_percentage_or_a_fraction(text: str) -> None:
    """Exactly the number that is written: 99.9 / 100 would be another."""
    assert parse_share(text) == 0.999


@pytest.mark.parametrize(
    "text", ["", "99.5", "100%", "1", "0", "0%", "-5%", "%", "nan", "1e-3", "0.9.9", "٩%", "9" * 400]
)
def test_what_is_no_share_between_none_and_all_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError, match="is not a share between none and all") as caught:
        parse_share(text)
    assert caught.value.hint == "write a percentage or a fraction: `99.5%`, `0.995`"


def test_a_list_of_assignments_is_read_by_name() -> None:
    assert parse_assignments(" a = 1 ,b,c=", "The list") == {"a": "1", "b": None, "c": ""}
    assert parse_assignments("cpu:20, v100:10", "The fleet", ":") == {"cpu": "20", "v100": "10"}


def test_a_list_that_names_one_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="The list names `a` twice"):
        parse_assignments("a=1,b=2,a=3", "The list")


def test_a_count_has_its_noun_in_the_singular_or_the_plural() -> None:
    assert [counted(number, "cell") for number in (0, 1, 1200)] == ["0 cells", "1 cell", "1,200 cells"]
    assert [counted(number, "family", "families") for number in (1, 2)] == ["1 family", "2 families"]
