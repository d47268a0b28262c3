"""Profiles as CSV, one row per batch size, columns in any order: the fields of `ProfileRow`.

An empty cell is unknown, and an export leaves out most columns that have no value. Numbers are kept to the last digit,
so that an export that is imported gives the same points. `parse_rows` takes text to rows, `profiles_from` takes rows to
profiles, and `to_csv` is the way back.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import msgspec
from msgspec.structs import fields, replace

from proteus_cli.csv_cells import csv_table
from proteus_cli.domain.base import (
    FORMAT,
    LONGEST_S,
    SHORTEST_S,
    Amount,
    BatchSize,
    Count,
    Fraction,
    MadeBy,
    PositiveAmount,
    Value,
    require,
)
from proteus_cli.domain.catalog import is_name
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import BackendInfo, Point, Profile, Slots, VariantProfile
from proteus_cli.errors import UsageError
from proteus_cli.store.workspace import SHARING

HINT = "docs/formats.md describes profile files; `proteus profile --to-csv` writes one"
IMPORTED = "imported"
"""The backend of profiles that came from a file."""


class ProfileRow(Value, frozen=True):
    """One batch size of one variant on one type of device, with ``slots`` batches at once; None is unknown.

    A percentile without a value equals ``latency_ms``, the mean. Devices of the type are served with
    ``device_slots``. Milliseconds are exact, so that seconds are rounded once.
    """

    device_type: str
    family: str
    variant: str
    accuracy: Fraction
    batch: BatchSize
    latency_ms: Decimal
    p50_ms: Decimal | None = None
    p90_ms: Decimal | None = None
    p95_ms: Decimal | None = None
    p99_ms: Decimal | None = None
    load_s: Amount | None = None
    memory_bytes: Count | None = None
    power_w: Amount | None = None
    device_memory_bytes: Count | None = None
    slots: Slots = 1
    slot_bytes: Count | None = None
    device_slots: Slots = 1
    noise_frac: Fraction = 0.0
    model_digest: str | None = None
    device_kind: Literal["cpu", "gpu"] | None = None
    network_round_trip_ms: Decimal | None = None
    network_bytes_per_s: PositiveAmount | None = None
    network_row_bytes: Count | None = None

    def __post_init__(self) -> None:
        for column in ("device_type", "family", "variant"):
            name = getattr(self, column)
            require(is_name(name), f"{column} `{name}` must be letters, digits, `.`, `_`, `-`")
        require(not self.device_type.endswith(SHARING), f"device_type `{self.device_type}` ends in `{SHARING}`")
        for column in LATENCIES:
            value = getattr(self, column)
            in_range = value is None or (value.is_finite() and SHORTEST_S <= _seconds(value) <= LONGEST_S)
            require(in_range, f"{column} `{value}` is not from {SHORTEST_S:g} to {LONGEST_S:g} s")
        trip_ms = self.network_round_trip_ms
        has_one = any(getattr(self, column) is not None for column in NETWORK)
        is_whole = trip_ms is not None and trip_ms.is_finite() and trip_ms >= 0 and self.network_bytes_per_s is not None
        require(is_whole or not has_one, "a network has a network_round_trip_ms from 0 up and network_bytes_per_s")

    @property
    def point(self) -> Point:
        """The point, which counts as one run."""
        mean_s, p50_s, p90_s, p95_s, p99_s = (_seconds(getattr(self, name) or self.latency_ms) for name in LATENCIES)
        qps, noise_frac = self.slots * self.batch / mean_s, self.noise_frac
        return Point(self.batch, 1, mean_s, p50_s, p90_s, p95_s, p99_s, qps, self.slots, noise_frac=noise_frac)


LATENCIES = ("latency_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms")
NETWORK = ("network_round_trip_ms", "network_bytes_per_s", "network_row_bytes")
DEFAULTS = {field.name: field.default for field in fields(ProfileRow)}
NEEDED = tuple(name for name, default in DEFAULTS.items() if default is msgspec.NODEFAULT)
ALWAYS_WRITTEN = tuple(DEFAULTS)[: tuple(DEFAULTS).index("slots")]

OF_MODEL = {
    "accuracy": ("device_type", "family", "variant"),
    "model_digest": ("family", "variant"),
    "device_slots": ("device_type",),
    "device_kind": ("device_type",),
}
"""Columns that are the same in all rows of a scope, also of several files."""
OF_MACHINE = {
    "device_memory_bytes": ("device_type",),
    "network_round_trip_ms": ("device_type",),
    "network_bytes_per_s": ("device_type",),
    "network_row_bytes": ("device_type", "family"),
}
"""Columns that are the same in all rows of a scope in one file."""


class Agreement:
    """Requires that rows agree in columns."""

    def __init__(self, columns: Mapping[str, Sequence[str]]) -> None:
        self._columns, self._known = columns, dict[object, tuple[object, str]]()

    def add(self, row: ProfileRow, place: str) -> None:
        """Raises `ValueError` if an earlier row has another value; the message names both places."""
        for column, scope_columns in self._columns.items():
            value, scope = getattr(row, column), "/".join(getattr(row, each) for each in scope_columns)
            if value is not None:
                known, where = self._known.setdefault((column, scope), (value, place))
                require(known == value, f"{column} of `{scope}` is {known} in {where} and {value} in {place}")


def cell_of(row: ProfileRow) -> tuple[object, ...]:
    """The key of a row, unique in a file."""
    return row.device_type, row.family, row.variant, row.batch, row.slots


# --- reading


def parse_rows(text: str, name: str) -> tuple[ProfileRow, ...]:
    """The rows of a file, in order; one at least, and no two that contradict each other.

    Raises `ArtefactError` with ``name`` and the line.
    """
    rows: list[ProfileRow] = []
    lines: dict[object, int] = {}
    agreement = Agreement(OF_MODEL | OF_MACHINE)
    with csv_table(io.StringIO(text, newline=""), name, hint=HINT) as table:
        _require_columns(table.header)
        for cells in table:
            row = _row({column: cell.strip() for column, cell in zip(table.header, cells, strict=True)})
            first = lines.setdefault(cell_of(row), table.line)
            label = f"batch {row.batch} of `{row.family}/{row.variant}` on `{row.device_type}`"
            require(first == table.line, f"{label} stands on line {first} already")
            agreement.add(row, f"line {table.line}")
            rows.append(row)
        require(bool(rows), "it has no rows")
        for device_type, slots in {row.device_type: row.device_slots for row in rows}.items():
            has = any((row.device_type, row.slots) == (device_type, slots) for row in rows)
            require(has, f"`{device_type}` is served with {slots} slots, and none of its rows has that many")
    return tuple(rows)


def _require_columns(header: Sequence[str]) -> None:
    require(any(header), "it is empty")
    missing = [column for column in NEEDED if column not in header]
    require(not missing, f"the header lacks {', '.join(missing)}")
    unknown = [column for column in header if column not in DEFAULTS]
    require(not unknown, f"unknown column `{', '.join(unknown)}`; there may be {', '.join(DEFAULTS)}")


def _row(cells: Mapping[str, str]) -> ProfileRow:
    try:
        return msgspec.convert({column: cell for column, cell in cells.items() if cell}, ProfileRow, strict=False)
    except msgspec.ValidationError as error:
        found = re.fullmatch(r"(.*) - at `\$\.(\w+)`", str(error))
        if found is None:
            raise
        raise ValueError(f"{found[2]} `{cells[found[2]]}`: {found[1]}") from None


def profiles_from(rows: Iterable[ProfileRow], made_by: MadeBy) -> dict[str, Profile]:
    """A profile per device type, by type, whose device has the type's name as its id.

    Where the rows of a variant give several load times, memories or powers, the largest counts. Without any it is 0,
    or None for the power.
    """
    by_type: dict[str, dict[tuple[str, str], list[ProfileRow]]] = {}
    for row in rows:
        by_type.setdefault(row.device_type, {}).setdefault((row.family, row.variant), []).append(row)
    return {name: _profile(name, list(variants.values()), made_by) for name, variants in by_type.items()}


def _profile(name: str, variants: Sequence[Sequence[ProfileRow]], made_by: MadeBy) -> Profile:
    rows = [row for group in variants for row in group]
    kind = next((row.device_kind for row in rows if row.device_kind is not None), kind_by_name(name))
    memory_bytes = largest(rows, "device_memory_bytes") or 0
    return Profile(
        format=FORMAT,
        made_by=made_by,
        device=Device(id=name, type=name, kind=kind, name=name, memory_bytes=memory_bytes),
        measured_on=name,
        backend=BackendInfo(name=IMPORTED, versions={}),
        variants=tuple(_variant(group) for group in variants),
        slots=rows[0].device_slots,
        network=_network(rows),
    )


def kind_by_name(device_type: str) -> Literal["cpu", "gpu"]:
    """The kind of a type whose rows do not have one."""
    return "cpu" if device_type.lower().startswith("cpu") else "gpu"


def largest(rows: Iterable[ProfileRow], column: str) -> Any:
    """The largest known value of a column; None if it is always unknown."""
    return max((value for row in rows if (value := getattr(row, column)) is not None), default=None)


def _network(rows: Sequence[ProfileRow]) -> Network | None:
    known = [row for row in rows if row.network_bytes_per_s is not None]
    if not known:
        return None
    by_family = {row.family: row.network_row_bytes for row in known if row.network_row_bytes is not None}
    speeds = (row.network_bytes_per_s for row in known if row.network_bytes_per_s is not None)
    return Network(_seconds(largest(known, "network_round_trip_ms")), min(speeds), by_family)


def _variant(rows: Sequence[ProfileRow]) -> VariantProfile:
    points = sorted((row.point for row in rows), key=lambda point: (point.batch, point.slots))
    return VariantProfile(
        family=rows[0].family,
        variant=rows[0].variant,
        accuracy=rows[0].accuracy,
        model_digest=next((row.model_digest for row in rows if row.model_digest is not None), None),
        engine_digest="",
        eval_digest=None,
        build_s=0.0,
        load_s=largest(rows, "load_s") or 0.0,
        memory_bytes=largest(rows, "memory_bytes") or 0,
        points=tuple(point for point in points if point.slots == 1),
        power_w=largest(rows, "power_w"),
        slot_bytes=largest(rows, "slot_bytes") or 0,
        concurrent=tuple(point for point in points if point.slots > 1),
    )


# --- writing


def to_csv(profiles: Iterable[Profile]) -> str:
    """All points of profiles as CSV, one set of rows per device type.

    Where devices of a type were measured differently, each stands under its id instead, `b/cpu0` as `b-cpu0`. Raises
    `UsageError` if another type or device has such a name, or if there is nothing to write.
    """
    rows = [replace(row, device_type=label) for label, each in _labelled(profiles).items() for row in each]
    if not rows:
        raise UsageError("The profiles have no measurements to export.", hint="run `proteus profile` to make some")
    columns = [
        column
        for column, default in DEFAULTS.items()
        if column in ALWAYS_WRITTEN or any(getattr(row, column) != default for row in rows)
    ]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(getattr(row, column), DEFAULTS[column]) for column in columns] for row in rows)
    return text.getvalue()


def _cell(value: object, default: object) -> str:
    if value == default:
        return ""
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _labelled(profiles: Iterable[Profile]) -> dict[str, list[ProfileRow]]:
    """Rows by the name for their type."""
    by_type: dict[str, dict[str, list[ProfileRow]]] = {}
    for profile in profiles:
        by_type.setdefault(profile.device.type, {})[profile.device.id] = list(_rows(profile))
    labelled: dict[str, list[ProfileRow]] = {}
    for device_type, by_id in by_type.items():
        first = next(iter(by_id.values()))
        is_one = all(rows == first for rows in by_id.values())
        for name, rows in ({device_type: first} if is_one else by_id).items():
            label = name.replace("/", "-")
            if label in labelled:
                problem = f"`{label}` would name devices of two types in the file."
                raise UsageError(problem, hint="take one of them out of profiles/")
            kind = rows[0].device_kind if rows else None
            labelled[label] = [replace(row, device_kind=None) for row in rows] if kind == kind_by_name(label) else rows
    return labelled


def _rows(profile: Profile) -> Iterator[ProfileRow]:
    network = profile.network
    for measured in profile.variants:
        for point in (*measured.points, *measured.concurrent):
            yield ProfileRow(
                profile.device.type,
                measured.family,
                measured.variant,
                measured.accuracy,
                point.batch,
                _milliseconds(point.mean_s),
                _milliseconds(point.p50_s),
                _milliseconds(point.p90_s),
                _milliseconds(point.p95_s),
                _milliseconds(point.p99_s),
                load_s=measured.load_s or None,
                memory_bytes=measured.memory_bytes or None,
                power_w=measured.power_w,
                device_memory_bytes=profile.device.memory_bytes or None,
                slots=point.slots,
                slot_bytes=measured.slot_bytes or None,
                device_slots=profile.slots,
                noise_frac=point.noise_frac,
                model_digest=measured.model_digest or None,
                device_kind=profile.device.kind,
                network_round_trip_ms=_milliseconds(network.round_trip_s) if network is not None else None,
                network_bytes_per_s=network.bytes_per_s if network is not None else None,
                network_row_bytes=network.row_bytes.get(measured.family) if network is not None else None,
            )


def _seconds(milliseconds: Decimal) -> float:
    return float(milliseconds.scaleb(-3))


def _milliseconds(seconds: float) -> Decimal:
    return Decimal(repr(seconds)).scaleb(3).normalize()
