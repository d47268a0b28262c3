"""Merges the profiles of several machines, so that those of one make count as one type of device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from proteus_cli.errors import ArtefactError
from proteus_cli.profiling.csv_files import ProfileRow
from proteus_cli.units import format_duration

SAME_MAKE_FRAC = 0.2
"""Cells of machines of one make differ by no more: each trusted cell is within a tenth of the truth (`NOISE_FRAC`)."""

Cell = tuple[str, str, str, int, int]
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
    must hold on each of the machines. Raises `ArtefactError` where two files were measured with different models,
    accuracies or slots, or where a cell differs by more than `SAME_MAKE_FRAC`.
    """
    (first, rows), *others = files
    known: dict[Cell, tuple[str, ProfileRow]] = {_cell(row): (first, row) for row in rows}
    shared: set[Cell] = set()
    spread_frac = 0.0
    for name, more in others:
        _require_same_facts(list(known.values()), name, more)
        for row in more:
            before = known.setdefault(_cell(row), (name, row))
            if before[1] is not row:
                shared.add(_cell(row))
                known[_cell(row)], differ_frac = _slower(before, (name, row))
                spread_frac = max(spread_frac, differ_frac)
    return Merged(_with_least_memory([row for _, row in known.values()]), len(shared), spread_frac)


def _cell(row: ProfileRow) -> Cell:
    return row.device_type, row.family, row.variant, row.point.batch, row.point.slots


def _require_same_facts(known: Sequence[tuple[str, ProfileRow]], name: str, rows: Sequence[ProfileRow]) -> None:
    facts: dict[tuple[str, str], tuple[str, object]] = {}
    for file, row in (*known, *((name, row) for row in rows)):
        variant = f"`{row.family}/{row.variant}`"
        for fact, of, value in (
            ("the accuracy", variant, row.accuracy),
            ("the digest of the model", variant, row.model_digest),
            ("device_slots", f"`{row.device_type}`", row.device_slots),
        ):
            there, before = facts.setdefault((fact, of), (file, value)) if value is not None else (file, value)
            if before != value:
                raise ArtefactError(
                    f"{fact} of {of} is {before} in `{there}` and {value} in `{file}`.",
                    hint="merge profiles of the same models; other models are variants of their own",
                )


def _slower(one: tuple[str, ProfileRow], other: tuple[str, ProfileRow]) -> tuple[tuple[str, ProfileRow], float]:
    """The one of two that counts, and by how much the slower one is slower where both can be trusted."""
    (one_name, a), (other_name, b) = one, other
    if bool(a.point.noise_frac) != bool(b.point.noise_frac):
        return (one if not a.point.noise_frac else other), 0.0
    slow, fast = max(a.point.mean_s, b.point.mean_s), min(a.point.mean_s, b.point.mean_s)
    if slow > (1 + SAME_MAKE_FRAC) * fast:
        first, second = format_duration(a.point.mean_s), format_duration(b.point.mean_s)
        raise ArtefactError(
            f"Batch {a.point.batch} of `{a.family}/{a.variant}` on `{a.device_type}` takes {first} in `{one_name}` and "
            f"{second} in `{other_name}`, which is more than noise explains.",
            hint="give unlike machines types of their own (`proteus profile --as-type NAME`), or measure them again",
        )
    return (one if a.point.mean_s >= b.point.mean_s else other), slow / fast - 1


def _with_least_memory(rows: Sequence[ProfileRow]) -> tuple[ProfileRow, ...]:
    """Each type with the least memory that any of its machines has."""
    least: dict[str, int] = {}
    for row in rows:
        if row.device_memory_bytes is not None:
            before = least.get(row.device_type, row.device_memory_bytes)
            least[row.device_type] = min(before, row.device_memory_bytes)
    return tuple(replace(row, device_memory_bytes=least.get(row.device_type)) for row in rows)
