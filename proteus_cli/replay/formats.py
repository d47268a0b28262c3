"""The formats of traces that can be converted: one table, by the roles of their columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from proteus_cli.domain.trace import OWN
from proteus_cli.errors import UsageError

UNITS_US: Mapping[str, float] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
SECOND_US = 1_000_000


class Column(NamedTuple):
    """A column, and the microseconds that 1 means in it."""

    name: str
    unit_us: float = UNITS_US["s"]


@dataclass(frozen=True, slots=True)
class Format:
    """The columns of a format, and their roles.

    * ``needs``: columns that must be there; ``allows``: others that may. None allows any other, which is not read.
    * ``roles``: columns by role. ``time`` is a number or a date. ``count``: arrivals in the second after the time;
      without it, a row is one arrival. Other roles are names of `domain.trace.OWN`; their columns are optional.
    * ``families``: rules for the family of a row. The first rule whose column is there counts.
    * ``unnamed``: the names of the columns in a file without a header.
    """

    name: str
    about: str
    needs: tuple[str, ...]
    roles: Mapping[str, Column]
    allows: tuple[str, ...] | None = None
    families: tuple[str, ...] = ("weights",)
    unnamed: tuple[str, ...] = ()


FORMATS: tuple[Format, ...] = (
    Format(
        "arrivals",
        "our own, a row per arrival",
        needs=("arrival_s", "family"),
        roles={"time": Column("arrival_s"), **{name: Column(name) for name in OWN}},
        allows=tuple(OWN),
        families=("column=family",),
    ),
    Format(
        "counts",
        "arrivals per second; our own where there is a family",
        needs=("second", "count"),
        roles={"time": Column("second"), "count": Column("count")},
        allows=("family",),
        families=("column=family", "weights"),
        unnamed=("second", "count", "family"),
    ),
    Format(
        "proteus-artifact",
        "text files of the Proteus artifact (ASPLOS 2024), one per family",
        needs=("arrival_ms",),
        roles={"time": Column("arrival_ms", UNITS_US["ms"]), "slo_s": Column("deadline_ms", UNITS_US["ms"])},
        families=("file",),
        unnamed=("arrival_ms", "qos_level", "deadline_ms", "accuracy"),
    ),
    Format(
        "azure-llm",
        "Azure LLM inference 2023 and 2024",
        needs=("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        roles={"time": Column("TIMESTAMP")},
    ),
    Format(
        "burstgpt",
        "BurstGPT",
        needs=("Timestamp", "Model", "Request tokens", "Response tokens"),
        roles={"time": Column("Timestamp")},
    ),
)
NAMES = tuple(form.name for form in FORMATS)


def named(name: str) -> Format:
    """The format of that name. Raises `UsageError`."""
    for form in FORMATS:
        if form.name == name:
            return form
    raise UsageError(f"No format `{name}`.", hint=f"choose one of: {', '.join(NAMES)}")


def recognised(cells: Sequence[str], *, is_header: bool) -> Format | None:
    """The format whose first line has these cells, if any: its header, or a row of a file without one."""
    if is_header:
        names = {*cells}
        fitting = (form for form in FORMATS if form.allows is None or names <= {*form.needs, *form.allows})
        return next((form for form in fitting if names >= {*form.needs}), None)
    third = "proteus-artifact" if is_number(cells[-1]) else "counts"
    name = {2: "counts", 3: third, 4: "proteus-artifact"}.get(len(cells))
    return named(name) if name is not None else None


def is_number(cell: str) -> bool:
    """Whether it reads as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def mapped(assignments: Sequence[str]) -> Format:
    """The format that the user describes, a role for each column, such as ``time_ms=ts``.

    Roles are time and slo, with a unit (``_ms``, ``_us``, ``_ns``) where they aren't in seconds, and count.
    Raises `UsageError`.
    """
    roles: dict[str, Column] = {}
    for assignment in assignments:
        given, equals, column = (text.strip() for text in assignment.partition("="))
        role, underscore, unit = given.partition("_")
        has_unit = bool(underscore) and unit in UNITS_US and role != "count"
        if not (equals and column and role in {"time", "slo", "count"} and has_unit == bool(underscore)):
            hint = "write it like `time=started_at`, `time_ms=ts`, `slo_ms=deadline` or `count=n`"
            raise UsageError(f"`{assignment}` maps no column.", hint=hint)
        if role in roles:
            raise UsageError(f"Two columns are mapped to the {role}.", hint="map one")
        roles[role] = Column(column, UNITS_US[unit or "s"])
    if "time" not in roles:
        raise UsageError("No column is mapped to the time.", hint="add `--map-column time=COLUMN`")
    needs = tuple(column.name for column in roles.values())
    own = {"slo_s" if role == "slo" else role: column for role, column in roles.items()}
    return Format("mapped", "columns as mapped", needs, own)
