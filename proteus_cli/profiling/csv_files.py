"""Profiles as CSV, one row per batch size, columns in any order::

    device_type,family,variant,accuracy,batch,latency_ms[,p50_ms][,p90_ms][,p95_ms][,p99_ms]
    [,load_s][,memory_bytes][,power_w][,device_memory_bytes][,slots][,slot_bytes][,device_slots][,noise_frac]
    [,model_digest][,device_kind]
    [,network_round_trip_ms,network_bytes_per_s[,network_row_bytes]]

An empty cell is unknown. Numbers are kept to the last digit, so that an export that is imported gives the same points.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Literal, TypeVar

from proteus_cli.csv_cells import csv_table, fraction, number, positive_number, whole_number
from proteus_cli.domain.base import FORMAT, MadeBy, require
from proteus_cli.domain.catalog import is_name
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import (
    LARGEST_BATCH,
    LARGEST_SLOTS,
    LONGEST_S,
    SHORTEST_S,
    BackendInfo,
    Point,
    Profile,
    VariantProfile,
)
from proteus_cli.errors import UsageError
from proteus_cli.profiling.csv_network import NETWORK, RowNetwork, network_cells, network_in, network_of

IMPORTED = "imported"  # the backend of profiles that came from a file

NEEDED = ("device_type", "family", "variant", "accuracy", "batch", "latency_ms")
PERCENTILES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")
USUAL = (*PERCENTILES, "load_s", "memory_bytes", "power_w", "device_memory_bytes")
SLOTS = ("slots", "slot_bytes", "device_slots")
"""Of devices that have several batches at once; an export without any lacks these columns."""
NOISE = ("noise_frac",)
"""Of cells that are marked as noisy; an export without any lacks this column."""
DIGEST = ("model_digest",)
"""Of variants that were measured; an export without any lacks this column."""
KIND = ("device_kind",)
"""Of types whose name does not say it; an export without any lacks this column."""
OPTIONAL = (*USUAL, *SLOTS, *NOISE, *DIGEST, *KIND, *NETWORK)
HINT = "docs/formats.md describes profile files; `proteus profile --to-csv` writes one"

T = TypeVar("T", int, float)
Kind = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One batch size of one variant on one type of device, with so many at once; None is unknown.

    ``point`` counts as one run; a percentile that isn't given is the mean. ``device_slots``: with how many slots
    devices of the type are served. ``device_kind``: None where it goes by the name of the type.
    """

    device_type: str
    family: str
    variant: str
    accuracy: float
    point: Point
    load_s: float | None = None
    memory_bytes: int | None = None
    power_w: float | None = None
    device_memory_bytes: int | None = None
    slot_bytes: int | None = None
    device_slots: int = 1
    model_digest: str | None = None
    device_kind: Kind | None = None
    network: RowNetwork | None = None


# --- reading


