"""The page of a concurrency study; importing this loads matplotlib."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from proteus_cli.studies.concurrency import ConcurrencyResult, Knee, concluded
from proteus_cli.studies.pages.section import Picture, Section, StudyTable, colour, legend, picture, results_of
from proteus_cli.studies.study import Cell, Study
from proteus_cli.units import counted, format_duration, format_percent, format_qps

_HEIGHT_INCHES = 2.6
_SURE = 0.9
_ABOVE = 1.08  # of the highest sample, so that none is cut
_IN_TURNS = (
    "A number of batches was kept in flight: as one ended, the next was submitted. The numbers took turns in rounds, "
    "in random order. Devices were opened as a server opens them."
)
_FIT = (
    "The knee is the smallest number whose throughput is within 3 % of the plateau, on a curve that rises and then "
    "falls. Its interval and its confidence are those of 400 resamples of the samples (bootstrap)."
)


def section(study: Study) -> Section:
    """The scatter of each cell with its knee, and the recommended numbers."""
    cells = results_of(study, ConcurrencyResult)
    return Section(
        title=f"Concurrency: {study.subject['device']}",
        question="How much at once should this device do? More than the knee only makes each batch take longer.",
        findings=_findings(cells) or ["Nothing was measured yet."],
        how=[_IN_TURNS, _FIT],
        pictures=[_picture(f"{study.name}-{place}", cell.key, result) for place, (cell, result) in enumerate(cells)],
        tables=_tables(cells) if cells else (),
        terms={
            "knee": "The smallest number with the throughput of the plateau.",
            "in flight": "Submitted to the device, and not yet ended: they run, or wait there for a slot.",
            "slot": "One batch at a time on a device; a GPU may have several, a CPU device has one.",
            "batch": "Rows that a model computes at once; ×8 has 8.",
        },
    )


def _findings(cells: Sequence[tuple[Cell, ConcurrencyResult]]) -> list[str]:
    if not cells:
        return []
    has_one = " (a CPU device has one)" if max(result.slots for _, result in cells) == 1 else ""
    slots = f"Slots to use: {concluded(result for _, result in cells).slots}{has_one}."
    return [slots, *(_finding(cell.key, result) for cell, result in cells)]


def _finding(key: str, result: ConcurrencyResult) -> str:
    knee = result.knee
    between = f"{knee.low} to {knee.high}" if knee.low < knee.high else f"{knee.low}"
    sure = f"({between} in 90 % of the resamples; confidence {format_percent(knee.confidence)})"
    rises = "" if knee.is_seen else ", the largest number that was measured"
    unsure = "" if knee.confidence >= _SURE else "; a longer --budget, with --force, makes that surer"
    return f"{key}: the knee is at {counted(knee.in_flight, 'batch', 'batches')}{rises} {sure}{unsure}."


def _gain(knee: Knee) -> str:
    """The gain in throughput of the knee over the smallest number."""
    by_number = {level.in_flight: level.throughput for level in knee.levels}
    least = knee.levels[0].throughput
    return format_percent(by_number[knee.in_flight] / least - 1 if least else 0.0)


def _tables(cells: Sequence[tuple[Cell, ConcurrencyResult]]) -> list[StudyTable]:
    knees = [
        (
            cell.key,
            cell.mode,
            str(result.knee.in_flight),
            f"{result.knee.low} to {result.knee.high}",
            format_percent(result.knee.confidence),
            format_qps(result.knee.throughput),
            _gain(result.knee),
        )
        for cell, result in cells
    ]
    levels = [
        (
            cell.key,
            str(level.in_flight),
            format_qps(level.throughput),
            f"{format_qps(level.low)} to {format_qps(level.high)}",
            format_duration(level.service_s),
            str(level.samples),
        )
        for cell, result in cells
        for level in result.knee.levels
    ]
    return [
        StudyTable(
            "Knees",
            ("cell", "from", "knee", "90 % interval", "confidence", "plateau (rows/s)", "gain"),
            knees,
            note="Gain: of the knee over the smallest number.",
            of_text=frozenset({"from"}),
        ),
        StudyTable(
            "Throughput and time by number",
            ("cell", "number", "rows/s", "90 % interval", "time of a batch", "samples"),
            levels,
        ),
    ]


def _picture(name: str, title: str, result: ConcurrencyResult) -> Picture:
    knee, (numbers, rates) = result.knee, zip(*((s.in_flight, s.throughput) for s in result.samples), strict=True)
    levels = [level.in_flight for level in knee.levels]

    def draw(axes: Axes) -> None:
        axes.axvspan(knee.low - 0.15, knee.high + 0.15, color=colour(1), alpha=0.15, linewidth=0)
        axes.axvline(knee.in_flight, color=colour(1), linewidth=1.2, linestyle="--")
        axes.plot(numbers, rates, "o", color=colour(0), markersize=3.5, alpha=0.45, markeredgewidth=0)
        axes.plot(levels, [level.fitted for level in knee.levels], color=colour(0), linewidth=1.6)
        axes.set_ylim(0, _ABOVE * max(*rates, knee.throughput))
        axes.set_xlabel("batches in flight")
        axes.set_ylabel("rows per second")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        times = axes.twinx()
        times_ms = [level.service_s * 1000 for level in knee.levels]
        times.plot(levels, times_ms, color=colour(2), linewidth=1.2, linestyle=":")
        times.set_ylim(bottom=0)
        times.set_ylabel("time of a batch (ms)")
        times.grid(visible=False)
        times.tick_params(length=0)  # without a line of the axis, ticks look like minus signs

    return picture(
        name,
        title,
        "Dots: samples. Line: the fitted throughput. Dashed: the knee, with its interval. Dotted: the time of a batch.",
        draw,
        height_inches=_HEIGHT_INCHES,
        keys=legend(("throughput", "knee", "time of a batch")),
    )
