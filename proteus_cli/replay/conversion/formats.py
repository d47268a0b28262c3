"""The formats of traces that can be converted: one table, by what each column means.

`arrivals` reads every format by this table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proteus_cli.errors import UsageError
from proteus_cli.replay.trace import OWN_NAMES

UNITS_US: Mapping[str, float] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
SECOND_US, MINUTE_US, DAY_US = 1_000_000, 60_000_000, 86_400_000_000

FILE, WEIGHTS = "file", "weights"


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and the microseconds that 1 means in it."""

    name: str
    unit_us: float = UNITS_US["s"]


@dataclass(frozen=True, slots=True)
class Format:
    """What the columns of a format mean.

    * ``needs``: columns that must be there; ``allows``: others that may. None allows any other, which is not read.
    * ``time``: a number or a date. None where the n-th row is the n-th second.
    * ``duration``: the arrival is this long before the time.
    * ``slo``, and the columns of ``own``: what the arrival asks for itself, and what is known of it (`trace.OWN`).
    * ``count``: so many arrivals in the second after the time. None where a row is one arrival.
    * ``by_minute``: columns 1, 2, … count arrivals by minute.
    * ``families``: rules for the family of a row, the first whose columns are there.
    * ``unnamed``: what the columns are called in a file without a header.
    """

    name: str
    about: str
    needs: tuple[str, ...]
    allows: tuple[str, ...] | None = None
    time: Column | None = None
    duration: Column | None = None
    slo: Column | None = None
    count: str | None = None
    own: tuple[str, ...] = ()
    by_minute: bool = False
    families: tuple[str, ...] = (WEIGHTS,)
    unnamed: tuple[str, ...] = ()

    @property
    def spread_us(self) -> int:
        """The time over which counted arrivals are spread; 0 where rows are single arrivals."""
        return MINUTE_US if self.by_minute else SECOND_US if self.count is not None else 0

    def fits(self, names: Sequence[str]) -> bool:
        """Whether a header with these names may be of this format."""
        allowed = names if self.allows is None else (*self.needs, *self.allows)
        return set(self.needs) <= set(names) <= set(allowed)


FORMATS: tuple[Format, ...] = (
    Format(
        "arrivals",
        "our own, a row per arrival",
        needs=("arrival_s", "family"),
        allows=OWN_NAMES,
        time=Column("arrival_s"),
        slo=Column("slo_s"),
        own=tuple(name for name in OWN_NAMES if name != "slo_s"),
        families=("column=family",),
    ),
    Format(
        "counts",
        "arrivals per second; our own where there is a family",
        needs=("second", "count"),
        allows=("family",),
        time=Column("second"),
        count="count",
        families=("column=family", WEIGHTS),
        unnamed=("second", "count", "family"),
    ),
    Format(
        "proteus-artifact",
        "text files of the Proteus artifact (ASPLOS 2024), one per family",
        needs=("arrival_ms",),
        time=Column("arrival_ms", UNITS_US["ms"]),
        slo=Column("deadline_ms", UNITS_US["ms"]),
        families=(FILE,),
        unnamed=("arrival_ms", "qos_level", "deadline_ms", "accuracy"),
    ),
    Format(
        "azure-functions-2019",
        "Azure Functions 2019, invocations per function and minute; the n-th file is the n-th day",
        needs=("HashOwner", "HashApp", "HashFunction", "1"),
        by_minute=True,
        families=("hash=HashApp+HashFunction",),
    ),
    Format(
        "azure-functions-2021",
        "Azure Functions 2021, invocations by their end",
        needs=("app", "func", "end_timestamp", "duration"),
        time=Column("end_timestamp"),
        duration=Column("duration"),
        families=("hash=app+func",),
    ),
    Format(
        "azure-llm",
        "Azure LLM inference 2023 and 2024",
        needs=("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        time=Column("TIMESTAMP"),
    ),
    Format(
        "burstgpt",
        "BurstGPT",
        needs=("Timestamp", "Model", "Request tokens", "Response tokens"),
        time=Column("Timestamp"),
    ),
    Format(
        "mooncake",
        "Mooncake, JSON lines",
        needs=("timestamp", "input_length", "output_length"),
        time=Column("timestamp", UNITS_US["ms"]),
    ),
    Format(
        "counts-by-line",
        "arrivals of one second per line",
        needs=("count",),
        allows=(),
        count="count",
        unnamed=("count",),
    ),
)
NAMES = tuple(form.name for form in FORMATS)


def named(name: str) -> Format:
    """The format of that name. Raises `UsageError`."""
    for form in FORMATS:
        if form.name == name:
            return form
    raise UsageError(f"No format `{name}`.", hint=f"choose one of: {', '.join(NAMES)}")


def fitting(names: Sequence[str]) -> Format | None:
    """The first format whose columns these are, if any."""
    return next((form for form in FORMATS if form.fits(names)), None)


def fitting_unnamed(cells: Sequence[str]) -> Format | None:
    """The format of a file without a header, if any: by the width of its first row and by its third cell."""
    match len(cells):
        case 1:
            return named("counts-by-line")
        case 2:
            return named("counts")
        case 3 | 4:
            return named("proteus-artifact" if is_number(cells[2]) else "counts")
        case _:
            return None


def positions(form: Format, width: int) -> tuple[str, ...]:
    """Names for columns without a header: those of the format, or 1, 2, 3, …"""
    return form.unnamed[:width] or tuple(str(position) for position in range(1, width + 1))


def is_number(cell: str) -> bool:
    """Whether it reads as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def mapped(assignments: Sequence[str]) -> Format:
    """The format that the user describes, a role for each column, such as ``time_ms=ts``.

    Roles are time, duration and slo, with a unit (``_ms``, ``_us``, ``_ns``) where they aren't in seconds, and count.
    Raises `UsageError`.
    """
    roles: dict[str, Column] = {}
    for assignment in assignments:
        role, column = _assigned(assignment)
        if role in roles:
            raise UsageError(f"Two columns are mapped to the {role}.", hint="map one")
        roles[role] = column
    if "time" not in roles:
        raise UsageError("No column is mapped to the time.", hint="add `--map-column time=COLUMN`")
    return Format(
        "mapped",
        "columns as mapped",
        needs=tuple(column.name for column in roles.values()),
        time=roles["time"],
        duration=roles.get("duration"),
        slo=roles.get("slo"),
        count=roles["count"].name if "count" in roles else None,
    )


def _assigned(assignment: str) -> tuple[str, Column]:
    role, equals, column = (text.strip() for text in assignment.partition("="))
    what, underscore, unit = role.partition("_")
    takes_unit = what in {"time", "duration", "slo"}
    if not (
        equals and column and (takes_unit or what == "count") and (not underscore or (takes_unit and unit in UNITS_US))
    ):
        hint = "write it like `time=started_at`, `time_ms=ts`, `duration_ms=took`, `slo_ms=deadline` or `count=n`"
        raise UsageError(f"`{assignment}` maps no column.", hint=hint)
    return what, Column(column, UNITS_US[unit or "s"])