def parse_rows(text: str, name: str) -> tuple[ProfileRow, ...]:
    """The rows of a file, in order; one at least, and no two that contradict each other.

    Raises `ArtefactError` with ``name`` and the line.
    """
    rows: list[ProfileRow] = []
    known = _Known()
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
    known = {column: cells[column] for column in OPTIONAL if cells.get(column, "").strip()}
    numbers, whole_numbers = partial(_optional, known, number), partial(_optional, known, whole_number)
    return ProfileRow(
        device_type=cells["device_type"],
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


def _kind(cell: str) -> Kind:
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


class _Known:
    """What earlier rows say of the same thing, with their lines."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str, str, int, int], int] = {}
        self._facts: dict[tuple[str, str], tuple[float | str, int]] = {}
        self._slots: dict[str, int] = {}
        self._has_slots: dict[str, set[int]] = {}

    def add(self, row: ProfileRow, line: int) -> None:
        """Raises `ValueError` where the row repeats or contradicts an earlier one."""
        batch, count = row.point.batch, row.point.slots
        first = self._cells.setdefault((row.device_type, row.family, row.variant, batch, count), line)
        what = f"`{row.family}/{row.variant}`"
        require(first == line, f"batch {batch} of {what} on `{row.device_type}` stands on line {first} already")
        self._require_same("the accuracy", what, row.accuracy, line, "; it is one for all types")
        self._require_same("model_digest", what, row.model_digest, line)
        self._require_same("device_memory_bytes", f"`{row.device_type}`", row.device_memory_bytes, line)
        self._require_same("device_slots", f"`{row.device_type}`", row.device_slots, line)
        self._require_same("device_kind", f"`{row.device_type}`", row.device_kind, line)
        if row.network is not None:
            self._require_same(
                "network_round_trip_ms", f"`{row.device_type}`", round(row.network.round_trip_s * 1e3, 9), line
            )
            self._require_same("network_bytes_per_s", f"`{row.device_type}`", row.network.bytes_per_s, line)
            family = f"`{row.family}` on `{row.device_type}`"
            self._require_same("network_row_bytes", family, row.network.row_bytes, line)
        self._slots[row.device_type] = row.device_slots
        self._has_slots.setdefault(row.device_type, set()).add(count)

    def _require_same(self, fact: str, of: str, value: float | str | None, line: int, why: str = "") -> None:
        if value is not None:
            known, where = self._facts.setdefault((fact, of), (value, line))
            require(known == value, f"{fact} of {of} is {value} here and {known} on line {where}{why}")

    def require_slots(self) -> None:
        """Raises `ValueError` where nothing was measured with as many slots as a device is served with."""
        for device_type, slots in self._slots.items():
            has = slots in self._has_slots[device_type]
            require(has, f"`{device_type}` is served with {slots} slots, and none of its rows has that many")


def profiles_from(rows: Iterable[ProfileRow], made_by: MadeBy) -> dict[str, Profile]:
    """A profile per device type, by type, whose device has the type's name as its id.

    Where the rows of a variant give several load times, memories or powers, the largest counts; what none gives is 0,
    or None for the power.
    """
    by_type: dict[str, dict[tuple[str, str], list[ProfileRow]]] = {}
    for row in rows:
        by_type.setdefault(row.device_type, {}).setdefault((row.family, row.variant), []).append(row)
    return {
        device_type: Profile(
            format=FORMAT,
            made_by=made_by,
            device=_device(device_type, [row for group in variants.values() for row in group]),
            measured_on=device_type,
            backend=BackendInfo(name=IMPORTED, versions={}),
            variants=tuple(_variant(group) for group in variants.values()),
            slots=next(row.device_slots for group in variants.values() for row in group),
            network=network_of((row.family, row.network) for group in variants.values() for row in group),
        )
        for device_type, variants in by_type.items()
    }


def _device(device_type: str, rows: Sequence[ProfileRow]) -> Device:
    memory_bytes = max(row.device_memory_bytes or 0 for row in rows)
    kind = next((row.device_kind for row in rows if row.device_kind is not None), _kind_by_name(device_type))
    return Device(id=device_type, type=device_type, kind=kind, name=device_type, memory_bytes=memory_bytes)


def _kind_by_name(device_type: str) -> Kind:
    return "cpu" if device_type.lower().startswith("cpu") else "gpu"


def _variant(rows: Sequence[ProfileRow]) -> VariantProfile:
    powers_w = [row.power_w for row in rows if row.power_w is not None]
    points = sorted((row.point for row in rows), key=lambda point: (point.batch, point.slots))
    return VariantProfile(
        family=rows[0].family,
        variant=rows[0].variant,
        accuracy=rows[0].accuracy,
        model_digest=next((row.model_digest for row in rows if row.model_digest is not None), None),
        engine_digest="",
        eval_digest=None,
        build_s=0.0,
        load_s=max(row.load_s or 0.0 for row in rows),
        memory_bytes=max(row.memory_bytes or 0 for row in rows),
        points=tuple(point for point in points if point.slots == 1),
        power_w=max(powers_w) if powers_w else None,
        slot_bytes=max(row.slot_bytes or 0 for row in rows),
        concurrent=tuple(point for point in points if point.slots > 1),
    )


# --- writing


def to_csv(profiles: Iterable[Profile]) -> str:
    """All points of profiles as CSV, one set of rows per device type.

    Where devices of a type were measured differently, each stands under its id instead, `b/cpu0` as `b-cpu0`. Raises
    `UsageError` where such a name is that of another type or device, or where there is nothing to write.
    """
    profiles = tuple(profiles)
    has_slots = any(measured.concurrent for profile in profiles for measured in profile.variants)
    has_noise = any(measured.noisy for profile in profiles for measured in profile.variants)
    has_network = any(profile.network is not None for profile in profiles)
    has_digest = any(measured.model_digest for profile in profiles for measured in profile.variants)
    labelled = _labelled(profiles)
    has_kind = any(rows and rows[0]["device_kind"] != _kind_by_name(label) for label, rows in labelled.items())
    optional = (
        *(SLOTS if has_slots else ()),
        *(NOISE if has_noise else ()),
        *(DIGEST if has_digest else ()),
        *(KIND if has_kind else ()),
        *(NETWORK if has_network else ()),
    )
    columns = (*NEEDED, *USUAL, *optional)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    count = 0
    for label, rows in labelled.items():
        count += len(rows)
        writer.writerows({"device_type": label} | row for row in rows)
    if not count:
        raise UsageError("The profiles have no measurements to export.", hint="run `proteus profile` to make some")
    return text.getvalue()


CsvCells = dict[str, str]
"""A row by column."""


def _labelled(profiles: Iterable[Profile]) -> dict[str, list[CsvCells]]:
    """Rows without their device_type, by what stands there."""
    by_type: dict[str, dict[str, list[CsvCells]]] = {}
    for profile in profiles:
        by_type.setdefault(profile.device.type, {})[profile.device.id] = list(_rows(profile))
    labelled: dict[str, list[CsvCells]] = {}
    for device_type, by_id in by_type.items():
        first = next(iter(by_id.values()))
        is_one = all(rows == first for rows in by_id.values())
        for name, rows in ({device_type: first} if is_one else by_id).items():
            label = name.replace("/", "-")
            if label in labelled:
                raise UsageError(
                    f"`{label}` would name devices of two types in the file.", hint="take one of them out of profiles/"
                )
            labelled[label] = rows
    return labelled


def _rows(profile: Profile) -> Iterator[CsvCells]:
    for measured in profile.variants:
        for point in (*measured.points, *measured.concurrent):
            yield {
                "family": measured.family,
                "variant": measured.variant,
                "accuracy": repr(measured.accuracy),
                "batch": str(point.batch),
                "latency_ms": _milliseconds(point.mean_s),
                "p50_ms": _milliseconds(point.p50_s),
                "p90_ms": _milliseconds(point.p90_s),
                "p95_ms": _milliseconds(point.p95_s),
                "p99_ms": _milliseconds(point.p99_s),
                "load_s": _where_known(measured.load_s),
                "memory_bytes": _where_known(measured.memory_bytes),
                "power_w": _where_known(measured.power_w, unknown=None),
                "device_memory_bytes": _where_known(profile.device.memory_bytes),
                "slots": str(point.slots),
                "slot_bytes": _where_known(measured.slot_bytes),
                "device_slots": str(profile.slots),
                "noise_frac": _where_known(point.noise_frac),
                "model_digest": measured.model_digest or "",
                "device_kind": profile.device.kind,
                **network_cells(profile.network, measured.family),
            }


def _milliseconds(seconds: float) -> str:
    return f"{Decimal(repr(seconds)).scaleb(3).normalize():f}"


def _where_known(value: float | None, *, unknown: float | None = 0) -> str:
    return "" if value == unknown else repr(value)
