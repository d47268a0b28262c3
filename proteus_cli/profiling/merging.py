"""Merges the profiles of several machines, so that those of one make count as one type of device."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from proteus_cli.errors import ArtefactError
from proteus_cli.profiling.csv_files.columns import ProfileRow
from proteus_cli.profiling.csv_files.network import RowNetwork, network_of
from proteus_cli.units import format_duration

SAME_MAKE_FRAC = 0.2
"""Cells of machines of one make differ by no more: each trusted cell is within a tenth of the truth (`NOISE_FRAC`)."""

T = TypeVar("T", int, float)

Entry = tuple[str, ProfileRow]
"""The name of a file, and a row of it."""

CellKey = tuple[str, str, str, int, int]
"""Device type, family, variant, batch size and slots."""


@dataclass(frozen=True, slots=True)
class Merged:
    """``rows`` in order of first appearance; ``shared`` cells stood in more than one file, and the slower counts.

    ``spread_frac``: by how much the slowest was slower than the fastest, at most.
    """

    rows: tuple[ProfileRow, ...]
    shared: int = 0
    spread_frac: float = 0.0


def merged(files: Sequence[tuple[str, Sequence[ProfileRow]]]) -> Merged:
    """The rows of files, each with its name, as those of one file.

    Where several files have a cell, one that is not noisy counts before one that is, and then the slower one: a plan
    must hold on each of the machines. The largest load time, memory and power of a cell count, and of a type the worst
    network. Raises `ArtefactError`
    where files were measured with different models, accuracies, slots or kinds of device, or where a cell differs by
    more than `SAME_MAKE_FRAC`.
    """
    known: dict[CellKey, list[Entry]] = {}
    for name, rows in files:
        _require_same_facts([entry for entries in known.values() for entry in entries], name, rows)
        for row in rows:
            known.setdefault(_cell(row), []).append((name, row))
    both = [_one(entries) for entries in known.values()]
    shared = sum(len(entries) > 1 for entries in known.values())
    rows = _with_worst_network(_with_min_memory([row for row, _ in both]), [row for _, each in files for row in each])
    return Merged(rows, shared, max((spread for _, spread in both), default=0.0))


def _cell(row: ProfileRow) -> CellKey:
    return row.device_type, row.family, row.variant, row.point.batch, row.point.slots


def _require_same_facts(known: Sequence[tuple[str, ProfileRow]], name: str, rows: Sequence[ProfileRow]) -> None:
    facts: dict[tuple[str, str], tuple[str, object]] = {}
    for file, row in (*known, *((name, row) for row in rows)):
        variant = f"`{row.family}/{row.variant}`"
        for fact, of, value in (
            ("the accuracy", f"{variant} on `{row.device_type}`", row.accuracy),
            ("the digest of the model", variant, row.model_digest),
            ("device_slots", f"`{row.device_type}`", row.device_slots),
            ("device_kind", f"`{row.device_type}`", row.device_kind),
        ):
            there, before = facts.setdefault((fact, of), (file, value)) if value is not None else (file, value)
            if before != value:
                raise ArtefactError(
                    f"{fact} of {of} is {before} in `{there}` and {value} in `{file}`.",
                    hint="merge profiles of the same models; other models are variants of their own",
                )


def _one(entries: Sequence[Entry]) -> tuple[ProfileRow, float]:
    """The row for a cell of several files, and by how much the slowest is slower than the fastest that counts."""
    trusted = [entry for entry in entries if not entry[1].point.noise_frac]
    by_latency = sorted(trusted or entries, key=lambda entry: entry[1].point.mean_s)
    fastest, slowest = by_latency[0], by_latency[-1]
    _require_same_make(fastest, slowest)
    rows = [row for _, row in entries]
    row = replace(
        slowest[1],
        load_s=_largest(each.load_s for each in rows),
        memory_bytes=_largest(each.memory_bytes for each in rows),
        slot_bytes=_largest(each.slot_bytes for each in rows),
        power_w=_largest(each.power_w for each in rows),
        device_kind=next((each.device_kind for each in rows if each.device_kind is not None), None),
    )
    return row, slowest[1].point.mean_s / fastest[1].point.mean_s - 1


def _require_same_make(fastest: Entry, slowest: Entry) -> None:
    (fast_name, fast), (slow_name, slow) = fastest, slowest
    fast_s, slow_s = fast.point.mean_s, slow.point.mean_s
    if slow_s > (1 + SAME_MAKE_FRAC) * fast_s:
        raise ArtefactError(
            f"Batch {slow.point.batch} of `{slow.family}/{slow.variant}` on `{slow.device_type}` takes "
            f"{format_duration(fast_s)} in `{fast_name}` and {format_duration(slow_s)} in `{slow_name}`, which is more "
            "than noise explains.",
            hint="give unlike machines types of their own (`proteus profile --as-type NAME`), or measure them again",
        )


def _largest(values: Iterable[T | None]) -> T | None:
    """The largest of what is known; None where nothing is."""
    return max((value for value in values if value is not None), default=None)


def _with_min_memory(rows: Sequence[ProfileRow]) -> tuple[ProfileRow, ...]:
    """Each type with the least memory that any of its machines has."""
    least: dict[str, int] = {}
    for row in rows:
        if row.device_memory_bytes is not None:
            before = least.get(row.device_type, row.device_memory_bytes)
            least[row.device_type] = min(before, row.device_memory_bytes)
    return tuple(replace(row, device_memory_bytes=least.get(row.device_type)) for row in rows)


def _with_worst_network(rows: Sequence[ProfileRow], known: Iterable[ProfileRow]) -> tuple[ProfileRow, ...]:
    """Each type as far away as any of its machines that is ``known``."""
    of_type: dict[str, list[tuple[str, RowNetwork | None]]] = {}
    for row in known:
        of_type.setdefault(row.device_type, []).append((row.family, row.network))
    networks = {device_type: network_of(each) for device_type, each in of_type.items()}

    def worst(row: ProfileRow) -> RowNetwork | None:
        network = networks[row.device_type]
        if network is None:
            return None
        return RowNetwork(network.round_trip_s, network.bytes_per_s, network.row_bytes.get(row.family))

    return tuple(replace(row, network=worst(row)) for row in rows)
