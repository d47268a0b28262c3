"""The page of a concurrency study; importing this loads matplotlib."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from proteus_cli.studies.pages.section import Picture, Section, StudyTable, colour, legend, picture, results_of
from proteus_cli.studies.results import (
    IN_FLIGHT,
    ConcurrencyConclusion,
    ConcurrencyResult,
    StudiedWay,
    concluded,
)
from proteus_cli.studies.study import Cell, Study
from proteus_cli.units import counted, format_duration, format_percent, format_qps

_HEIGHT_INCHES = 2.6
_AXES: dict[StudiedWay, str] = {
    "thread": "batches in flight", "process": "batches in flight", "emulated": "batches in flight",
    "threads": "threads", "split": "devices of the same cores",
}  # fmt: skip
_NOUNS: dict[StudiedWay, tuple[str, str]] = {
    "thread": ("batch", "batches"), "process": ("batch", "batches"), "emulated": ("batch", "batches"),
    "threads": ("thread", "threads"), "split": ("device", "devices"),
}  # fmt: skip
_SURE = 0.9
_ABOVE = 1.08  # of the highest sample, so that none is cut
_IN_TURNS = (
    "So many batches were kept in flight: as one ended, the next was submitted. The numbers took turns in rounds, in "
    "random order. Devices were opened as a server opens them."
)
_FIT = (
    "The knee is the smallest number whose throughput is within 3 % of the plateau, on a curve that rises and then "
    "falls. Its interval and its confidence are those of 400 resamples of the samples (bootstrap)."
)


def section(study: Study) -> Section:
    """The scatter of each cell with its knee, and what to use."""
    cells = results_of(study, ConcurrencyResult)
    return Section(
        title=f"Concurrency: {study.subject['device']}",
        question="How much at once should this device do? More than the knee only makes each batch take longer.",
        findings=[*_advice(concluded(result for _, result in cells), cells), *(_finding(*each) for each in cells)]
        or ["Nothing was measured yet."],
        how=[_IN_TURNS, _FIT],
        pictures=[_picture(f"{study.name}-{place}", cell.key, result) for place, (cell, result) in enumerate(cells)],
        tables=[_knees(cells), _levels(cells)] if cells else (),
        terms={
            "knee": "The smallest number with the throughput of the plateau.",
            "in flight": "Submitted to the device, and not yet ended: they run, or wait there for a slot.",
            "slot": "One batch at a time on a device; a GPU may have several, a CPU device has one.",
            "batch": "Rows that a model computes at once; ×8 has 8.",
        },
    )


def _advice(conclusion: ConcurrencyConclusion, cells: Sequence[tuple[Cell, ConcurrencyResult]]) -> list[str]:
    found = []
    if conclusion.slots:
        of_profile = max(result.slots for _, result in cells if result.way in IN_FLIGHT)
        known = " (a CPU device has one)" if of_profile == 1 else ""
        found.append(f"Slots to use: {conclusion.slots}{known}.")
    if conclusion.threads:
        cores = cells[0][1].cores
        less = "" if conclusion.threads >= cores else f"; a device of {counted(conclusion.threads, 'core')} is enough"
        found.append(f"Threads to use: {conclusion.threads} of {cores}{less}.")
    if conclusion.devices > 1:
        splits = [result for _, result in cells if result.way == "split"]
        gain = format_percent(min(result.gain(conclusion.devices, 1) for result in splits))
        part = counted(cells[0][1].cores // conclusion.devices, "core")
        found.append(
            f"{conclusion.devices} devices of {part} each carry {gain} more than one of all cores: "
            "`devices` in proteus.toml divides cores."
        )
    return found


def _finding(cell: Cell, result: ConcurrencyResult) -> str:
    knee = result.knee
    between = f"{knee.low} to {knee.high}" if knee.low < knee.high else f"{knee.low}"
    sure = f"({between} in 90 % of the resamples; confidence {format_percent(knee.confidence)})"
    rises = "" if knee.is_seen else ", the largest number that was measured"
    unsure = "" if knee.confidence >= _SURE else "; a longer --budget, with --force, makes that surer"
    return f"{cell.key}: the knee is at {counted(knee.in_flight, *_NOUNS[result.way])}{rises} {sure}{unsure}."


def _knees(cells: Sequence[tuple[Cell, ConcurrencyResult]]) -> StudyTable:
    rows = [
        (
            cell.key,
            cell.mode,
            str(result.best),
            f"{result.knee.low} to {result.knee.high}",
            format_percent(result.knee.confidence),
            format_qps(result.knee.throughput),
            format_percent(result.gain(result.best, result.knee.levels[0].in_flight)),
        )
        for cell, result in cells
    ]
    columns = ("cell", "from", "knee", "90 % interval", "confidence", "plateau (rows/s)", "gain")
    return StudyTable(
        "Knees", columns, rows, note="Gain: of the knee over the smallest number.", of_text=frozenset({"from"})
    )


def _levels(cells: Sequence[tuple[Cell, ConcurrencyResult]]) -> StudyTable:
    rows = [
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
    columns = ("cell", "number", "rows/s", "90 % interval", "time of a batch", "samples")
    return StudyTable("Throughput and time by number", columns, rows)


def _picture(name: str, title: str, result: ConcurrencyResult) -> Picture:
    knee = result.knee

    def draw(axes: Axes) -> None:
        numbers = [level.in_flight for level in knee.levels]
        axes.axvspan(knee.low - 0.15, knee.high + 0.15, color=colour(1), alpha=0.15, linewidth=0)
        axes.axvline(knee.in_flight, color=colour(1), linewidth=1.2, linestyle="--")
        axes.plot(
            [sample.in_flight for sample in result.samples], [sample.throughput for sample in result.samples],
            "o", color=colour(0), markersize=3.5, alpha=0.45, markeredgewidth=0,
        )  # fmt: skip
        axes.plot(numbers, [level.fitted for level in knee.levels], color=colour(0), linewidth=1.6)
        axes.set_ylim(0, _ABOVE * max(*(sample.throughput for sample in result.samples), knee.throughput))
        axes.set_xlabel(_AXES[result.way])
        axes.set_ylabel("rows per second")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        times = axes.twinx()
        times.plot(
            numbers, [level.service_s * 1000 for level in knee.levels], color=colour(2), linewidth=1.2, linestyle=":"
        )
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
