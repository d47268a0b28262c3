"""Reads rows: whether each makes sense by itself."""

import io
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import TypeVar

from proteus_cli.csv_cells import csv_table, fraction, number, positive_number, whole_number
from proteus_cli.domain.base import LARGEST_BATCH, LONGEST_S, SHORTEST_S, require
from proteus_cli.domain.catalog import is_name
from proteus_cli.domain.profile import LARGEST_SLOTS, Point
from proteus_cli.profiling.csv_files.columns import HINT, NEEDED, OPTIONAL, PERCENTILES, DeviceKind, ProfileRow
from proteus_cli.profiling.csv_files.contradictions import EarlierRows
from proteus_cli.profiling.csv_files.network import network_in
from proteus_cli.store.workspace import SHARING

T = TypeVar("T", int, float)


def parse_rows(text: str, name: str) -> tuple[ProfileRow, ...]:
    """The rows of a file, in order; one at least, and no two that contradict each other.

    Raises `ArtefactError` with ``name`` and the line.
    """
    rows: list[ProfileRow] = []
    known = EarlierRows()
    with csv_table(io.StringIO(text, newline=""), name, hint=HINT) as table:
        _require_columns(table.header)
        for cells in table:
            rows.append(_row(dict(zip(table.header, cells, strict=True))))
            known.add(rows[-1], table.line)
        require(bool(rows), "it has no rows")
        known.require_slots()
    return tuple(rows)


def _require_columns(header: Sequence[str]) -> None:
    require(any(header), "it is empty")
    missing = [column for column in NEEDED if column not in header]
    require(not missing, f"the header lacks {', '.join(missing)}")
    unknown = [column for column in header if column not in {*NEEDED, *OPTIONAL}]
    require(not unknown, f"unknown column `{', '.join(unknown)}`; there may be {', '.join((*NEEDED, *OPTIONAL))}")


def _row(cells: Mapping[str, str]) -> ProfileRow:
    for column in ("device_type", "family", "variant"):
        require(is_name(cells[column]), f"{column} `{cells[column]}` must be letters, digits, `.`, `_`, `-`")
    device_type = cells["device_type"]
    problem = f"device_type `{device_type}` ends in `{SHARING}`, as the names of files of what sharing costs do"
    require(not device_type.endswith(SHARING), problem)
    known = {column: cells[column] for column in OPTIONAL if cells.get(column, "").strip()}
    numbers, whole_numbers = partial(_optional, known, number), partial(_optional, known, whole_number)
    return ProfileRow(
        device_type=device_type,
        family=cells["family"],
        variant=cells["variant"],
        accuracy=fraction("accuracy", cells["accuracy"]),
        point=_point(cells, known),
        load_s=numbers("load_s"),
        memory_bytes=whole_numbers("memory_bytes"),
        power_w=numbers("power_w"),
        device_memory_bytes=whole_numbers("device_memory_bytes"),
        slot_bytes=whole_numbers("slot_bytes"),
        device_slots=_slots("device_slots", known),
        model_digest=known.get("model_digest"),
        device_kind=_kind(known["device_kind"]) if "device_kind" in known else None,
        network=network_in(known),
    )


def _optional(known: Mapping[str, str], read: Callable[[str, str], T], column: str) -> T | None:
    return read(column, known[column]) if column in known else None


def _point(cells: Mapping[str, str], known: Mapping[str, str]) -> Point:
    batch, mean_s = whole_number("batch", cells["batch"]), _latency_s("latency_ms", cells["latency_ms"])
    require(1 <= batch <= LARGEST_BATCH, f"batch `{batch}` is not from 1 to {LARGEST_BATCH:,}")
    p50_s, p90_s, p95_s, p99_s = (_latency_s(name, known[name]) if name in known else mean_s for name in PERCENTILES)
    slots, noise_frac = _slots("slots", known), fraction("noise_frac", known.get("noise_frac", "0"))
    qps = slots * batch / mean_s
    return Point(batch, 1, mean_s, p50_s, p90_s, p95_s, p99_s, qps=qps, slots=slots, noise_frac=noise_frac)


def _kind(cell: str) -> DeviceKind:
    match cell.strip():
        case "cpu" | "gpu" as kind:
            return kind
        case _:
            raise ValueError(f"device_kind `{cell}` is neither `cpu` nor `gpu`")


def _slots(column: str, known: Mapping[str, str]) -> int:
    slots = whole_number(column, known.get(column, "1"))
    require(1 <= slots <= LARGEST_SLOTS, f"{column} `{slots}` is not from 1 to {LARGEST_SLOTS}")
    return slots


def _latency_s(column: str, cell: str) -> float:
    """Milliseconds → seconds, rounded once: what was exported comes back as the very same number."""
    positive_number(column, cell)
    latency_s = float(Decimal(cell).scaleb(-3))
    require(SHORTEST_S <= latency_s <= LONGEST_S, f"{column} `{cell}` is not from {SHORTEST_S:g} to {LONGEST_S:g} s")
    return latency_s
