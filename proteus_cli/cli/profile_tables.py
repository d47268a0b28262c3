"""Tables of profiles: accuracy, latency and capacity of variants, cascades, and throughput by number of slots."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table

from proteus_cli.domain.catalog import Catalog, Family
from proteus_cli.domain.profile import Point, Profile, VariantProfile
from proteus_cli.domain.rules import Rules
from proteus_cli.profiling.cascade_options import Option, frontier, options_of, substitute
from proteus_cli.profiling.cascades import FoundCascades
from proteus_cli.profiling.estimate import JobEstimate
from proteus_cli.profiling.slots import points_of_batch
from proteus_cli.reporting.tables import described, number, table, text
from proteus_cli.units import ESTIMATED, UNKNOWN, counted, format_accuracy, format_duration, format_percent

NOISY = "~"


def jobs_table(device: str, found: Sequence[JobEstimate]) -> Table:
    """Cells to measure on a device: a row for each variant, batch sizes in order of use."""
    rows = table(
        text("device"), text("family"), text("variant"), text("batch sizes to measure"), text("past the SLO"),
        text("current"),
    )  # fmt: skip
    for each in found:
        job, batches = each.job, " ".join(str(cell.batch) for cell in each.cells) or UNKNOWN
        useless = " ".join(map(str, each.useless)) or UNKNOWN
        known = len(job.known.points) if job.known is not None else 0
        noisy = f", {len(job.marked)} noisy" if job.marked else ""
        rows.add_row(device, job.family.name, job.variant.name, batches, useless, f"{counted(known, 'cell')}{noisy}")
    return rows


def profile_tables(profiles: Sequence[Profile], catalog: Catalog) -> Iterator[RenderableType]:
    """A table of all measured variants, one of cascades, and of devices with several slots one of their throughput."""
    own = [profile for profile in profiles if profile.measured_on == profile.device.id]
    measured = [variant for profile in own for variant in profile.variants]
    marks = {
        f"{ESTIMATED}: estimated, without labels": any(variant.estimated for variant in measured),
        f"{NOISY}: noisy, so the device may be faster": any(variant.noisy for variant in measured),
    }
    yield described(
        _variants_table(own, catalog),
        "acc.: accuracy · p95 of 1: of a batch of one · at: batch size of the capacity",
        f"{UNKNOWN}: not known, or no batch size is fast enough for the SLO",
        *(note for note, is_there in marks.items() if is_there),
    )
    best = frontier_table(own, catalog)
    if best is not None:
        yield described(
            best,
            "the most accurate way to answer so many queries: by a variant or by a cascade",
            "first → second: a cascade · deferred: the part that the second answers",
            "qps: of one device",
            title="\nWith cascades",
        )
    for profile in own:
        if any(variant.concurrent for variant in profile.variants):
            yield from _slots(profile, catalog)


def _variants_table(profiles: Sequence[Profile], catalog: Catalog) -> Table:
    rows = table(
        text("", "device"), text("", "variant"), number("", "acc."), number("p95", "of 1"), number("capacity", "qps"),
        number("", "at"), number("", "load"),
    )  # fmt: skip
    for profile in profiles:
        for variant in (v for v in profile.variants if v.family in catalog.names and v.points):
            numbers = _numbers(profile, variant, catalog.family(variant.family))
            rows.add_row(profile.device.id, catalog.label(variant.key), *numbers)
    return rows


def _numbers(profile: Profile, variant: VariantProfile, family: Family) -> Iterator[str]:
    one, points = variant.points[0], profile.points_of(variant)
    within = Rules().capacity_within(family.slo_s, points, attainment=family.attainment)
    best = next((point for point in points if point.batch == within.max_batch), None)
    yield format_accuracy(variant.accuracy, estimated=variant.estimated)
    yield _marked(one, format_duration(one.p95_s)) if one.batch == 1 else UNKNOWN
    yield _marked(best, f"{within.qps:,.0f}") if within.qps else UNKNOWN
    yield str(within.max_batch) if within.qps else UNKNOWN
    yield format_duration(variant.load_s) if variant.load_s else UNKNOWN


def _marked(point: Point | None, text: str) -> str:
    return f"{NOISY} {text}" if point is not None and point.noise_frac else text


def _slots(profile: Profile, catalog: Catalog) -> Iterator[RenderableType]:
    """Throughput by the number of batches on a device at once, and what is known only of GPUs."""
    most = max(point.slots for variant in profile.variants for point in variant.concurrent)
    slots = [counted(count, "slot") for count in range(1, most + 1)]
    rows = table(text("variant"), *(number(name) for name in ("batch", "alone", "compute", *slots, "power", "energy")))
    for variant in (each for each in profile.variants if each.family in catalog.names):
        for point in variant.points:
            by_slots = {each.slots: each for each in points_of_batch(variant, point.batch)}
            served = by_slots.get(profile.slots, point)
            rows.add_row(
                catalog.label(variant.key),
                str(point.batch),
                format_duration(point.mean_s),
                UNKNOWN if point.compute_s is None else format_duration(point.compute_s),
                *(f"{by_slots[n].qps:,.0f}" if n in by_slots else UNKNOWN for n in range(1, most + 1)),
                UNKNOWN if served.power_w is None else f"{served.power_w:.0f} W",
                UNKNOWN if served.energy_j is None else f"{served.energy_j:.3g} J",
            )
    yield described(
        rows,
        "alone: mean of one batch at a time, with copies; compute: without them, by the device's clock",
        "1 slot, 2 slots, …: queries per second with so many batches at once · energy: of a query",
        title=f"\n{profile.device.id} is served with {counted(profile.slots, 'slot')}",
    )


# --- cascades


def cascade_lines(profile: Profile, found: dict[str, FoundCascades], catalog: Catalog) -> Iterator[str]:
    """The best cascade of each family, or why there is none."""
    for family, of_family in found.items():
        both = substitute(options_of(catalog.family(family), profile))
        if both is not None:
            alone, cascade = both
            low, high = (cascade.point.low, cascade.point.high) if cascade.point is not None else (0.0, 0.0)
            line = (
                f"cascade {_ways(cascade, catalog)} defers {_deferred(cascade)} and reaches {cascade.accuracy:.4f} "
                f"({low:.3f} to {high:.3f}) at {cascade.qps:,.0f} qps; {_ways(alone, catalog)} alone has "
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
                    _ways(option, catalog),
                    _deferred(option),
                    f"{option.accuracy:.4f}",
                    UNKNOWN if option.point is None else f"{option.point.low:.3f} to {option.point.high:.3f}",
                    f"{option.qps:,.0f}",
                )
    return rows if rows.row_count else None


def _ways(option: Option, catalog: Catalog) -> str:
    return " → ".join(catalog.label(key) for key in option.variants)


def _deferred(option: Option) -> str:
    return UNKNOWN if option.point is None else f"{option.point.deferred_frac:.0%}".replace("%", " %")


# --- multi-exit models


def exit_lines(profile: Profile, catalog: Catalog) -> Iterator[str]:
    """The share of rows of each exit, their accuracy, and the time of the stage before it."""
    for measured in profile.variants:
        if measured.exits and measured.family in catalog.names:
            has_split = catalog.family(measured.family).eval is not None
            yield f"{catalog.label(measured.key)}: {_exit_line(measured, has_split=has_split)}"


def _exit_line(measured: VariantProfile, *, has_split: bool) -> str:
    exits = f"exits 1 to {len(measured.exits)}"
    first = measured.exits[0].points[:1]
    took = (
        f"; stages take {', '.join(format_duration(each.points[0].mean_s) for each in measured.exits)} for a batch of "
        f"{first[0].batch}"
        if first
        else ""
    )
    if measured.exits[0].share is None and has_split:
        return f"{exits}: which rows of the eval split they answer, and how accurately, is still to be measured{took}"
    if measured.exits[0].share is None:
        return f"{exits}, measured with random rows, as there is no eval split: which exit they take says little{took}"
    shares = ", ".join(format_percent(each.share or 0.0) for each in measured.exits)
    accuracies = ", ".join(UNKNOWN if each.accuracy is None else f"{each.accuracy:.4f}" for each in measured.exits)
    return f"{exits} answer {shares} of the rows, with accuracies {accuracies}{took}"
