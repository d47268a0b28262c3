"""Writes profiles as rows."""

import csv
import io
from collections.abc import Iterable, Iterator
from decimal import Decimal

from proteus_cli.domain.profile import Profile
from proteus_cli.errors import UsageError
from proteus_cli.profiling.csv_files.columns import DIGEST, KIND, NEEDED, NOISE, SLOTS, USUAL, kind_by_name
from proteus_cli.profiling.csv_files.network import NETWORK, network_cells

CsvCells = dict[str, str]
"""A row by column."""


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
    has_kind = any(rows and rows[0]["device_kind"] != kind_by_name(label) for label, rows in labelled.items())
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
