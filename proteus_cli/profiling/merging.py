"""Merges the profiles of several machines of one make, which count as one type of device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from proteus_cli.errors import ArtefactError
from proteus_cli.profiling.csv_file import OF_MODEL, Agreement, ProfileRow, cell_of, largest
from proteus_cli.units import format_duration

SAME_MAKE_FRAC = 0.2
"""Maximum difference of a cell between machines of one make: each trusted cell has an error of a tenth at most."""
LARGEST = ("load_s", "memory_bytes", "slot_bytes", "power_w")

Entry = tuple[str, ProfileRow]
"""The name of a file, and a row of it."""


@dataclass(frozen=True, slots=True)
class Merged:
    """``rows`` in order of first appearance. Of ``shared`` cells, which more than one file has, the slower one counts.

    ``spread_frac``: the largest excess of the slowest over the fastest.
    """

    rows: tuple[ProfileRow, ...]
    shared: int = 0
    spread_frac: float = 0.0


def merged(files: Sequence[tuple[str, Sequence[ProfileRow]]]) -> Merged:
    """The rows of files, each with its name, as the rows of one file.

    Where several files have a cell, a trusted one counts before a noisy one, and then the slower one: a plan must hold
    on each of the machines. The largest load time, memory and power of a cell count. A type has the memory of its
    smallest machine and its worst network. Raises `ArtefactError` where files were measured with different models,
    accuracies, slots or kinds of device, or where a cell differs by more than `SAME_MAKE_FRAC`.
    """
    agreement, known = Agreement(OF_MODEL), dict[object, list[Entry]]()
    for name, rows in files:
        for row in rows:
            try:
                agreement.add(row, f"`{name}`")
            except ValueError as error:
                hint = "merge profiles of the same models; other models are variants of their own"
                raise ArtefactError(f"{error}.", hint=hint) from None
            known.setdefault(cell_of(row), []).append((name, row))
    both = [_one(entries) for entries in known.values()]
    everything = [row for _, rows in files for row in rows]
    return Merged(
        tuple(replace(row, **_worst(row, everything)) for row, _ in both),
        sum(len(entries) > 1 for entries in known.values()),
        max((spread for _, spread in both), default=0.0),
    )


def _one(entries: Sequence[Entry]) -> tuple[ProfileRow, float]:
    """The row of a cell of several files, and the excess of the slowest over the fastest that counts."""
    trusted = [entry for entry in entries if not entry[1].noise_frac] or entries
    fast_name, fast = min(trusted, key=lambda entry: entry[1].latency_ms)
    slow_name, slow = max(trusted, key=lambda entry: entry[1].latency_ms)
    spread_frac = float(slow.latency_ms / fast.latency_ms) - 1
    if spread_frac > SAME_MAKE_FRAC:
        raise ArtefactError(
            f"Batch {slow.batch} of `{slow.family}/{slow.variant}` on `{slow.device_type}` takes "
            f"{format_duration(fast.point.mean_s)} in `{fast_name}` and {format_duration(slow.point.mean_s)} in "
            f"`{slow_name}`, which is more than noise explains.",
            hint="give unlike machines types of their own (`proteus profile --as-type NAME`), or measure them again",
        )
    rows = [row for _, row in entries]
    kind = next((row.device_kind for row in rows if row.device_kind is not None), None)
    return replace(slow, device_kind=kind, **{column: largest(rows, column) for column in LARGEST}), spread_frac


def _worst(row: ProfileRow, known: Sequence[ProfileRow]) -> dict[str, Any]:
    """The least memory and the worst network of any machine of a type."""
    of_type = [each for each in known if each.device_type == row.device_type]

    def least(column: str) -> Any:
        return min((value for each in of_type if (value := getattr(each, column)) is not None), default=None)

    return {
        "device_memory_bytes": least("device_memory_bytes"),
        "network_round_trip_ms": largest(of_type, "network_round_trip_ms"),
        "network_bytes_per_s": least("network_bytes_per_s"),
        "network_row_bytes": largest([each for each in of_type if each.family == row.family], "network_row_bytes"),
    }
