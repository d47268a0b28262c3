"""What cascades are worth on a device, in a line for each family and in a table."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.profile import Profile
from proteus_cli.profiling.cascades.options import Option, frontier, options_of, substitute
from proteus_cli.profiling.cascades.pairs import FoundCascades
from proteus_cli.reporting.tables import number, table, text
from proteus_cli.units import UNKNOWN, counted


def cascade_lines(profile: Profile, found: dict[str, FoundCascades], catalog: Catalog) -> Iterator[str]:
    """What was found of each family, or why nothing was."""
    for family, of_family in found.items():
        both = substitute(options_of(catalog.family(family), profile))
        if both is not None:
            alone, cascade = both
            low, high = (cascade.point.low, cascade.point.high) if cascade.point is not None else (0.0, 0.0)
            line = (
                f"cascade {_name(cascade, catalog)} defers {_deferred(cascade)} and reaches {cascade.accuracy:.4f} "
                f"({low:.3f} to {high:.3f}) at {cascade.qps:,.0f} qps; {_name(alone, catalog)} alone has "
                f"{alone.accuracy:.4f} at {alone.qps:,.0f} qps; {counted(len(of_family.cascades), 'cascade')} in all"
            )
        elif of_family.cascades:
            line = (
                f"{counted(len(of_family.cascades), 'cascade')}, and none within the SLO is better than variants alone"
            )
        else:
            line = "no cascade"
        yield f"{family}: {'; '.join((line, *of_family.why_not))}"


def frontier_table(profiles: Sequence[Profile], catalog: Catalog) -> Table | None:
    """The best ways to answer each family that has cascades: variants and cascades; None where there are none."""
    rows = table(
        text("device"), text("answered by"), number("deferred"), number("acc."), number("95 % interval"), number("qps")
    )
    for profile in profiles:
        for family in (each for each in catalog.families if each.name in {c.family for c in profile.cascades}):
            for option in frontier(options_of(family, profile)):
                rows.add_row(
                    profile.device.id,
                    _name(option, catalog),
                    _deferred(option),
                    f"{option.accuracy:.4f}",
                    UNKNOWN if option.point is None else f"{option.point.low:.3f} to {option.point.high:.3f}",
                    f"{option.qps:,.0f}",
                )
    return rows if rows.row_count else None


def _name(option: Option, catalog: Catalog) -> str:
    return " → ".join(catalog.label(key) for key in option.variants)


def _deferred(option: Option) -> str:
    return UNKNOWN if option.point is None else f"{option.point.deferred_frac:.0%}".replace("%", " %")
