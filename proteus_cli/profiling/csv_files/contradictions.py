"""Rows that repeat or contradict each other."""

from proteus_cli.domain.base import require
from proteus_cli.profiling.csv_files.columns import ProfileRow


class EarlierRows:
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
        self._require_same("the accuracy", f"{what} on `{row.device_type}`", row.accuracy, line)
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

    def _require_same(self, fact: str, of: str, value: float | str | None, line: int) -> None:
        if value is not None:
            known, where = self._facts.setdefault((fact, of), (value, line))
            require(known == value, f"{fact} of {of} is {value} here and {known} on line {where}")

    def require_slots(self) -> None:
        """Raises `ValueError` where nothing was measured with as many slots as a device is served with."""
        for device_type, slots in self._slots.items():
            has = slots in self._has_slots[device_type]
            require(has, f"`{device_type}` is served with {slots} slots, and none of its rows has that many")
