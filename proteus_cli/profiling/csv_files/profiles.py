"""From the rows of a file to profiles, one of each type of device."""

from collections.abc import Iterable, Sequence

from proteus_cli.domain.base import FORMAT, MadeBy
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import BackendInfo, Profile, VariantProfile
from proteus_cli.profiling.csv_files.columns import ProfileRow, kind_by_name
from proteus_cli.profiling.csv_files.network import network_of

IMPORTED = "imported"
"""The backend of profiles that came from a file."""


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
    kind = next((row.device_kind for row in rows if row.device_kind is not None), kind_by_name(device_type))
    return Device(id=device_type, type=device_type, kind=kind, name=device_type, memory_bytes=memory_bytes)


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
