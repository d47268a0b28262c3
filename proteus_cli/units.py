"""Quantities as people write them, ``1200qps``, ``50ms``, ``4GiB`` ↔ numbers in base units; lists like ``a=1,b=2``."""

import math
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from proteus_cli.errors import UsageError

UNKNOWN = "–"  # in tables
ESTIMATED = "≈"  # before an accuracy

T = TypeVar("T")

_QUANTITY = re.compile(r"\s*([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?|[+-]?nan|[+-]?inf)\s*([A-Za-zµ/]*)\s*", re.IGNORECASE)

_SHARE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(%?)\s*", re.ASCII)

_RATES = {"qps": 1.0, "kqps": 1e3, "/s": 1.0, "qpm": 1 / 60}
_DURATIONS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {
    "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
}  # fmt: skip
_ENERGIES = {"uJ": 1e-6, "µJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3}

# The largest of each: sums and products of quantities stay far from what solvers take for infinity.
MAX_RATE_QPS = 1e12
MAX_DURATION_S = 36525 * _DURATIONS["d"]
MAX_SIZE_BYTES = 2**60


def parse_rate(text: str) -> float:
    """``"1200qps"`` → 1200.0 queries per second. Raises `UsageError`."""
    return _parse(
        text, _RATES, what="rate", example="1200qps", most=(MAX_RATE_QPS, "more than 10¹² queries per second")
    )


def parse_duration(text: str) -> float:
    """``"50ms"`` → 0.05 seconds; zero needs its unit too. Raises `UsageError`."""
    return _parse(text, _DURATIONS, what="duration", example="50ms", most=(MAX_DURATION_S, "longer than a century"))


def parse_size(text: str) -> int:
    """``"4GiB"`` → 4294967296 bytes. Raises `UsageError`."""
    return round(_parse(text, _SIZES, what="size", example="4GiB", most=(MAX_SIZE_BYTES, "more than 2²⁰ TiB")))


def parse_energy(text: str) -> float:
    """``"20mJ"`` → 0.02 joules; zero needs its unit too. Raises `UsageError`."""
    return _parse(text, _ENERGIES, what="energy", example="20mJ")


def parse_share(text: str) -> float:
    """``"99.5%"`` or ``"0.995"`` → 0.995: more than none, and less than all. Raises `UsageError`."""
    match = _SHARE.fullmatch(text)
    share = float(f"{match[1]}e{-2 if match[2] else 0}") if match else 0.0
    if not 0 < share < 1:
        raise UsageError(
            f"`{text}` is not a share between none and all.", hint="write a percentage or a fraction: `99.5%`, `0.995`"
        )
    return share


def parse_assignments(text: str, what: str, separator: str = "=") -> dict[str, str | None]:
    """``"a=1,b"`` → ``{"a": "1", "b": None}``: values by name. Raises `UsageError` for a name that stands twice."""
    values: dict[str, str | None] = {}
    for part in text.split(","):
        name, found, value = (piece.strip() for piece in part.rpartition(separator))
        name, assigned = (name, value) if found else (value, None)
        if name in values:
            raise UsageError(f"{what} names `{name}` twice.", hint="give each name once")
        values[name] = assigned
    return values


def _parse(
    text: str, units: Mapping[str, float], *, what: str, example: str, most: tuple[float, str] = (math.inf, "")
) -> float:
    match = _QUANTITY.fullmatch(text)
    hint = f"write a {what} with its unit, like `{example}`; units: {', '.join(units)}"
    if match is None:
        raise UsageError(f"`{text}` is not a {what}.", hint=hint)
    number, unit = match.groups()
    if unit not in units:
        problem = f"has an unknown unit `{unit}`" if unit else "has no unit"
        raise UsageError(f"The {what} `{text}` {problem}.", hint=hint)
    try:
        value = float(number) * units[unit]
    except ValueError:
        raise UsageError(f"`{text}` is not a {what}.", hint=hint) from None
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"The {what} `{text}` must be a finite number that is not negative.", hint=hint)
    if value > most[0]:
        raise UsageError(f"The {what} `{text}` is {most[1]}.", hint="write what a machine can have")
    return value


def parse_sizes(text: str) -> dict[str, int]:
    """``"4GiB"`` → ``{"": 4294967296}``, for all devices; ``"cpu0=4GiB,v100=8GiB"`` by id or type.

    Raises `UsageError`.
    """
    found = {}
    for name, size in parse_assignments(text, "The memory").items():
        found["" if size is None else name] = parse_size(name if size is None else size)
    return found


def write_duration(seconds: float) -> str:
    """60.0 → ``"1min"``, which `parse_duration` reads."""
    return _written(seconds, {unit: _DURATIONS[unit] for unit in ("s", "min", "h", "d")})


def write_size(size_bytes: float) -> str:
    """67108864 → ``"64MiB"``, which `parse_size` reads."""
    return _written(size_bytes, {unit: _SIZES[unit] for unit in ("B", "KiB", "MiB", "GiB")})


def _written(value: float, units: Mapping[str, float]) -> str:
    """The value in the largest of the units, from small to large, of which it is a whole number."""
    fits = [unit for unit, worth in units.items() if value >= worth and value % worth == 0]
    unit = fits[-1] if fits else next(iter(units))
    return f"{value / units[unit]:g}{unit}"


def format_rate(qps: float) -> str:
    """1200.0 → ``"1,200 qps"``, with one decimal below 10."""
    return f"{format_qps(qps)} qps"


def format_qps(qps: float) -> str:
    """The same without the unit."""
    return f"{qps:,.1f}" if 0 < qps < 10 else f"{qps:,.0f}"  # noqa: PLR2004


def format_duration(seconds: float) -> str:
    """0.05 → ``"50.0 ms"``; picks µs, ms, s or min by size."""
    if seconds >= 100:  # noqa: PLR2004
        return f"{seconds / 60:.1f} min"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    if seconds >= 1e-3:  # noqa: PLR2004
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds * 1e6:.0f} µs"


def format_size(size_bytes: float) -> str:
    """4294967296 → ``"4.0 GiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:  # noqa: PLR2004
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def counted(number: int, noun: str, plural: str = "") -> str:
    """1, ``"cell"`` → ``"1 cell"``; 1200 → ``"1,200 cells"``."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def mark_estimate(text: str, *, estimated: bool) -> str:
    """``"95.3 %"``, or ``"≈95.3 %"`` where no labels stand behind it; what is unknown has no mark."""
    return f"{ESTIMATED}{text}" if estimated and text != UNKNOWN else text


def format_accuracy(accuracy: float, *, estimated: bool) -> str:
    """0.9531 → ``"0.9531"``, or ``"≈0.9531"`` where no labels stand behind it."""
    return mark_estimate(f"{accuracy:.4f}", estimated=estimated)


def format_bar(part: float, columns: int) -> str:
    """A bar that fills ``part`` (0 to 1) of ``columns``, to an eighth of a column."""
    full, rest = divmod(round(max(0.0, min(part, 1.0)) * columns * 8), 8)
    return "█" * full + " ▏▎▍▌▋▊▉"[rest].strip()


def or_unknown(value: T | None, write: Callable[[T], str]) -> str:
    """The value as text; `UNKNOWN` where there is none."""
    return UNKNOWN if value is None else write(value)


def format_percent(fraction: float) -> str:
    """0.9731 → ``"97.3 %"``."""
    return f"{fraction * 100:.1f} %"
